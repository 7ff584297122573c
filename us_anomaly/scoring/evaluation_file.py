"""`evaluation.json` as it is read back: of this format, and with everything that its readers take for granted."""

from pathlib import Path
from typing import Any

from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.format_version import check_format
from us_anomaly.scoring.evaluation import FORMAT_VERSION

GROUPS = ("data_set", "bootstrap", "counts", "metrics", "per_defect_type", "threshold")


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the content of `evaluation.json`.

    Raises:
        ArtifactError: It is damaged, or of another format version.
    """
    evaluation = read_json(path)
    if not isinstance(evaluation, dict):
        raise ArtifactError(f"{path} is not an evaluation; delete it and run `usad evaluate`")
    check_format(path, evaluation.get("format_version"), reads=FORMAT_VERSION, command="evaluate")
    missing = [name for name in GROUPS if not isinstance(evaluation.get(name), dict)]
    if missing:
        raise ArtifactError(f"{path} is not an evaluation, it lacks {missing[0]}; delete it and run `usad evaluate`")
    return evaluation
