"""One run in a comparison: its figures, and what they gain over the baseline."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from us_anomaly.reporting.run_collection import EvaluatedRun
from us_anomaly.scoring.bootstrap import Interval, central_interval, paired_differences
from us_anomaly.scoring.ranking import FloatArray


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
    settings: dict[str, Any]
    """What it has in the settings in which the runs differ; without those that had no say in it."""
    repeats: str | None
    """Folder of an earlier row that was made from the same pictures with the same settings; such a row is in no mean."""
    is_whole: bool
    """Whether the figures are of what lies in the run directory now; else the row is in no mean, too."""
    left_undone: str | None
    """What happened to a command after the figures were made, so that they are not of what it was to make."""


def reference_of(run: EvaluatedRun, baseline: Sequence[EvaluatedRun]) -> EvaluatedRun | None:
    """Return the run of the baseline that `run` is measured against: itself if it is there, else the one most alike.

    One that saw the same test files comes before one that did not. So each seed is measured against the same seed where the
    baseline has it.
    """
    candidates = [other for other in baseline if len(baseline) == 1 or other.subject == run.subject]
    same = [other for other in candidates if other.folder.resolve() == run.folder.resolve()]
    return min(same or candidates, key=lambda other: (were_replaced(run, other), _num_unlike(run, other)), default=None)


def _num_unlike(run: EvaluatedRun, other: EvaluatedRun) -> int:
    """Return the number of settings in which two runs differ; 0 where one is not known to differ."""
    if run.origin is None or other.origin is None:
        return 0
    ours, theirs = run.origin.settings, other.origin.settings
    return sum(ours.get(key) != theirs.get(key) for key in ours.keys() | theirs.keys())


def were_replaced(run: EvaluatedRun, other: EvaluatedRun) -> bool:
    """Tell whether the test files of two runs are known to have other contents under the same names."""
    ours, theirs = run.origin, other.origin
    if ours is None or theirs is None or ours.pictures != theirs.pictures:
        return False
    if ours.scored is not None and (ours.scored, ours.test_masks) == (theirs.scored, theirs.test_masks):
        return False
    contents = {ours.contents, theirs.contents}
    return None not in contents and len(contents) > 1


def paired(run: EvaluatedRun, reference: EvaluatedRun) -> dict[str, FloatArray]:
    """Return differences over paired resamples by figure; empty where the test images are not the same ones."""
    ours, theirs = run.test_scores(), reference.test_scores()
    names = sorted(ours)
    same_images = ours.keys() == theirs.keys() and all(ours[name][0] == theirs[name][0] for name in names)
    num_resamples = run.evaluation["bootstrap"]["num_resamples"]
    same_images = same_images and run.subject == reference.subject and not were_replaced(run, reference)
    if not names or not same_images or num_resamples == 0:
        return {}
    return paired_differences(
        [ours[name][1] for name in names],
        [theirs[name][1] for name in names],
        [ours[name][0] for name in names],
        deployed_thresholds=(run.evaluation["threshold"]["value"], reference.evaluation["threshold"]["value"]),
        num_resamples=num_resamples,
        # Other resamples for each data set, or what chance does to one would be done to all of the same size; and the
        # same ones for all runs of a data set, or their mean would look surer than these test images make it.
        seed=zlib.crc32(repr(run.subject).encode()),
    )


def differences(
    run: EvaluatedRun, reference: EvaluatedRun | None, resamples: dict[str, FloatArray], *, columns: Sequence[str]
) -> dict[str, Difference]:
    """Return what each figure gains over the reference; nothing where there is none, or where it is the run itself."""
    if reference is None or reference.folder.resolve() == run.folder.resolve():
        return {}
    gains = {}
    for name in columns:
        value, base = run.figure(name), reference.figure(name)
        if value is not None and base is not None:
            interval = central_interval(resamples[name]) if name in resamples else None
            gains[name] = Difference(value=value - base, interval=interval)
    return gains
