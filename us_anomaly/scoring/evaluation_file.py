"""`evaluation.json` as it is read back: of this format, and with everything that its readers take for granted."""

from pathlib import Path
from typing import Any

from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.format_version import check_format
from us_anomaly.scoring.evaluation import FORMAT_VERSION

GROUPS: dict[str, tuple[str, ...]] = {
    "data_set": ("name", "category"),
    "bootstrap": ("num_resamples",),
    "counts": (),
    "metrics": (),
    "per_defect_type": (),
    "threshold": ("value",),
}
"""Mappings that must be there, and the keys that each must have."""


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the content of `evaluation.json`.

    Raises:
        ArtifactError: It is damaged, or of another format version.
    """
    evaluation = read_json(path)
    if not isinstance(evaluation, dict):
        raise ArtifactError(f"{path} is not an evaluation; delete it and run `usad evaluate`")
    check_format(path, evaluation.get("format_version"), reads=FORMAT_VERSION, command="evaluate")
    if (missing := _missing(evaluation)) is not None:
        raise ArtifactError(f"{path} is not an evaluation, it lacks {missing}; delete it and run `usad evaluate`")
    return evaluation


def _missing(evaluation: dict[str, Any]) -> str | None:
    """Return the first thing that an evaluation must have and this does not; None where it has everything."""
    for name, keys in GROUPS.items():
        group = evaluation.get(name)
        if not isinstance(group, dict):
            return name
        for key in keys:
            if key not in group:
                return f"{name}.{key}"
    for name, value in evaluation["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"a number for metrics.{name}"
    return None if isinstance(evaluation.get("resolution"), str) else "resolution"
