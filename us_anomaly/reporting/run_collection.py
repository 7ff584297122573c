"""Evaluated run directories, collected from what a user points at: runs, or folders that hold runs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from us_anomaly.data.sample import of_split, parse_labels
from us_anomaly.errors import ArtifactError
from us_anomaly.reporting.comparison_origin import Origin, read_origin
from us_anomaly.reporting.comparison_unfinished import left_undone, why_unfinished
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.evaluation_file import read_evaluation
from us_anomaly.scoring.scored_images import parse_predictions


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedRun:
    """One run directory with its evaluation."""

    name: str
    """Category, or else name of the data set."""
    folder: Path
    """The run directory."""
    evaluation: dict[str, Any]
    """Content of `evaluation.json`."""
    origin: Origin | None
    """What decided the figures; None where the run directory does not tell all of it."""
    is_whole: bool = True
    """Whether the figures are of what lies there now; known only where there is provenance."""
    left_undone: str | None = None
    """What happened to a command after the figures were made."""

    @property
    def subject(self) -> tuple[str, str | None]:
        """What was evaluated: data set and category. Runs of one subject can be compared figure by figure."""
        data_set = self.evaluation["data_set"]
        return data_set["name"], data_set["category"]

    def figure(self, name: str) -> float | None:
        """Return one figure, or None where it is absent."""
        value: float | None = self.evaluation["metrics"].get(name)
        return value

    def test_scores(self) -> dict[str, tuple[bool, float]]:
        """Return label and score of each test image by filename; empty where the files for it are not there.

        Raises:
            ArtifactError: `predictions.jsonl` or `split.jsonl` is damaged.
        """
        run_dir = RunDir(self.folder)
        if not run_dir.predictions.is_file() or not run_dir.split.is_file():
            return {}
        samples = of_split(parse_labels(run_dir.split.read_text(encoding="utf-8")), "test")
        results = parse_predictions(run_dir.predictions.read_text(encoding="utf-8"))
        scores = {result["filename"]: float(result["prediction"]["anomaly_score"]) for result in results}
        return {
            sample.filename: (sample.is_anomalous, scores[sample.filename])
            for sample in samples
            if sample.filename in scores
        }


@dataclass(frozen=True, slots=True)
class Unusable:
    """A folder that cannot be compared, and why."""

    folder: Path
    reason: str


def collect_runs(folders: Iterable[Path]) -> tuple[list[EvaluatedRun], list[Unusable]]:
    """Return the evaluated runs in `folders`, run directories or folders that hold some, and those that cannot be used.

    Each comes once, in order.
    """
    runs: list[EvaluatedRun] = []
    unusable: list[Unusable] = []
    found: dict[Path, Path] = {}
    for run in (run for folder in folders for run in _run_folders(folder)):
        found.setdefault(run.resolve(), run)
    for folder in found.values():
        try:
            runs.append(_read(folder))
        except ArtifactError as error:
            unusable.append(Unusable(folder, str(error)))
    return runs, unusable


def _run_folders(folder: Path) -> list[Path]:
    """Return `folder` itself if it is a run, else the runs up to two levels below it, else itself to be told why."""
    if _is_run(folder) or not folder.is_dir():
        return [folder]
    below = [child for child in sorted(folder.iterdir(), key=_in_order) if child.is_dir()]
    found = [child for child in below if _is_run(child)]
    for child in below:
        if child not in found:
            found += [run for run in sorted(child.iterdir(), key=_in_order) if run.is_dir() and _is_run(run)]
    return found or [folder]


def _is_run(folder: Path) -> bool:
    """Return whether commands worked in a folder, and not to put results of `inference.input=` there alone."""
    run_dir = RunDir(folder)
    return run_dir.is_known and not run_dir.scored_input.exists()


def _in_order(path: Path) -> tuple[list[str | float], str]:
    """Sort the jobs of a sweep by name with its numbers as numbers: `seed-2` before `seed-10`, `rate-0.01` before `rate-0.1`."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", path.name)
    return [float(part) if number % 2 else part for number, part in enumerate(parts)], path.name


def _read(folder: Path) -> EvaluatedRun:
    path = RunDir(folder).evaluation_json
    if not folder.is_dir():
        raise ArtifactError("there is no such folder")
    if not RunDir(folder).is_known:
        raise ArtifactError("it is no run directory and holds none")
    if not path.is_file():
        raise ArtifactError(why_unfinished(folder))
    evaluation = read_evaluation(path)
    data_set = evaluation["data_set"]
    name = data_set["category"] or data_set["name"]
    origin = read_origin(RunDir(folder))
    return EvaluatedRun(
        name=str(name),
        folder=folder,
        evaluation=evaluation,
        origin=origin,
        is_whole=origin is not None or not RunDir(folder).provenance(path).is_file(),
        left_undone=left_undone(folder),
    )
