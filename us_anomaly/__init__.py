"""Find defects in images after seeing only good ones (Bergmann et al., *Uninformed Students*, CVPR 2020).

The command line is ``usad``; in Python, ``us_anomaly.load(run_dir)`` gives a :class:`~us_anomaly.detector.Detector`.
"""

from typing import TYPE_CHECKING, Any

from us_anomaly.version import __version__

if TYPE_CHECKING:
    from us_anomaly.detector import Detector
    from us_anomaly.loading import load

__all__ = ["Detector", "__version__", "load"]


def __dir__() -> list[str]:
    """Return the names that are meant for use, whether they were imported yet or not."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import the detector on first use, so that ``usad --help`` never loads torch."""
    if name == "Detector":
        from us_anomaly.detector import Detector

        return Detector
    if name == "load":
        from us_anomaly.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
