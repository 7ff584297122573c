"""Axes of plots: from values to positions, and readable ticks."""

import math
import statistics
from dataclasses import dataclass

LOGARITHMIC_FROM = 30.0
"""Positive losses that span at least this factor are shown on a logarithmic axis."""
LONG_TAIL_FROM = 12.0
"""Positive scores whose highest is at least so many times their median are shown on a logarithmic axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis from `low` to `high`."""

    label: str
    low: float
    high: float
    is_logarithmic: bool = False
    counts: bool = False
    """Values are whole numbers: ticks never lie between them."""

    def position(self, value: float) -> float:
        """Return where a value lies, 0 at `low` and 1 at `high`; values outside stay at the ends."""
        if self.is_logarithmic:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def value(self, position: float) -> float:
        """Return the value at a position from 0 to 1."""
        if self.is_logarithmic:
            return float(self.low * (self.high / self.low) ** position)
        return self.low + (self.high - self.low) * position

    def ticks(self) -> list[float]:
        """Return a few round values on the axis."""
        ticks = _logarithmic_ticks(self.low, self.high) if self.is_logarithmic else []
        return ticks if len(ticks) >= 3 else _linear_ticks(self.low, self.high, least_step=1.0 if self.counts else 0.0)


def loss_axis(label: str, values: list[float]) -> Axis:
    """Return an axis that shows large and small losses at once."""
    return _fitted(label, values, is_wide=max(values) >= LOGARITHMIC_FROM * min(values))


def score_axis(label: str, values: list[float]) -> Axis:
    """Return an axis for scores: logarithmic only where a few high ones would press the others together.

    That some are close to 0 is no reason: differences among them mean nothing.
    """
    return _fitted(label, values, is_wide=max(values) >= LONG_TAIL_FROM * statistics.median(values))


def _fitted(label: str, values: list[float], *, is_wide: bool) -> Axis:
    """Return an axis that holds all `values` with a little air."""
    low, high = min(values), max(values)
    if low > 0 and is_wide:
        return Axis(label=f"{label} (logarithmic)", low=low / 1.1, high=high * 1.1, is_logarithmic=True)
    air = 0.04 * (high - low) or max(abs(high), 1.0) * 0.04
    return Axis(label=label, low=0.0 if 0 <= low < 0.25 * high else low - air, high=high + air)


def tick_text(value: float) -> str:
    """Return a tick's label: as few digits as say it exactly."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.10g}"


def _linear_ticks(low: float, high: float, *, least_step: float) -> list[float]:
    rough = max((high - low) / 6, least_step)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if least_step else (1, 2, 2.5, 5, 10)
    step = next(factor * magnitude for factor in factors if factor * magnitude >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]
