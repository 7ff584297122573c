"""Many evaluations side by side: figures, their mean, the best, and what each run gains over a baseline."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from us_anomaly.reporting.metric_names import LABELS, LOWER_IS_BETTER
from us_anomaly.reporting.run_collection import EvaluatedRun, Unusable
from us_anomaly.scoring.bootstrap import Interval, central_interval, paired_differences
from us_anomaly.scoring.ranking import FloatArray

COLUMNS = (
    "image_auroc",
    "image_average_precision",
    "f1",
    "deployed_f1",
    "deployed_recall",
    "deployed_false_positive_rate",
    "pixel_auroc",
    "pixel_average_precision",
    "aupro_0.3",
    "aupro_0.05",
    "auspro_0.3",
    "auspro_0.05",
)
"""Figures that are compared, where a run has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What a figure gains over the baseline."""

    value: float
    """Figure minus baseline figure."""
    interval: Interval | None
    """Central 95 % over paired resamples of the test images; None where images cannot be paired."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One run in the table."""

    name: str
    folder: str
    resolution: str
    figures: dict[str, float]
    """Without those that are absent."""
    differences: dict[str, Difference]
    """Empty without a baseline, and for the baseline itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The whole table."""

    columns: list[str]
    """Figures that at least one run has."""
    rows: list[Row]
    mean: dict[str, float]
    """Over the runs that have the figure."""
    num_averaged: dict[str, int]
    """How many these are."""
    best: dict[str, list[str]]
    """Names of the runs with the best figure; empty where all are equal."""
    mean_differences: dict[str, Difference]
    """Mean difference over the runs that have one; the interval only where all of them could be paired."""
    baseline: str | None
    """What the differences are to."""
    notes: list[str]
    """What a reader must know, as sentences."""
    unusable: list[Unusable]
    """Folders that are not in the table, and why."""


def compare(
    runs: Sequence[EvaluatedRun], unusable: Sequence[Unusable], *, baseline: Sequence[EvaluatedRun] = ()
) -> Comparison:
    """Put runs side by side.

    Args:
        runs: Rows of the table.
        unusable: Folders to be listed with their reasons.
        baseline: Runs that the others are measured against: of several, the one with the same data set and category;
            a single one serves all rows.
    """
    columns = [name for name in COLUMNS if any(run.figure(name) is not None for run in runs)]
    notes = _resolution_notes(runs)
    rows, replicates = [], []
    for run in runs:
        reference = _reference(run, baseline)
        if baseline and reference is None:
            notes.append(f"{run.name}: the baseline has no run of this data set and category, so no difference.")
        if reference is not None and reference.subject != run.subject:
            notes.append(f"{run.name}: the baseline was evaluated on other images, so the difference says little.")
        resamples = {} if reference is None else _paired(run, reference)
        replicates.append(resamples)
        rows.append(
            Row(
                name=run.name,
                folder=run.folder.as_posix(),
                resolution=run.evaluation["resolution"],
                figures={name: value for name in columns if (value := run.figure(name)) is not None},
                differences=_differences(run, reference, resamples, columns),
            )
        )
    values = {name: [row.figures[name] for row in rows if name in row.figures] for name in columns}
    return Comparison(
        columns=columns,
        rows=rows,
        mean={name: float(np.mean(values[name])) for name in columns},
        num_averaged={name: len(values[name]) for name in columns},
        best={name: _best(name, rows) for name in columns},
        mean_differences=_mean_differences(rows, replicates, columns),
        baseline=", ".join(dict.fromkeys(run.folder.as_posix() for run in baseline)) or None,
        notes=notes,
        unusable=list(unusable),
    )


def _resolution_notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    kinds = sorted({run.evaluation["resolution"] for run in runs})
    if len(kinds) < 2:
        return []
    return [f"Pixel figures at different resolutions ({', '.join(kinds)}) cannot be compared."]


def _reference(run: EvaluatedRun, baseline: Sequence[EvaluatedRun]) -> EvaluatedRun | None:
    """Return the run of the baseline that `run` is measured against, itself if it is one of them."""
    candidates = [other for other in baseline if len(baseline) == 1 or other.subject == run.subject]
    same = [other for other in candidates if other.folder.resolve() == run.folder.resolve()]
    return None if not candidates else (same or candidates)[0]


def _paired(run: EvaluatedRun, reference: EvaluatedRun) -> dict[str, FloatArray]:
    """Return differences over paired resamples by figure; empty where the test images are not the same ones."""
    ours, theirs = run.test_scores(), reference.test_scores()
    names = sorted(ours)
    same_images = ours.keys() == theirs.keys() and all(ours[name][0] == theirs[name][0] for name in names)
    num_resamples = run.evaluation["bootstrap"]["num_resamples"]
    if not names or not same_images or run.subject != reference.subject or num_resamples == 0:
        return {}
    return paired_differences(
        [ours[name][1] for name in names],
        [theirs[name][1] for name in names],
        [ours[name][0] for name in names],
        deployed_thresholds=(run.evaluation["threshold"]["value"], reference.evaluation["threshold"]["value"]),
        num_resamples=num_resamples,
        # Other resamples for each data set, or what chance does to one would be done to all of the same size.
        seed=run.evaluation["bootstrap"]["seed"] + zlib.crc32(repr(run.subject).encode()),
    )


def _differences(
    run: EvaluatedRun, reference: EvaluatedRun | None, resamples: dict[str, FloatArray], columns: Sequence[str]
) -> dict[str, Difference]:
    if reference is None or reference.folder.resolve() == run.folder.resolve():
        return {}
    differences = {}
    for name in columns:
        value, base = run.figure(name), reference.figure(name)
        if value is not None and base is not None:
            interval = central_interval(resamples[name]) if name in resamples else None
            differences[name] = Difference(value=value - base, interval=interval)
    return differences


def _mean_differences(
    rows: Sequence[Row], replicates: Sequence[dict[str, FloatArray]], columns: Sequence[str]
) -> dict[str, Difference]:
    means = {}
    for name in columns:
        measured = [
            (row, resamples) for row, resamples in zip(rows, replicates, strict=True) if name in row.differences
        ]
        if not measured:
            continue
        paired = [resamples[name] for _, resamples in measured if name in resamples]
        lengths = {len(row) for row in paired}
        interval = None
        if len(paired) == len(measured) and len(lengths) == 1:
            interval = central_interval(np.mean(paired, axis=0))
        value = float(np.mean([row.differences[name].value for row, _ in measured]))
        means[name] = Difference(value=value, interval=interval)
    return means


def _best(name: str, rows: Sequence[Row]) -> list[str]:
    values = {row.name: row.figures[name] for row in rows if name in row.figures}
    if len(set(values.values())) < 2:
        return []
    best = min(values.values()) if name in LOWER_IS_BETTER else max(values.values())
    return [row for row, value in values.items() if value == best]


def label(name: str) -> str:
    """Return a heading short enough for a wide table."""
    return (
        LABELS[name].replace(" at test-optimal threshold", " (oracle)").replace(" at deployed threshold", " (deployed)")
    )
