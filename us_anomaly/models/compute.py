"""Where and in which number format the networks compute."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from us_anomaly.errors import SettingsError
from us_anomaly.settings import Precision, RuntimeSettings


@dataclass(frozen=True, slots=True)
class Compute:
    """Device and number format of the network arithmetic."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks with float32 weights compute in `dtype`."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)


def choose_compute(runtime: RuntimeSettings) -> Compute:
    """Resolve `runtime.device`, `runtime.precision` and `runtime.num_threads`, and set the number of threads.

    Raises:
        SettingsError: A CUDA device is asked for and there is none.
    """
    torch.set_num_threads(runtime.num_threads or available_cores())
    device = _device(runtime.device)
    match runtime.precision:
        case Precision.float32:
            dtype = torch.float32
        case Precision.bfloat16:
            dtype = torch.bfloat16
        case Precision.auto:
            dtype = torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return Compute(device, dtype)


def available_cores() -> int:
    """Return the physical cores that this process may use: arithmetic gains nothing from hyper-threads."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return max(1, len(allowed))
    return max(1, len(cores))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the processor has instructions that multiply bfloat16 matrices."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(
            f"`runtime.device` is {name}, but torch sees no CUDA device: use runtime.device=cpu or auto"
        )
    index = int(name.removeprefix("cuda:")) if ":" in name else 0
    if name.startswith("cuda") and index >= torch.cuda.device_count():
        raise SettingsError(f"`runtime.device` is {name}, but there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
