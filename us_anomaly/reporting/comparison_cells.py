"""The lines of a comparison as people read them, and the sentences that belong to them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from us_anomaly.reporting.comparison import Comparison, label
from us_anomaly.reporting.comparison_means import Mean
from us_anomaly.reporting.comparison_rows import Difference
from us_anomaly.reporting.metric_names import shown

ABSENT = "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a table."""

    name: str
    cells: list[str]
    """One for each figure."""
    settings: dict[str, Any]
    """What the line is about, in the settings in which the runs differ."""
    begins_section: bool = False
    """Whether it is the first of another kind than the line above."""
    short_name: str | None = None
    """Its name right below a line that tells the rest."""


def figure_lines(comparison: Comparison, mark: Callable[[str], str]) -> list[Line]:
    """Return the lines of all runs and means; `mark` makes the best of a column stand out."""
    columns = comparison.columns
    lines = []
    for row in comparison.rows:
        cells = [shown(name, row.figures.get(name)) for name in columns]
        marked = [
            mark(cell) if row.name in comparison.best[name] else cell for name, cell in zip(columns, cells, strict=True)
        ]
        lines.append(Line(name=row.name, cells=marked, settings=row.settings))
    for mean in shown_means(comparison):
        for what, figures in (("mean", mean.figures), ("smallest", mean.smallest), ("largest", mean.largest)):
            if figures:
                lines.append(
                    Line(
                        name=mean.called(what),
                        cells=[shown(name, figures.get(name)) for name in columns],
                        settings=mean.settings,
                        begins_section=what == "mean",
                        short_name=None if what == "mean" else what,
                    )
                )
    return lines


def shown_means(comparison: Comparison) -> list[Mean]:
    """Return all means but that over data sets where it is the one over the seeds of a single data set."""
    over_seeds = [mean.rows for mean in comparison.seed_means]
    return comparison.seed_means + [mean for mean in comparison.means if mean.rows not in over_seeds]


def resolution_caption(comparison: Comparison) -> str:
    """Return at which resolution pixels were compared."""
    return f"resolution of pixel figures: {', '.join(sorted({row.resolution for row in comparison.rows}))}"


def difference_title(comparison: Comparison) -> str:
    """Return what the lines of differences are."""
    return f"difference to {comparison.baseline}, with 95% interval where test images can be paired"


def difference_lines(comparison: Comparison) -> list[Line]:
    """Return the lines of all runs and means that have a difference to the baseline."""
    lines = [
        Line(name=row.name, cells=_differences(comparison, row.differences), settings=row.settings)
        for row in comparison.rows
        if row.differences
    ]
    for number, mean in enumerate(shown_means(comparison)):
        cells = _differences(comparison, mean.differences)
        lines.append(Line(name=mean.called("mean"), cells=cells, settings=mean.settings, begins_section=number == 0))
    return lines


def _differences(comparison: Comparison, differences: dict[str, Difference]) -> list[str]:
    return [_difference(differences.get(name)) for name in comparison.columns]


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ABSENT
    text = f"{difference.value:+.3f}"
    if difference.interval is not None:
        text += f" ({difference.interval[0]:+.3f} to {difference.interval[1]:+.3f})"
    return text


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what must be read with the table: notes, incomplete means, and the folders that are missing in it."""
    once = []
    if comparison.seed_means and len(shown_means(comparison)) > len(comparison.seed_means):
        once = ["In a mean over data sets each counts once, with the mean of its runs."]
    if any(mean.smallest for mean in shown_means(comparison) if mean not in comparison.seed_means):
        once.append(
            "Smallest and largest of a mean over data sets are means of one seed, of those that all of them have."
        )
    intervals = [row.differences[name].interval for row in comparison.rows for name in row.differences]
    if any(interval is not None for interval in intervals):
        once.append("An interval is over resampled test images: what another seed would change is not in it.")
    partial = [note for mean in shown_means(comparison) for note in _incomplete(mean)]
    missing = [f"not in the table: {one.folder.as_posix()}: {one.reason}" for one in comparison.unusable]
    return comparison.notes + once + partial + missing


def _incomplete(mean: Mean) -> list[str]:
    """Say which figures of a mean are not of all of its runs."""
    names: dict[int, list[str]] = {}
    for name, count in mean.num_averaged.items():
        if 0 < count < len(mean.rows):
            names.setdefault(count, []).append(label(name))
    return [
        f"{mean.called('mean')}: only {count} of {len(mean.rows)} runs have {', '.join(some)}."
        for count, some in names.items()
    ]
