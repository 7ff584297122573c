"""The folder of configuration files (`--config-dir`) with which something was made, for whoever goes on there."""

import os

from us_anomaly.errors import UsadError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.layout import RunDir

CONFIG_DIR = "--config-dir="


def added_folder_of(run_dir: RunDir) -> str | None:
    """Return the folder of configuration files that was added when something was last made, if it is still there.

    It is for messages: a run directory may come from anybody.
    """
    try:
        content = read_json(run_dir.made_with)
    except UsadError:
        return None
    match content:
        case {"config_dir": str(folder)} if can_be_offered(folder):
            return folder
    return None


def can_be_offered(folder: str) -> bool:
    """Return whether a folder that somebody wrote down may stand in a message as one to be typed."""
    return folder.isprintable() and os.path.isabs(folder) and os.path.isdir(folder)  # noqa: PTH112, PTH117 (texts)
