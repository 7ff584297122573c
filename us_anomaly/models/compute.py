"""Where and in which number format the networks compute."""

import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from us_anomaly.errors import SettingsError
from us_anomaly.run_dir.said import note_said, was_said
from us_anomaly.settings import Precision, RuntimeSettings
from us_anomaly.settings.checks import device_name

log = logging.getLogger(__name__)

CGROUP = Path("/sys/fs/cgroup")
DEVICES = Path("/dev")
_DEVICE = "what computes"
"""What is said once by a command."""
COMPARED_AT_ONCE = 2**16
"""Numbers of one network's descriptors that a processor compares at once: few enough to stay in its cache."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Compute:
    """Device and number format of the network arithmetic."""

    device: torch.device
    dtype: torch.dtype
    compile: bool = False
    """Whether functions of networks are compiled by torch.compile."""

    @property
    def precision(self) -> str:
        """Number format as settings call it, for example `float32`."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks with float32 weights compute in `dtype`."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute as in a process of one's own, whatever a caller told torch: autocast, default device, TF32.

        Only how a graphics card computes convolutions is told to the whole process, and put back. The default number format is of
        the whole process, too, and stays: tensors whose format counts are made in it.
        """
        with ExitStack() as stack:
            for kind in {"cpu", self.device.type}:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.empty(0).device.type != "cpu":  # a mode costs time at every call of torch
                stack.enter_context(torch.device("cpu"))
            if self.device.type == "cuda":
                stack.enter_context(_CONVOLUTIONS.as_ours())
            yield

    def compiled(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function of networks and tensors, compiled if `compile` says so; the first call then takes much longer."""
        return _compiled(function) if self.compile else function

    def to_device(self, images: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return pictures on the device, channels last; the copy to a graphics card overlaps with what it computes."""
        if self.device.type == "cuda" and images.device.type == "cpu":
            images = images.pin_memory()
        moved = images.to(self.device, dtype or images.dtype, non_blocking=True)
        return moved.contiguous(memory_format=torch.channels_last)


class _Convolutions:
    """How a graphics card computes convolutions, told to the whole process: while we compute, as `choose_compute` has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_computing = 0
        self._before: list[tuple[Any, str, Any]] = []

    @contextmanager
    def as_ours(self) -> Iterator[None]:
        """Set it with the first of several threads that compute, and put back what was set before with the last."""
        with self._lock:
            if self._num_computing == 0:
                self._before = self._set()
            self._num_computing += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_computing -= 1
                if self._num_computing == 0:
                    for owner, name, value in self._before:
                        setattr(owner, name, value)

    @staticmethod
    def _set() -> list[tuple[Any, str, Any]]:
        """Return what was set before, as owner, name and value."""
        cudnn: Any = torch.backends.cudnn
        exact: tuple[Any, str, Any] = (cudnn, "allow_tf32", False)
        try:
            _ = cudnn.allow_tf32
        except (
            RuntimeError
        ):  # the caller uses the names that torch has since 2.9, which it refuses to mix with this one
            exact = (cudnn.conv, "fp32_precision", "ieee")
        changes = [exact, (cudnn, "benchmark", True)]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
        for owner, name, value in changes:
            setattr(owner, name, value)
        return before


_CONVOLUTIONS = _Convolutions()


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function)
    return compiled


def choose_compute(runtime: RuntimeSettings) -> Compute:
    """Resolve `runtime.device`, `runtime.precision` and `runtime.num_threads`.

    Sets the number of threads of this process and, for a graphics card, how its convolutions are computed. Says once which card
    that is, or that there seems to be one that cannot be used.

    Raises:
        SettingsError: A CUDA device is asked for and there is none.
    """
    torch.set_num_threads(num_threads(runtime))
    device = find_device(runtime.device, key="runtime.device")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # where float32 is asked for, it is float32
        torch.backends.cudnn.benchmark = True  # searches the fastest algorithm of a layer once for each picture size
    compute = Compute(device, number_format(runtime.precision, device), compile=runtime.compile)
    if not was_said(_DEVICE):
        note_said(_DEVICE)
        if device.type == "cuda":
            log.info("computing on %s (%s) in %s", device, torch.cuda.get_device_name(device), compute.precision)
        elif runtime.device == "auto" and (reason := _why_no_card()) is not None:
            log.warning("computing on the processor, although there seems to be a graphics card: %s", reason)
    return compute


def num_threads(runtime: RuntimeSettings) -> int:
    """Return the threads of the arithmetic: what the settings say, else a core each, but no more than OMP_NUM_THREADS."""
    if runtime.num_threads is not None:
        return runtime.num_threads
    bound = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(available_cores(), int(bound)) if bound.isdecimal() and int(bound) else available_cores()


def _why_no_card() -> str | None:
    """Return why a graphics card cannot be used that the machine, or the scheduler, seems to give; None where there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):  # somebody does not want it
        return None
    if not os.environ.get("SLURM_JOB_GPUS") and not any(DEVICES.glob("nvidia[0-9]*")):
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA (https://pytorch.org/get-started says how to install it with CUDA)"
    return "torch sees no CUDA device; `nvidia-smi` says what the driver sees (runtime.device=cpu ends this warning)"


def find_device(name: str, *, key: str) -> torch.device:
    """Return the device of a name: `auto`, `cpu`, `cuda` or `cuda:N`.

    Args:
        name: The name.
        key: What the user calls it, for the messages.

    Raises:
        SettingsError: It is no such name, or a CUDA device that is not there.
    """
    device_name(key, name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"`{key}` is {name}, but torch sees no CUDA device: use {key}=cpu or auto")
    index = int(name.removeprefix("cuda:")) if ":" in name else 0
    if name.startswith("cuda") and index >= torch.cuda.device_count():
        raise SettingsError(f"`{key}` is {name}, but there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def number_format(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the number format in which networks compute; `auto` is bfloat16 where the device multiplies it in hardware."""
    match precision:
        case Precision.float32:
            return torch.float32
        case Precision.bfloat16:
            return torch.bfloat16
        case Precision.auto:
            return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def available_cores(*, cgroup: Path = CGROUP) -> int:
    """Return the physical cores that this process may use: arithmetic gains nothing from hyper-threads.

    Args:
        cgroup: Folder with the limits of the container: its share of processor time counts, rounded up.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return max(1, min(_physical_cores(allowed), _processors_of_container(cgroup)))


def _physical_cores(allowed: set[int]) -> int:
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(allowed)
    return len(cores)


def _processors_of_container(cgroup: Path) -> int:
    """Return how many processors' time the container may use, by version 2 or 1 of its limits."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return 1 << 30
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # `max`: no limit
        return 1 << 30
    return math.ceil(share) if share > 0 else 1 << 30  # version 1 says -1 where there is no limit


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the processor has instructions that multiply bfloat16 matrices."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # the question is about the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bfloat16_speedup() > 1


def bfloat16_speedup() -> float:
    """Return about how much faster the processor multiplies bfloat16 than float32 matrices: 1 without instructions for it."""
    speedups = {"_is_amx_tile_supported": 6.5, "_is_avx512_bf16_supported": 2.3}  # measured
    return max(
        (speedup for check, speedup in speedups.items() if getattr(torch.cpu, check, lambda: False)()), default=1.0
    )
