"""Find defects in images after seeing only good ones (Bergmann et al., *Uninformed Students*, CVPR 2020).

The command line is ``usad``; in Python, ``us_anomaly.load(run_dir)`` gives a :class:`~us_anomaly.detector.Detector`. What can go
wrong is in ``us_anomaly.errors``.
"""

from typing import TYPE_CHECKING, Any

from us_anomaly import errors
from us_anomaly.version import __version__

if TYPE_CHECKING:
    from us_anomaly.detector import Detector, Prediction
    from us_anomaly.loading import load

__all__ = ["Detector", "Prediction", "__version__", "errors", "load"]


def __dir__() -> list[str]:
    """Return the names that are meant for use, whether they were imported yet or not."""
    return __all__


if not TYPE_CHECKING:  # to a type checker, any name would exist

    def __getattr__(name: str) -> Any:
        """Import the detector on first use, so that ``usad --help`` never loads torch."""
        if name in ("Detector", "Prediction"):
            from us_anomaly import detector

            return getattr(detector, name)
        if name == "load":
            from us_anomaly.loading import load

            return load
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
