"""Results of scored pictures: maps, heatmaps, records and exports, written aside and published as a whole."""

import itertools
import json
import logging
import posixpath
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from us_anomaly.data.images import read_image, read_mask
from us_anomaly.data.listing import some
from us_anomaly.data.read_ahead import read_ahead
from us_anomaly.detector import Detector, Prediction
from us_anomaly.errors import BadImageError, DataError
from us_anomaly.reporting.heatmaps import colorize, write_heatmap
from us_anomaly.reporting.panel import Decision, panel, reduction, write_panel
from us_anomaly.reporting.predictions_table import predictions_csv
from us_anomaly.reporting.progress import progress
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_text
from us_anomaly.run_dir.faults import cannot_write
from us_anomaly.run_dir.staging import publish, staged, writing_threads
from us_anomaly.scoring.map_files import write_map
from us_anomaly.scoring.regions import CocoWriter, Region, strongest_regions
from us_anomaly.settings import InferenceSettings, OnBadImage, Settings

log = logging.getLogger(__name__)

MAX_WAITING_WRITES = 16
LARGE_PIXELS = 16 * 1024**2
"""The results of a picture of more pixels are written one after another, before the next one is scored."""
NUM_EXPLAINED_REGIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image to score."""

    path: Path
    name: str
    """Relative name, under which the results are filed."""
    is_anomalous: bool | None
    """The label, if there is one."""
    mask: Path | None = None
    """The mask, if the picture is one of the data set and has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What came of the pictures."""

    unreadable: list[str] = field(default_factory=list)
    """What is wrong with the pictures that have no result."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """Lines of `predictions.jsonl`."""
    strongest: list[list[Region]] = field(default_factory=list)
    """The strongest regions above the pixel threshold of each picture that is anomalous, and none of the others."""


def score(
    settings: Settings, detector: Detector, pictures: Sequence[Picture], target: RunDir, *, explain: bool = False
) -> Scored:
    """Score pictures; put maps, heatmaps and `predictions.jsonl`, which vouches for them, into place when all are written.

    Args:
        settings: Everything.
        detector: What scores them, calibrated.
        pictures: What to score.
        target: Where the results go.
        explain: Also write a panel of each picture: image, heatmap with the strongest regions if it is anomalous, uncertainty,
            known mask.

    Reading, computing and writing overlap. Results that are there stay there until then. With `explain`, pictures that cannot be
    read, or have a size that the detector does not take, are left out and told by what is returned; without it, or where they
    are all, they end the work.

    Raises:
        BadImageError: A picture cannot be read, and `data.on_bad_image` does not skip it.
        DataError: A picture has a size that the detector does not take, or none has a result.
    """
    with staged(target) as staging:
        scored = _score_into(staging, settings, detector, pictures, explain=explain)
        if not scored.records and scored.unreadable:
            raise DataError(f"nothing was scored: {some(scored.unreadable)}")
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in scored.records)
        write_text(staging.predictions, text)
        write_text(
            staging.predictions_csv,
            predictions_csv(scored.records, threshold=detector.require_calibration().image_threshold),
        )
        publish(staging, target)
    return scored


def _score_into(
    staging: RunDir, settings: Settings, detector: Detector, pictures: Sequence[Picture], *, explain: bool
) -> Scored:
    """Write maps, heatmaps and regions of all pictures; return their records."""
    stems = _unique_stems([picture.name for picture in pictures])
    threshold = detector.require_calibration().pixel_threshold
    scored = Scored()
    with (
        _coco_file(staging.regions) as add_regions,
        progress("scoring", len(pictures), enabled=settings.runtime.progress) as on_step,
        writing_threads(max(1, settings.runtime.num_workers)) as write_in_thread,
    ):
        waiting: list[Future[None]] = []

        def submit(write: Callable[..., None], *arguments: Any, most: int) -> None:
            waiting.append(write_in_thread(write, *arguments))
            while len(waiting) > most:
                waiting.pop(0).result()

        tolerated = (DataError,) if explain else (BadImageError,) if _skips(settings) else ()
        for picture, pixels, prediction in _predictions(settings, detector, pictures, scored.unreadable, tolerated):
            height, width = pixels.shape[:2]
            most = 0 if height * width > LARGE_PIXELS else MAX_WAITING_WRITES
            regions = strongest_regions(prediction.anomaly_map, threshold)
            files = _result_files(staging, stems[picture.name], settings.inference)
            submit(_write, files, prediction, detector, most=most)
            strongest = regions[:NUM_EXPLAINED_REGIONS] if prediction.is_anomalous else []
            if explain:
                path = staging.panels / f"{stems[picture.name]}.png"
                submit(_write_panel, path, pixels, prediction, strongest, detector, picture.mask, most=most)
            scored.records.append(_record(picture, prediction, files, staging))
            scored.strongest.append(strongest)
            add_regions(picture.name, (height, width), regions)
            on_step(len(scored.records) + len(scored.unreadable), {})
        for future in waiting:
            future.result()
    return scored


@contextmanager
def _coco_file(path: Path) -> Iterator[Callable[..., None]]:
    """Yield what adds the regions of a picture, as `CocoWriter.add`, to a file below the folder of a staging.

    Raises:
        ResourceError: It cannot be written.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", newline="\n")
    try:
        with _writing(path):
            writer = CocoWriter(file, description="regions at or above the pixel threshold")
        yield _writing(path)(writer.add)
        with _writing(path):
            writer.finish()
            file.close()
    finally:
        with suppress(OSError):  # of what else failed is told
            file.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _skips(settings: Settings) -> bool:
    return settings.data.on_bad_image is OnBadImage.skip


def _predictions(
    settings: Settings,
    detector: Detector,
    pictures: Sequence[Picture],
    unreadable: list[str],
    tolerated: tuple[type[DataError], ...],
) -> Iterator[tuple[Picture, npt.NDArray[np.uint8], Prediction]]:
    """Yield pictures in order, decoded and prepared ahead by threads, and what the detector says about each.

    What is wrong with a picture goes to `unreadable` where it is of a tolerated kind, or is raised.
    """

    def prepare(path: Path) -> tuple[npt.NDArray[np.uint8], Tensor]:
        pixels = read_image(path, max_pixels=settings.data.max_image_pixels, white_level=settings.data.white_level)
        with _named(path):
            return pixels, detector.pipeline.prefix(pixels)

    futures = read_ahead(
        [picture.path for picture in pictures],
        prepare,
        num_threads=max(1, settings.runtime.num_workers),
        max_pixels=settings.data.max_image_pixels,
    )
    for picture, future in zip(pictures, futures, strict=True):
        try:
            pixels, prepared = future.result()
            with _named(picture.path):
                prediction = detector.predict_prepared(prepared, height=pixels.shape[0], width=pixels.shape[1])
        except tolerated as error:
            unreadable.append(str(error))
            if _skips(settings):
                log.warning("left out: %s", error)
            continue
        handed_over = [(picture, pixels, prediction)]
        del future, pixels, prepared, prediction  # large ones would stay as long as this generator
        yield handed_over.pop()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say of which picture something is told that knows none."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _unique_stems(names: Sequence[str]) -> dict[str, str]:
    """Return for each name the name of its results without suffix: `a.png` and `a.jpg` keep apart, and `a.png` and `A.png`.

    Some file systems take the latter for one.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        inside = "/".join(part for part in PurePosixPath(name).parts if part.strip("/") not in ("", "..")) or "picture"
        stem = posixpath.splitext(inside)[0]
        candidates = itertools.chain((stem, inside), (f"{inside}-{number}" for number in itertools.count(2)))
        stems[name] = next(candidate for candidate in candidates if candidate.casefold() not in taken)
        taken.add(stems[name].casefold())
    return stems


def _result_files(target: RunDir, stem: str, inference: InferenceSettings) -> dict[str, Path | None]:
    """Return where the results of one picture go, by the key of the record; None for what is not wanted."""
    return {
        "heatmap_path": target.heatmaps / f"{stem}.png" if inference.save_heatmaps else None,
        "uncertainty_path": target.uncertainty / f"{stem}.png" if inference.save_uncertainty else None,
        "map_path": target.maps / f"{stem}.tiff" if inference.save_maps else None,
    }


def _write(files: dict[str, Path | None], prediction: Prediction, detector: Detector) -> None:
    calibration = detector.require_calibration()
    if (path := files["map_path"]) is not None:
        write_map(path, prediction.anomaly_map)
    if (path := files["heatmap_path"]) is not None:
        write_heatmap(path, prediction.anomaly_map, color_range=calibration.color_range)
    if (path := files["uncertainty_path"]) is not None:
        write_heatmap(path, prediction.uncertainty_map, color_range=calibration.uncertainty_color_range)


def _write_panel(
    path: Path,
    pixels: npt.NDArray[np.uint8],
    prediction: Prediction,
    regions: Sequence[Region],
    detector: Detector,
    mask_path: Path | None,
) -> None:
    try:
        mask = None if mask_path is None else read_mask(mask_path, max_pixels=detector.max_image_pixels)
    except BadImageError as error:
        log.warning("the panel of %s is drawn without its mask: %s", path.stem, error)
        mask = None
    calibration = detector.require_calibration()
    factor = reduction(*pixels.shape[:2])
    picture = panel(
        pixels,
        heatmap=colorize(prediction.anomaly_map, color_range=calibration.color_range, reduction=factor),
        uncertainty=colorize(
            prediction.uncertainty_map, color_range=calibration.uncertainty_color_range, reduction=factor
        ),
        mask=mask if mask is not None and mask.shape == pixels.shape[:2] else None,
        regions=regions,
        decision=Decision(
            is_anomalous=prediction.is_anomalous,
            score=prediction.anomaly_score,
            threshold=calibration.image_threshold,
        ),
    )
    write_panel(path, picture)


def _record(picture: Picture, prediction: Prediction, files: dict[str, Path | None], target: RunDir) -> dict[str, Any]:
    """Return the line of `predictions.jsonl` for one picture; paths are relative to the file."""
    record: dict[str, Any] = {"filename": picture.name}
    if picture.is_anomalous is not None:
        record["ground_truth"] = {"type": "anomaly", "is_anomalous": picture.is_anomalous}
    record["prediction"] = {
        "is_anomalous": prediction.is_anomalous,
        "anomaly_score": prediction.anomaly_score,
        "normalized_score": prediction.normalized_score,
        **{key: None if path is None else path.relative_to(target.root).as_posix() for key, path in files.items()},
    }
    if picture.is_anomalous is not None:
        record["correct"] = prediction.is_anomalous == picture.is_anomalous
    return record
