"""How long something takes, how much arithmetic it is, and how much of that the machine could do at best."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from composed_settings import composed
from torch.utils.flop_counter import FlopCounterMode

from us_anomaly.models.compute import Compute, choose_compute
from us_anomaly.settings import Precision

MATRIX_SIDE = 1024
CUDA_MATRIX_SIDE = 8192
LONG_SECONDS = 15.0
"""A first run that takes longer needs no warm-up: it is counted."""
BUDGET_SECONDS = 12.0
"""No more repeats are begun after this much time of the processor."""
CUDA_REPEATS = 25
"""Runs on a graphics card, which takes milliseconds for what takes a processor seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How thoroughly to measure."""

    threads: int
    quick: bool

    @property
    def repeats(self) -> int:
        """Runs of which the median is taken."""
        return 1 if self.quick else 5

    @property
    def side_px(self) -> int:
        """Side of the pictures."""
        return 40 if self.quick else 256

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        """Patch sizes of the networks."""
        return (33,) if self.quick else (17, 33, 65)

    @property
    def dims(self) -> tuple[int, ...]:
        """Descriptor dimensions of single networks."""
        return (16,) if self.quick else (128, 512)

    @property
    def width(self) -> float:
        """Width of the networks; 1 is that of the paper."""
        return 0.1 if self.quick else 1.0

    def compute(self, precision: Precision = Precision.auto, *, is_compiled: bool = False) -> Compute:
        """Return device and number format of the arithmetic, and set the number of threads."""
        overrides = (f"runtime.precision={precision.value}", f"runtime.num_threads={self.threads}")
        return replace(choose_compute(composed("data.root=unused", *overrides).runtime), compile=is_compiled)


@dataclass(kw_only=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    """What is measured."""
    seconds: float
    """Median time of one run: of the processor with one thread, by the clock otherwise."""
    wall_seconds: float
    """Median time by the clock."""
    runs: int
    """Runs that the medians are of."""
    gflop: float = 0.0
    """Floating-point operations of the layers as executed, in thousand millions: two per multiplication and addition."""
    tflop_per_second: float = 0.0
    """Rate at which they were executed."""
    matrix_share: float = 0.0
    """That rate over the rate of the machine's matrix product in the same number format."""
    peak_mib: float = 0.0
    """Largest resident memory of the process, or memory of the graphics card."""
    base_mib: float = 0.0
    """Resident memory before: Python, torch and the package."""
    note: str = ""
    """What else is to be said."""

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def timed(
    name: str,
    work: Callable[[], Any],
    *,
    plan: Plan,
    compute: Compute,
    flops: bool = True,
    counted: Callable[[], Any] | None = None,
) -> Row:
    """Run something several times after a warm-up that also counts its operations, and return the medians.

    Args:
        name: Of the row.
        work: What is timed.
        plan: How thoroughly.
        compute: Device and number format.
        flops: Whether operations are counted.
        counted: What to count the operations of, where those of `work` cannot be counted: compiled functions hide them.
    """
    processor = plan.threads == 1 and compute.device.type == "cpu"
    repeats = plan.repeats if compute.device.type == "cpu" or plan.quick else CUDA_REPEATS
    counter = FlopCounterMode(display=False)

    def once(count: bool) -> tuple[float, float]:
        _synchronize(compute)
        wall, used = time.perf_counter(), time.process_time()
        if count:
            with counter:
                work()
        else:
            work()
        _synchronize(compute)
        return time.perf_counter() - wall, time.process_time() - used

    if counted is not None:
        with counter:
            counted()
    if counted is not None or compute.device.type == "cuda":
        work()  # compiles, or searches the fastest algorithm of each layer
    began = time.process_time()
    first = once(flops and counted is None)
    times = [first] if first[1] > LONG_SECONDS else []
    while len(times) < repeats and (not times or time.process_time() - began < BUDGET_SECONDS):
        times.append(once(False))
    wall_seconds = statistics.median(wall for wall, _ in times)
    seconds = statistics.median(used for _, used in times) if processor else wall_seconds
    row = Row(name=name, seconds=seconds, wall_seconds=wall_seconds, runs=len(times))
    if flops:
        row.gflop = counter.get_total_flops() / 1e9
        row.tflop_per_second = row.gflop / seconds / 1e3
        row.matrix_share = row.tflop_per_second / matrix_rate(compute.dtype, plan=plan, compute=compute)
    return row


def matrix_rate(dtype: torch.dtype, *, plan: Plan, compute: Compute) -> float:
    """Return the rate of the machine's own product of two square matrices, in TFLOP/s: the best of several runs."""
    side = 64 if plan.quick else (CUDA_MATRIX_SIDE if compute.device.type == "cuda" else MATRIX_SIDE)
    one, other = (torch.randn(side, side, device=compute.device).to(dtype) for _ in range(2))
    processor = plan.threads == 1 and compute.device.type == "cpu"
    clock = time.process_time if processor else time.perf_counter
    best = float("inf")
    for _ in range(6):
        _synchronize(compute)
        began = clock()
        torch.mm(one, other)
        _synchronize(compute)
        best = min(best, clock() - began)
    return 2 * side**3 / max(best, 1e-9) / 1e12


def peak_mib(compute: Compute | None = None) -> float:
    """Return the largest memory so far in MiB: of the graphics card if it computes, else resident memory of the process."""
    if compute is not None and compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _synchronize(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
