"""The folder of `inference.output`: whether results may go there, and for which input it is."""

import logging
import os
from pathlib import Path

from us_anomaly.data.listing import some
from us_anomaly.errors import ArtifactError, StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.settings import Settings

log = logging.getLogger(__name__)


def output_folder(settings: Settings) -> RunDir:
    """Return the folder that `inference.output` names, if the results of `inference.input` may go there; nothing is written.

    Raises:
        StaleArtifactError: The folder holds something else, or is part of a run directory.
    """
    assert settings.inference.input is not None
    assert settings.inference.output is not None
    target, what = RunDir(settings.inference.output), settings.inference.input
    root = Path(os.path.realpath(target.root))
    for folder in (root, *root.parents):
        if RunDir(folder).split.exists() or RunDir(folder).made_with.exists():
            place = "is" if folder == root else f"lies in {folder},"
            raise StaleArtifactError(
                f"inference.output={target.root} {place} a run directory: choose a folder of its own for the results"
            )
    if root.is_relative_to(os.path.realpath(settings.data.root)):
        log.warning(
            "inference.output=%s lies in the folder of the data set, data.root=%s: take care that its pictures are not taken for "
            "some of the data set",
            target.root,
            settings.data.root,
        )
    if settings.overwrite:
        return target
    named = _last_input(target)
    if named is not None and named != _name_of(what):
        raise StaleArtifactError(
            f"inference.output={target.root} holds the results of {named}: choose another folder, or replace them with "
            "overwrite=true"
        )
    strangers = [path.name for path in (target.predictions, *target.result_folders) if path.exists()]
    if named is None and strangers:
        raise StaleArtifactError(
            f"inference.output={target.root} holds {some(strangers)}, and no note that they are results of usad: choose another "
            "folder, or replace them with overwrite=true"
        )
    return target


def note_input(target: RunDir, what: str) -> None:
    """Write down which input the folder is for, before its results come: a process that is killed leaves it known."""
    write_json(target.scored_input, {"inference.input": _name_of(what)})


def _last_input(target: RunDir) -> str | None:
    """Return the input whose results a folder holds, or was about to hold; None where that is not known."""
    try:
        match read_json(target.scored_input) if target.scored_input.exists() else None:
            case {"inference.input": str(named)}:
                return named
    except ArtifactError:  # damaged: nobody knows
        pass
    return None


def _name_of(what: str) -> str:
    """Return an input as a path from the root, with links as they are: `latest` may lead elsewhere each day."""
    return str(Path(what).absolute())
