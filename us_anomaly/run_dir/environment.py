"""Versions and processor: what besides the recipe can change the last digits of an artifact."""

import logging
import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from us_anomaly.run_dir.said import note_said, was_said

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "pillow")
_ORIGIN, _FORMAT = "made elsewhere", "calibrated in another number format"
"""What is said once of a run directory."""


def environment() -> dict[str, str]:
    """Return versions, processor and, where torch is in use, its instruction set and graphics card."""
    described = {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
    described |= {name: version for name in PACKAGES if (version := _version(name)) is not None}
    if (torch := sys.modules.get("torch")) is not None:
        described["instructions"] = str(torch.backends.cpu.get_cpu_capability())
        if torch.cuda.is_initialized():
            described["gpu"] = str(torch.cuda.get_device_name())
    return described


def say_if_made_elsewhere(root: Path, artifact: str, recorded: object) -> None:
    """Warn, once per run directory, that an artifact was made by other versions or on another processor.

    Args:
        root: The run directory.
        artifact: Name of the artifact in it.
        recorded: The environment in its provenance.
    """
    if was_said(_ORIGIN, root) or not isinstance(recorded, Mapping):
        return
    now = environment()
    names = (*PACKAGES, "machine", "processor", "instructions", "gpu")
    differences = [
        f"{name} {recorded[name]} then, {now[name]} now"
        for name in names
        if name in recorded and name in now and recorded[name] != now[name]
    ]
    if differences:
        note_said(_ORIGIN, root)
        log.warning(
            "%s was made elsewhere (%s): the same settings can give slightly other results here",
            artifact,
            "; ".join(differences),
        )


def say_if_calibrated_otherwise(root: Path, *, calibrated: str | None, now: str) -> None:
    """Warn, once per run directory, that scores are computed in another number format than the threshold was chosen in.

    Args:
        root: The run directory.
        calibrated: The number format of the calibration, `float32` or `bfloat16`; None if an older file does not say it.
        now: The number format in use.
    """
    if calibrated in (None, now) or was_said(_FORMAT, root):
        return
    note_said(_FORMAT, root)
    log.warning(
        "%s was calibrated in %s and now computes in %s: scores differ a little, but the threshold does not follow them; use "
        "runtime.precision=%s (in Python, precision=%r), or `usad calibrate overwrite=true`",
        root,
        calibrated,
        now,
        calibrated,
        calibrated,
    )


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _processor() -> str:
    """Return the name of the processor, which `platform` knows on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(names, platform.processor() or "unknown")
