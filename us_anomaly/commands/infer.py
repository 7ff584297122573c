"""`usad infer`: maps, heatmaps and decisions for the data set, or for any file, folder or glob."""

import itertools
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from torch import Tensor

from us_anomaly.commands.calibrate import build_detector, load_calibration
from us_anomaly.commands.recipes import Recipes, flat
from us_anomaly.commands.stage import make, read_split
from us_anomaly.data.images import read_image
from us_anomaly.data.sources import find_images
from us_anomaly.detector import Detector, Prediction
from us_anomaly.errors import BadImageError
from us_anomaly.reporting.heatmaps import write_heatmap
from us_anomaly.reporting.progress import progress
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_text
from us_anomaly.run_dir.provenance import Recipe, content_hash
from us_anomaly.run_dir.provenance import record as note_down
from us_anomaly.run_dir.staging import publish, staged
from us_anomaly.scoring.map_files import write_map
from us_anomaly.settings import InferenceSettings, OnBadImage, Settings

log = logging.getLogger(__name__)

MAX_WAITING_WRITES = 16
PATH_KEYS = ("heatmap_path", "uncertainty_path", "map_path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image to score."""

    path: Path
    name: str
    """Relative name, under which the results are filed."""
    is_anomalous: bool | None
    """The label, if there is one."""


def run(settings: Settings) -> None:
    """Score the data set, or `inference.input`, and write the results."""
    run_dir = RunDir(settings.run_dir)
    if settings.inference.input is not None:
        score_input(settings, settings.inference.input)
        return
    recipe = Recipes(settings).predictions
    root = Path(settings.data.root).expanduser()
    samples = [sample for sample in read_split(run_dir) if sample.split in settings.inference.splits]
    pictures = [
        Picture(path=root / sample.filename, name=sample.filename, is_anomalous=sample.is_anomalous)
        for sample in samples
    ]

    def build() -> None:
        records = score(settings, pictures, run_dir)
        wrong = sum(not record["correct"] for record in records)
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"Scored {len(records)} pictures: {len(records) - wrong} decided correctly, {wrong} wrongly")
        console.print(f"Predictions: {run_dir.predictions}")
        if settings.inference.save_heatmaps:
            console.print(f"Heatmaps: {run_dir.heatmaps}")
        console.print("Next: usad evaluate, with the same settings")

    make(
        run_dir.predictions,
        recipe,
        build,
        settings=settings,
        is_precious=False,
        companions=lambda: _written_files(run_dir),
        anew=settings.overwrite,  # maps of the right size that hold nonsense are not noticed: this makes them again
    )


def _written_files(run_dir: RunDir) -> Iterator[Path]:
    """Yield the files that `predictions.jsonl` names."""
    for line in run_dir.predictions.read_text(encoding="utf-8").splitlines():
        prediction = json.loads(line)["prediction"]
        for key in PATH_KEYS:
            if prediction[key] is not None:
                yield run_dir.root / prediction[key]


def score_input(settings: Settings, what: str) -> None:
    """Score a file, a folder or a glob; results go to a folder of their own in the run directory."""
    Recipes(settings).predictions  # noqa: B018 (refuses a detector that is not the one in force)
    paths = find_images(what)
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    pictures = [
        Picture(path=path, name=path.absolute().relative_to(base).as_posix(), is_anomalous=None) for path in paths
    ]
    run_dir = RunDir(settings.run_dir)
    target = RunDir(run_dir.inputs / _result_name(what))
    started = time.monotonic()
    records = score(settings, pictures, target)
    recipe = Recipe(
        command="infer",
        settings={**flat("inference", settings.inference, without=("splits",)), "input": [str(path) for path in paths]},
        inputs={run_dir.name_of(run_dir.calibration): content_hash(run_dir.calibration)},
    )
    note_down(
        target,
        target.predictions,
        recipe,
        seconds=time.monotonic() - started,
        files=_written_files(target),
        runtime=flat("runtime", settings.runtime),
    )
    console = Console(highlight=False, soft_wrap=True)
    for record in records[:20]:
        prediction = record["prediction"]
        verdict = "anomalous" if prediction["is_anomalous"] else "normal"
        console.print(f"{record['filename']}: {verdict}, score {prediction['anomaly_score']:.4g}")
    if len(records) > 20:
        console.print(f"and {len(records) - 20} more")
    console.print(f"Predictions: {target.predictions}")


def _result_name(what: str) -> str:
    """Return the name of the folder for the results of a file, a folder or a glob."""
    path = Path(what).expanduser()
    if path.exists():
        path = path.resolve()  # `..` and `.` are no names
    return re.sub(r"[^\w.-]+", "", path.stem).strip(".") or "pictures"


def score(settings: Settings, pictures: Sequence[Picture], target: RunDir) -> list[dict[str, Any]]:
    """Score pictures; put maps, heatmaps and `predictions.jsonl`, which vouches for them, into place when all are written.

    Reading, computing and writing overlap. Results that are there stay there until then.
    """
    detector = build_detector(settings, load_calibration(settings))
    with staged(target) as staging:
        records = _score_into(staging, settings, detector, pictures)
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        write_text(staging.predictions, text)
        publish(staging, target)
    return records


def _score_into(
    staging: RunDir, settings: Settings, detector: Detector, pictures: Sequence[Picture]
) -> list[dict[str, Any]]:
    """Write maps and heatmaps of all pictures; return their records."""
    stems = _unique_stems([picture.name for picture in pictures])
    records = []
    with (
        progress("scoring", len(pictures), enabled=settings.runtime.progress) as on_step,
        ThreadPoolExecutor(max_workers=max(1, settings.runtime.num_workers)) as writers,
    ):
        waiting: list[Future[None]] = []
        for done, (picture, pixels, network_input) in enumerate(_inputs(settings, detector, pictures), start=1):
            height, width = pixels.shape[:2]
            prediction = detector.predict_input(network_input, height=height, width=width)
            files = _result_files(staging, stems[picture.name], settings.inference)
            waiting.append(writers.submit(_write, files, prediction, detector))
            records.append(_record(picture, prediction, files, staging))
            if len(waiting) > MAX_WAITING_WRITES:
                waiting.pop(0).result()
            on_step(done, {})
        for future in waiting:
            future.result()
    return records


def _inputs(
    settings: Settings, detector: Detector, pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, npt.NDArray[np.uint8], Tensor]]:
    """Yield pictures in order, decoded and prepared ahead by threads; bad ones are skipped or raise, as the data's are."""

    def prepare(picture: Picture) -> tuple[npt.NDArray[np.uint8], Tensor]:
        pixels = read_image(picture.path, max_pixels=settings.data.max_image_pixels)
        return pixels, detector.pipeline(pixels)

    ahead = max(1, settings.runtime.num_workers)
    with ThreadPoolExecutor(max_workers=ahead) as readers:
        waiting: list[tuple[Picture, Future[Any]]] = []
        for picture in [*pictures, *([None] * ahead)]:
            if picture is not None:
                waiting.append((picture, readers.submit(prepare, picture)))
            if waiting and (picture is None or len(waiting) > ahead):
                first, future = waiting.pop(0)
                try:
                    pixels, network_input = future.result()
                except BadImageError as error:
                    if settings.data.on_bad_image is OnBadImage.error:
                        raise
                    log.warning("left out: %s", error)
                    continue
                yield first, pixels, network_input


def _unique_stems(names: Sequence[str]) -> dict[str, str]:
    """Return for each name the name of its results without suffix: `a.png` and `a.jpg` keep apart."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        inside = "/".join(part for part in PurePosixPath(name).parts if part not in ("/", ".."))
        stem = PurePosixPath(inside).with_suffix("").as_posix()
        candidates = itertools.chain((stem, inside), (f"{inside}-{number}" for number in itertools.count(2)))
        stems[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(stems[name])
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
