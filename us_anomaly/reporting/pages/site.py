"""Write the report of a run directory: pictures, data, style and scripts, and last the pages."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from us_anomaly.errors import DataError
from us_anomaly.reporting.color_scale import map_gradient
from us_anomaly.reporting.pages.drawing import Artist, DrawnImage, DrawnPrediction, in_threads
from us_anomaly.reporting.pages.files import ReportFiles
from us_anomaly.reporting.pages.overview import overview
from us_anomaly.reporting.pages.records import images_script, predictions_script
from us_anomaly.reporting.pages.source import ReportSource
from us_anomaly.reporting.progress import Watched
from us_anomaly.run_dir.atomic import write_bytes, write_text
from us_anomaly.version import __version__

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = Path(__file__).parent / "assets"
PAGES = ("dataset.html", "evaluation.html", "index.html")
"""In the order of writing: the one that vouches for the rest comes last."""

OnPicture = Callable[[int], None]


def write_report(source: ReportSource, *, on_picture: OnPicture) -> Path:
    """Write the report and return the page to open.

    Args:
        source: What it shows.
        on_picture: Called with the number of images and predictions drawn, and maps read, so far.

    Raises:
        DataError: None of the images can be read.
        ResourceError: The folder cannot be written.
    """
    files = ReportFiles(source.run_dir.report)
    files.index.unlink(missing_ok=True)
    done = itertools.count(1)

    def note() -> None:
        on_picture(next(done))

    images, predictions, used = _draw(source, note)
    _refuse_without_images(source, images)
    write_text(files.data / "images.js", images_script(source, images))
    write_text(files.data / "predictions.js", predictions_script(source, predictions))
    for asset in sorted(ASSETS.iterdir()):
        write_bytes(files.assets / asset.name, asset.read_bytes())
    context = _context(_watched(source, note))
    environment = _environment()
    for page in PAGES:
        write_text(files.root / page, environment.get_template(page).render(context | {"page": page}))
    used.remove_unused()
    return files.index


def _draw(source: ReportSource, note: Callable[[], None]) -> tuple[list[DrawnImage], list[DrawnPrediction], Artist]:
    artist = Artist(source)
    workers = source.num_workers
    images = list(in_threads(artist.draw_image, source.samples, num_workers=workers, on_done=note))
    records = [record["prediction"] for record in source.predictions]
    predictions = list(in_threads(artist.draw_prediction, records, num_workers=workers, on_done=note))
    return images, predictions, artist


def _watched(source: ReportSource, note: Callable[[], None]) -> ReportSource:
    """Return the source with maps that tell when each was read."""
    if source.pixels is None:
        return source
    images = Watched(source.pixels.images, lambda done: note())
    return dataclasses.replace(source, pixels=dataclasses.replace(source.pixels, images=images))


def _refuse_without_images(source: ReportSource, images: list[DrawnImage]) -> None:
    if images and all(image.image is None for image in images):
        raise DataError(
            f"none of the {len(images)} images of the split can be read below {source.data_root}: the report shows them, so "
            "put the data set back there, or give its new place with data.root="
        )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _context(source: ReportSource) -> dict[str, Any]:
    return {
        "data_name": source.data_name,
        "data_root": source.data_root,
        "run_name": source.run_dir.root.resolve().name,
        "version": __version__,
        "made_at": time.strftime("%Y-%m-%d %H:%M"),
        "num_images": len(source.samples),
        "num_predictions": len(source.predictions),
        "map_colors": map_gradient(),
        **overview(source),
    }
