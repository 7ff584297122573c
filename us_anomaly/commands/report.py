"""`usad report`: static pages that show the data, the decisions and the doubt."""

from pathlib import Path
from typing import Any

from us_anomaly.commands.evaluate import pixel_source
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.shown_settings import by_group
from us_anomaly.commands.stage import make, read_split
from us_anomaly.data.sample import Sample, of_split
from us_anomaly.reporting.pages.files import ReportFiles
from us_anomaly.reporting.pages.site import write_report
from us_anomaly.reporting.pages.source import ReportSource
from us_anomaly.reporting.progress import progress
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import withdraw
from us_anomaly.scoring.calibration_file import load_calibration
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.evaluation_file import read_evaluation
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.scored_images import parse_predictions, scored_images
from us_anomaly.settings import Settings, category_of


def run(settings: Settings) -> None:
    """Write the pages of the run directory.

    Raises:
        UsadError: A result is missing or stale, or no image can be read.
    """
    run_dir = RunDir(settings.run_dir)
    recipe = Recipes(settings).report
    files = ReportFiles(run_dir.report)
    index = files.index

    def build() -> None:
        source = read_source(settings)
        total = len(source.samples) + len(source.predictions) + (len(source.pixels.images) if source.pixels else 0)
        withdraw(run_dir, index)
        with progress("drawing the report", total, enabled=settings.runtime.progress) as on_step:
            write_report(source, on_picture=lambda done: on_step(done, {}))

    make(
        index,
        recipe,
        build,
        settings=settings,
        is_precious=False,
        companions=lambda: files.vouched_for,
        anew=settings.overwrite,
    )
    written = [("report", index)]
    show_summary(Summary(command="report", facts=[("open", index.resolve().as_uri())], written=written))


def read_source(settings: Settings) -> ReportSource:
    """Read what the pages show."""
    run_dir = RunDir(settings.run_dir)
    samples = read_split(run_dir)
    predictions = parse_predictions(run_dir.predictions.read_text(encoding="utf-8"))
    evaluation = read_evaluation(run_dir.evaluation_json)
    calibration = load_calibration(run_dir.calibration)
    category = category_of(settings.data)
    return ReportSource(
        run_dir=run_dir,
        data_root=Path(settings.data.root),
        data_name=settings.data.name + (f" · {category}" if category else ""),
        samples=samples,
        predictions=predictions,
        evaluation=evaluation,
        calibration=calibration,
        configuration=by_group(settings),
        scales=settings.scales,
        pixels=_pixels(settings, samples, predictions, threshold=calibration.image_threshold),
        max_image_pixels=settings.data.max_image_pixels,
        white_level=settings.data.white_level,
        num_workers=settings.runtime.num_workers,
    )


def _pixels(
    settings: Settings, samples: list[Sample], predictions: list[dict[str, Any]], *, threshold: float
) -> PixelSource | None:
    """Return maps and masks of the test images; None where there are no masks or maps."""
    problems = DataProblems()
    images = scored_images(predictions, of_split(samples, "test"), deployed_threshold=threshold, problems=problems)
    has_both = any(image.mask_path for image in images) and all(image.map_path for image in images)
    return pixel_source(images, settings, problems) if has_both else None
