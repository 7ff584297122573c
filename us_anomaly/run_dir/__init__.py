"""The run directory: names of its files, whole-or-nothing writes, and where each artifact came from."""

from us_anomaly.run_dir.layout import RunDir

__all__ = ["RunDir"]
