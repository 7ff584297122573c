"""Many evaluations side by side: figures, means, the best, and what each run gains over a baseline."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from us_anomaly.reporting.comparison_means import Mean, Measured, best_rows, data_set_means, seed_means
from us_anomaly.reporting.comparison_rows import Row, differences, paired, reference_of, were_replaced
from us_anomaly.reporting.comparison_settings import data_sets, distinction, labels, repeated
from us_anomaly.reporting.metric_names import LABELS
from us_anomaly.reporting.run_collection import EvaluatedRun, Unusable
from us_anomaly.reporting.tables import resolution_text
from us_anomaly.settings import MapResolution

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
class Comparison:
    """The whole table."""

    columns: list[str]
    """Figures that at least one run has."""
    settings: list[str]
    """Settings in which the runs differ, by dotted key; the data apart."""
    rows: list[Row]
    seed_means: list[Mean]
    """Of the rows of one data set that differ by their seed only."""
    means: list[Mean]
    """Over data sets: one, unless some data set has rows of several settings; then one for each combination of settings."""
    best: dict[str, list[str]]
    """Names of the rows with the best figure of their data set; none where all are equal or there is one."""
    baseline: str | None
    """What the differences are to."""
    notes: list[str]
    """What a reader must know, as sentences."""
    not_in_labels: list[str]
    """Those of `settings` that the names of the rows do not show."""
    unusable: list[Unusable]
    """Folders that are not in the table, and why."""


def compare(
    runs: Sequence[EvaluatedRun], unusable: Sequence[Unusable], *, baseline: Sequence[EvaluatedRun] = ()
) -> Comparison:
    """Put runs side by side.

    Args:
        runs: Rows of the table.
        unusable: Folders to be listed with their reasons.
        baseline: Runs that the others are measured against: of several, the one with the same data set and category whose
            settings are most alike; a single one serves all rows.
    """
    columns = [name for name in COLUMNS if any(run.figure(name) is not None for run in runs)]
    differing = distinction(runs)
    names = labels(runs, differing)
    notes = _resolution_notes(runs)
    measured = []
    for run, name, values, data_set, first in zip(
        runs, names, differing.values, data_sets(runs), repeated(runs), strict=True
    ):
        reference = reference_of(run, baseline)
        notes += _baseline_notes(run, name, reference, baseline)
        resamples = {} if reference is None else paired(run, reference)
        row = Row(
            name=name,
            folder=run.folder.as_posix(),
            resolution=run.evaluation["resolution"],
            figures={column: value for column in columns if (value := run.figure(column)) is not None},
            differences=differences(run, reference, resamples, columns=columns),
            settings=values,
            repeats=None if first is None else first.folder.as_posix(),
            is_whole=run.is_whole,
            left_undone=run.left_undone,
        )
        measured.append(
            Measured(
                row=row,
                subject=run.name,
                data_set=data_set,
                are_settings_known=run.origin is not None,
                resamples=resamples,
            )
        )
    return Comparison(
        columns=columns,
        settings=differing.keys,
        rows=[one.row for one in measured],
        seed_means=seed_means(measured, differing, columns=columns),
        means=data_set_means(measured, differing, columns=columns),
        best=best_rows(measured, columns=columns),
        baseline=", ".join(dict.fromkeys(run.folder.as_posix() for run in baseline)) or None,
        notes=[
            *notes,
            *_other_pictures(measured),
            *_unknown_settings(measured),
            *_repeats(measured),
            *(note for run, name in zip(runs, names, strict=True) for note in _from_before(run, name)),
            *(note for run in baseline if run not in runs for note in _from_before(run, f"the baseline {run.folder}")),
        ],
        not_in_labels=[key for key in differing.keys if key not in differing.in_labels],
        unusable=list(unusable),
    )


def _resolution_notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Say where figures of pixels are of different resolutions: in all, or of one data set that networks see in several sizes."""
    kinds = sorted({run.evaluation["resolution"] for run in runs})
    notes = []
    if len(kinds) > 1:
        notes.append(f"Pixel figures at different resolutions ({', '.join(kinds)}) cannot be compared.")
    for subject in dict.fromkeys(run.subject for run in runs):
        same = [run for run in runs if run.subject == subject and run.evaluation.get("resolution_px")]
        sizes = {
            resolution_text(run.evaluation)
            for run in same
            if run.evaluation["resolution"] == MapResolution.network.value
        }
        if len(sizes) > 1:
            told = "; ".join(sorted(sizes))
            notes.append(f"{same[0].name}: pixel figures at different resolutions ({told}) cannot be compared.")
    return notes


def _baseline_notes(
    run: EvaluatedRun, name: str, reference: EvaluatedRun | None, baseline: Sequence[EvaluatedRun]
) -> list[str]:
    if baseline and reference is None:
        return [f"{name}: the baseline has no run of this data set and category, so no difference."]
    if reference is not None and reference.subject != run.subject:
        return [f"{name}: the baseline was evaluated on other images, so the difference says little."]
    if reference is not None and were_replaced(run, reference):
        return [f"{name}: the baseline saw other pictures or masks of the same names, so the difference says little."]
    return []


def _other_pictures(measured: Sequence[Measured]) -> list[str]:
    notes = []
    for subject in dict.fromkeys(one.subject for one in measured):
        names: dict[Hashable, list[str]] = {}
        for one in measured:
            if one.subject == subject:
                names.setdefault(one.data_set, []).append(one.row.name)
        if len(names) > 1:
            apart = "; ".join(", ".join(some) for some in names.values())
            notes.append(
                f"{subject}: the runs saw different pictures, labels or masks, so they count as {len(names)} data sets ({apart})."
            )
    return notes


def _unknown_settings(measured: Sequence[Measured]) -> list[str]:
    subjects = [one.subject for one in measured]
    names = [
        one.row.name
        for one in measured
        if not one.are_settings_known and one.row.is_whole and subjects.count(one.subject) > 1
    ]
    if not names:
        return []
    return [f"How these were made is unknown, for not all of it is in their provenance/: {', '.join(names)}."]


def _repeats(measured: Sequence[Measured]) -> list[str]:
    again = [one.row for one in measured if one.row.repeats is not None]
    if not again:
        return []
    pairs = [f"{row.folder} (as {row.repeats})" for row in again]
    return [f"Pictures and settings of another row, so in no mean and never the best: {', '.join(pairs)}."]


def _from_before(run: EvaluatedRun, name: str) -> list[str]:
    """Say of figures that they are those of an earlier attempt."""
    notes = [] if run.left_undone is None else [f"{name}: {run.left_undone}."]
    if not run.is_whole:
        notes.append(
            f"{name}: the figures are of files that were made again since, or provenance/ is damaged, so they are in no mean and "
            "never the best; run its command again."
        )
    return notes


def label(name: str) -> str:
    """Return a heading short enough for a wide table."""
    return (
        LABELS[name].replace(" at test-optimal threshold", " (oracle)").replace(" at deployed threshold", " (deployed)")
    )
