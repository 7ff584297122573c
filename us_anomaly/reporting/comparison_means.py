"""What several rows of a comparison have in common: means over seeds and over data sets, and the best row of a data set."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from us_anomaly.reporting.comparison_rows import Difference, Row
from us_anomaly.reporting.comparison_settings import SEED, Distinction
from us_anomaly.reporting.metric_names import LOWER_IS_BETTER
from us_anomaly.scoring.bootstrap import central_interval
from us_anomaly.scoring.ranking import FloatArray
from us_anomaly.settings.plain import typed


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A row, and what decides with which others it may be put together."""

    row: Row
    subject: str
    """Category or name of the data set, as labels have it."""
    data_set: Hashable
    """Equal for rows whose figures can be compared."""
    are_settings_known: bool
    resamples: dict[str, FloatArray]
    """Differences to the baseline over paired resamples, by figure."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in which the runs differ, without the seed."""
        return {key: value for key, value in self.row.settings.items() if key != SEED}

    @property
    def variant(self) -> Hashable:
        """Equal for rows that were made alike, whatever the seed and the data; unknown settings are like no others."""
        if not self.are_settings_known:
            return self.row.folder
        return frozenset((key, typed(value)) for key, value in self.settings.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """The mean of some rows: of one data set with several seeds, or of several data sets."""

    of: str
    """What it is the mean of, for example `3 seeds, tile`; empty where that goes without saying."""
    rows: list[str]
    """Names of the rows."""
    settings: dict[str, Any]
    """What all of them have in the settings in which the runs differ."""
    figures: dict[str, float]
    """Each data set counts once, with the mean of its rows that have the figure."""
    smallest: dict[str, float]
    """Over seeds; empty where there are not several. Of a mean over data sets: over its means of each seed that all have."""
    largest: dict[str, float]
    """Alike."""
    deviations: dict[str, float]
    """Standard deviation, with n - 1, of the same values."""
    num_averaged: dict[str, int]
    """How many rows have the figure."""
    differences: dict[str, Difference]
    """Mean difference to the baseline over the rows that have one; the interval only where all of them could be paired."""

    def called(self, what: str) -> str:
        """Return the name of a row of the table, where `what` is mean, smallest or largest."""
        return f"{what} of {self.of}" if self.of else what


def seed_means(measured: Sequence[Measured], distinction: Distinction, *, columns: Sequence[str]) -> list[Mean]:
    """Return the mean and the spread of the figures of rows of one data set that differ by their seed only."""
    groups: dict[Hashable, list[Measured]] = {}
    for one in _counted(measured):
        groups.setdefault((one.data_set, one.variant), []).append(one)
    means = []
    for group in groups.values():
        if len(group) > 1:
            num_seeds = len({one.row.settings.get(SEED) for one in group})
            what = f"{len(group)} {'seeds' if num_seeds == len(group) else 'runs'}, {group[0].subject}"
            means.append(_mean(group, of=_told(what, group[0], distinction), columns=columns))
    return _told_apart(means)


def data_set_means(measured: Sequence[Measured], distinction: Distinction, *, columns: Sequence[str]) -> list[Mean]:
    """Return the mean over data sets: a single one, or one for each combination of settings that several data sets have.

    All rows are averaged where each data set has a single one; else only those with the same settings are.
    """
    counted = _counted(measured)
    if not counted:
        return []
    variants: dict[Hashable, list[Measured]] = {}
    for one in counted:
        variants.setdefault(one.variant, []).append(one)
    if len(variants) == 1 or _num_data_sets(counted) == len(counted):
        return [_mean(counted, of="", columns=columns)]
    return _told_apart(
        [
            _mean(group, of=_told(f"{_num_data_sets(group)} data sets", group[0], distinction), columns=columns)
            for group in variants.values()
            if _num_data_sets(group) > 1
        ]
    )


def best_rows(measured: Sequence[Measured], *, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the rows with the best figure of their data set, by figure; none where all are equal."""
    groups: dict[Hashable, list[Row]] = {}
    for one in _counted(measured):
        groups.setdefault(one.data_set, []).append(one.row)
    return {name: [best for rows in groups.values() for best in _best(name, rows)] for name in columns}


def _best(name: str, rows: Sequence[Row]) -> list[str]:
    values = {row.name: row.figures[name] for row in rows if name in row.figures}
    if len(set(values.values())) < 2:
        return []
    best = min(values.values()) if name in LOWER_IS_BETTER else max(values.values())
    return [row for row, value in values.items() if value == best]


def _counted(measured: Sequence[Measured]) -> list[Measured]:
    return [one for one in measured if one.row.repeats is None and one.row.is_whole]


def _num_data_sets(group: Sequence[Measured]) -> int:
    return len({one.data_set for one in group})


def _told(what: str, one: Measured, distinction: Distinction) -> str:
    text = distinction.text(one.settings)
    return f"{what}: {text}" if text else what


def _told_apart(means: Sequence[Mean]) -> list[Mean]:
    """Give means of one name all of their settings."""
    names = [mean.of for mean in means]
    return [
        replace(mean, of=f"{mean.of} ({', '.join(f'{key}={typed(value)}' for key, value in mean.settings.items())})")
        if names.count(mean.of) > 1
        else mean
        for mean in means
    ]


def _mean(group: Sequence[Measured], *, of: str, columns: Sequence[str]) -> Mean:
    having = {name: [one for one in group if name in one.row.figures] for name in columns}
    values = {name: np.array([one.row.figures[name] for one in some]) for name, some in having.items() if some}
    spread = {name: each for name in values if len(each := _by_seed(having[name], values[name])) > 1}
    return Mean(
        of=of,
        rows=[one.row.name for one in group],
        settings={
            key: value
            for key, value in group[0].settings.items()
            if all(key in one.settings and one.settings[key] == value for one in group)
        },
        figures={name: float(_average(having[name], values[name])) for name in values},
        smallest={name: float(each.min()) for name, each in spread.items()},
        largest={name: float(each.max()) for name, each in spread.items()},
        deviations={name: float(each.std(ddof=1)) for name, each in spread.items()},
        num_averaged={name: len(some) for name, some in having.items()},
        differences=_mean_differences(group, columns),
    )


def _by_seed(group: Sequence[Measured], values: FloatArray) -> FloatArray:
    """Return the values of rows of one data set, and of several the mean over them for each seed that all of them have."""
    if _num_data_sets(group) == 1:
        return values
    seeds: dict[Hashable, list[int]] = {}
    for number, one in enumerate(group):
        seeds.setdefault(one.row.settings.get(SEED), []).append(number)
    complete = [some for some in seeds.values() if _num_data_sets([group[n] for n in some]) == _num_data_sets(group)]
    return np.array([_average([group[n] for n in some], values[some]) for some in complete])


def _mean_differences(group: Sequence[Measured], columns: Sequence[str]) -> dict[str, Difference]:
    means = {}
    for name in columns:
        some = [one for one in group if name in one.row.differences]
        if not some:
            continue
        value = float(_average(some, np.array([one.row.differences[name].value for one in some])))
        pairs = [one.resamples[name] for one in some if name in one.resamples]
        interval = None
        if len(pairs) == len(some) and len({len(resamples) for resamples in pairs}) == 1:
            interval = central_interval(_average(some, np.array(pairs)))
        means[name] = Difference(value=value, interval=interval)
    return means


def _average(group: Sequence[Measured], values: FloatArray) -> FloatArray:
    """Return the mean of `values`, which has a first axis of rows, such that each data set counts once."""
    data_sets = [one.data_set for one in group]
    weights = np.array([1 / data_sets.count(data_set) for data_set in data_sets]) / len(set(data_sets))
    return np.tensordot(weights, values, axes=1)
