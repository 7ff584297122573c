"""`usad infer`: maps, heatmaps and decisions for the data set, or for any file, folder or glob."""

import glob
import itertools
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from us_anomaly.commands.detectors import build_detector
from us_anomaly.commands.output_folder import note_input
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.results import Picture, Scored, score
from us_anomaly.commands.stage import make, read_split
from us_anomaly.data.listing import exists, some
from us_anomaly.data.sources import find_inputs
from us_anomaly.detector import Detector
from us_anomaly.errors import DataError, StaleArtifactError
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.provenance import Recipe
from us_anomaly.run_dir.provenance import record as note_down
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.calibration_file import load_calibration
from us_anomaly.scoring.scored_images import parse_predictions
from us_anomaly.settings import OnBadImage, Settings
from us_anomaly.settings.plain import flat

MAX_EXPLAINED = 20


def run(settings: Settings) -> None:
    """Score the data set, or `inference.input`, and write the results."""
    run_dir = RunDir(settings.run_dir)
    if settings.inference.input is not None:
        score_input(settings, settings.inference.input)
        return
    recipe = Recipes(settings).predictions
    root = Path(settings.data.root)
    samples = [sample for sample in read_split(run_dir) if sample.split in settings.inference.splits]
    pictures = [
        Picture(path=root / sample.filename, name=sample.filename, is_anomalous=sample.is_anomalous)
        for sample in samples
    ]

    def build() -> None:
        detector = build_detector(settings, load_calibration(run_dir.calibration))
        score(settings, detector, pictures, run_dir)

    make(
        run_dir.predictions,
        recipe,
        build,
        settings=settings,
        is_precious=False,
        companions=lambda: run_dir.result_files,
        anew=settings.overwrite,  # maps of the right size that hold nonsense are not noticed: this makes them again
    )
    _summarize(run_dir)


def _summarize(run_dir: RunDir) -> None:
    records = parse_predictions(run_dir.predictions.read_text(encoding="utf-8"))
    wrong = sum(not record["correct"] for record in records)
    written = [
        ("predictions", run_dir.predictions),
        ("heatmaps", run_dir.heatmaps),
        ("uncertainty", run_dir.uncertainty),
        ("maps", run_dir.maps),
    ]
    facts = [("pictures", f"{len(records)}: {len(records) - wrong} decided correctly, {wrong} wrongly")]
    show_summary(Summary(command="infer", facts=facts, written=written, next_command="evaluate"))


def score_input(settings: Settings, what: str) -> None:
    """Score a file, a folder or a glob; results go to `inference.output`, or to a folder of their own in the run directory."""
    detector, calibrated = _checked_detector(settings)
    paths = find_inputs(what)
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    run_dir = RunDir(settings.run_dir)
    masks = _known_masks(settings, run_dir)
    pictures = [
        Picture(
            path=path,
            name=path.absolute().relative_to(base).as_posix(),
            is_anomalous=None,
            mask=masks.get(os.path.realpath(path)),
        )
        for path in paths
    ]
    source, output = _absolute(what), settings.inference.output
    target = _results_of(run_dir, source) if output is None else RunDir(output)
    if output is not None:  # first of all: whatever happens, the next call knows the folder again
        note_input(target, what)
    started = time.monotonic()
    scored = score(settings, detector, pictures, target, explain=True)
    recipe = Recipe(
        command="infer",
        settings={
            **flat("inference", settings.inference, without=("splits", "output")),
            "inference.input": str(source),
            "input": [str(path) for path in paths],
        },
        inputs=calibrated,
    )
    note_down(
        target,
        target.predictions,
        recipe,
        seconds=time.monotonic() - started,
        files=target.result_files,
        runtime=flat("runtime", settings.runtime),
    )
    _explain(scored, detector.require_calibration(), target)
    if scored.unreadable and settings.data.on_bad_image is OnBadImage.error:
        raise DataError(
            f"{len(scored.unreadable)} of {len(paths)} pictures have no result, the others have one: "
            f"{some(scored.unreadable)}. Repair or remove them, or leave them out with data.on_bad_image=skip"
        )


def _checked_detector(settings: Settings) -> tuple[Detector, dict[str, str]]:
    """Return the detector in force, and the hash of its calibration by the name of the file.

    The lock of the run directory may be another one's: what is read is what was checked, or there is an error.

    Raises:
        StaleArtifactError: It is not the one in force, or was made anew just now.
    """
    calibration = RunDir(settings.run_dir).calibration
    name = RunDir(settings.run_dir).name_of(calibration)
    before = Recipes(settings, with_data=False).predictions.inputs[name]
    detector = build_detector(settings, load_calibration(calibration))
    if Recipes(settings, with_data=False).predictions.inputs[name] != before:
        raise StaleArtifactError(f"{settings.run_dir} was calibrated anew just now: run the same command again")
    return detector, {name: before}


def _known_masks(settings: Settings, run_dir: RunDir) -> dict[str, Path]:
    """Return the masks of the data set by picture, so that a panel can show the truth; none where the data set is gone."""
    root = Path(settings.data.root)
    if not run_dir.split.exists() or not root.is_dir():
        return {}
    masks = {
        os.path.realpath(root / sample.filename): root / sample.mask_path
        for sample in read_split(run_dir)
        if sample.mask_path is not None
    }
    return {picture: mask for picture, mask in masks.items() if mask.exists()}


def _explain(scored: Scored, calibration: Calibration, target: RunDir) -> None:
    """Print decision, score and threshold of the first pictures, the most anomalous before all, and how many are anomalous.

    Of anomalous ones, the strongest regions are told too.
    """
    console = Console(highlight=False, soft_wrap=True)
    pictures = sorted(
        zip(scored.records, scored.strongest, strict=True), key=lambda picture: _most_anomalous(picture[0])
    )
    for record, strongest in pictures[:MAX_EXPLAINED]:
        prediction = record["prediction"]
        verdict = "ANOMALOUS" if prediction["is_anomalous"] else "normal"
        console.print(
            f"{record['filename']}: {verdict}, score {prediction['anomaly_score']:.4g} "
            f"(threshold {calibration.image_threshold:.4g}), normalised {prediction['normalized_score']:.2f}",
            markup=False,
        )
        for number, region in enumerate(strongest, start=1):
            console.print(
                f"  region {number}: peak {region.peak_score:.4g} at x={region.peak_x}, y={region.peak_y}; box x={region.left}, "
                f"y={region.top}, {region.width}x{region.height} px; {region.area_px} px above the pixel threshold "
                f"({calibration.pixel_threshold:.4g})"
            )
    verdicts = [bool(record["prediction"]["is_anomalous"]) for record, _ in pictures]
    if num_more := len(verdicts[MAX_EXPLAINED:]):
        num_anomalous = sum(verdicts[MAX_EXPLAINED:])
        console.print(f"and {num_more} more" + (f", {num_anomalous} of them anomalous" if num_anomalous else ""))
    console.print(f"Predictions: {target.predictions}", markup=False)
    console.print(f"Panels: {target.panels}", markup=False)
    console.print(_total(verdicts))


def _most_anomalous(record: dict[str, Any]) -> tuple[bool, float]:
    """Return by what records are sorted so that anomalous ones come first, and the highest score first of each kind."""
    prediction = record["prediction"]
    return not prediction["is_anomalous"], -prediction["anomaly_score"]


def _total(verdicts: Sequence[bool]) -> str:
    """Say how many pictures are anomalous."""
    if len(verdicts) == 1:
        return f"the picture is {'anomalous' if verdicts[0] else 'normal'}"
    return f"{sum(verdicts)} of {len(verdicts)} pictures {'is' if sum(verdicts) == 1 else 'are'} anomalous"


def _absolute(what: str) -> Path:
    """Return a file, a folder or a glob as a path that means the same from every folder."""
    path = Path(what)
    return Path(os.path.realpath(path)) if exists(path) else path.absolute()


def _results_of(run_dir: RunDir, source: Path) -> RunDir:
    """Return where the results of a file, a folder or a glob go: never where those of another one lie."""
    name = _result_name(source)
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(target for target in (RunDir(run_dir.inputs / one) for one in names) if _is_free_for(source, target))


def _is_free_for(source: Path, target: RunDir) -> bool:
    note = target.provenance(target.predictions)
    if not note.exists():
        return True
    match read_json(note):
        case {"settings": {"inference.input": named}}:
            return bool(named == str(source))
    return False


def _result_name(source: Path) -> str:
    """Return a name for the results: of the file, of the folder, or of the folder in which a glob looks."""
    parts = [part for part in source.parts if not glob.has_magic(part) or exists(source)]
    return re.sub(r"[^\w.-]+", "", Path(parts[-1]).stem).strip(".") or "pictures"
