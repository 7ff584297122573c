"""Named figures, and for each that cannot be had the reason why."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MetricSet:
    """Figures by name; a name stands either in `values` or in `absent`, never in both."""

    values: dict[str, float] = field(default_factory=dict)
    """Finite figures."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why a figure is missing, in words that a table can print."""

    def __post_init__(self) -> None:
        """Check our own work: no figure is both there and absent."""
        assert not self.values.keys() & self.absent.keys()


def united(metric_sets: Iterable[MetricSet]) -> MetricSet:
    """Return all figures of several sets as one."""
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for metrics in metric_sets:
        values |= metrics.values
        absent |= metrics.absent
    return MetricSet(values, absent)
