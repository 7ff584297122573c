"""What an artifact was made from: its recipe, and the note beside it that says the same of the artifact that is there.

Beside every artifact lies `provenance/<artifact>.json`: the stage and its format version, the settings that decided the
artifact, the SHA-256 of each input artifact and of the artifact itself, and the sizes of the files that belong to it (the maps
of `predictions.jsonl`). Whether that is still what is in force is for `staleness` to say.

A note outlives the artifact it describes: where an artifact is made again and that fails half-way, the old one is still
there and still described. A note never vouches for another file than its own, because it holds the hash.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from us_anomaly.run_dir.atomic import flush_folder, read_json, write_json
from us_anomaly.run_dir.environment import environment
from us_anomaly.run_dir.faults import cannot_read
from us_anomaly.run_dir.layout import RunDir
from us_anomaly.version import __version__

FORMAT_VERSION = 1
LIST_OF_PICTURES = "list of pictures"
"""Name of an input: pictures of the data set with their labels."""
CONTENTS = "data.root"
"""Name of an input: pictures and masks byte by byte. They decide then, and not the folder that the setting of this name names."""
TRAINING_PICTURES = "training pictures"
REFERENCE_PICTURES = "pictures of the calibration"
SCORED_PICTURES = "scored pictures"
TEST_MASKS = "masks of the test pictures"
SCORED_MASKS = "masks of the scored pictures"
SEVERAL = (TRAINING_PICTURES, REFERENCE_PICTURES, SCORED_PICTURES, TEST_MASKS, SCORED_MASKS)
SATURATION_TABLE = "table of saturated defects"
TEST_LABELS = "list of the test pictures"
TRAINING_GROUPS = "list of the groups of the training pictures"
OF_THE_DATA_SET = (LIST_OF_PICTURES, CONTENTS, *SEVERAL, SATURATION_TABLE, TEST_LABELS, TRAINING_GROUPS)
"""Names of inputs that lie outside of the run directory, by name and content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides an artifact."""

    command: str
    """The command that makes it, for example `train-students`."""
    settings: dict[str, Any]
    """The settings that decide it, flat: dotted key to plain value."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Content hash of each input, by the name it has in the run directory; of a file of the user's, by the setting that names it.
    Where there is one of a setting, the content decides and not the path, which depends on where a command is typed."""
    format_version: int = FORMAT_VERSION
    """Version of the artifact's format, which the module that writes it knows; that of notes for one that has none of its own."""
    when_absent: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a setting is where `settings` leave it out, for messages; no part of what decides the artifact."""
    explain: dict[str, Callable[[], str]] = field(default_factory=dict, compare=False, repr=False)
    """How to say in words what is different about an input, for messages; no part of what decides the artifact."""
    before: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Inputs that older notes mention in the place of others."""


def fingerprint(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe: two artifacts of one fingerprint are the same artifact."""
    settings = {key: value for key, value in recipe.settings.items() if key not in recipe.inputs}
    return hashlib.sha256(json.dumps(_noted(recipe) | {"settings": settings}, sort_keys=True).encode()).hexdigest()


def _noted(recipe: Recipe) -> dict[str, Any]:
    return {entry.name: getattr(recipe, entry.name) for entry in fields(recipe) if entry.compare}


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        ResourceError: This user may not read it.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except PermissionError as error:
        raise cannot_read(path, error) from error
    return digest.hexdigest()


def record(
    run_dir: RunDir,
    artifact: Path,
    recipe: Recipe,
    *,
    seconds: float,
    files: Iterable[Path] = (),
    runtime: Mapping[str, Any] | None = None,
) -> None:
    """Write down that `artifact`, which is complete on disk, was made by `recipe`.

    Args:
        run_dir: Where it lies.
        artifact: The file that vouches for itself and for `files`.
        recipe: What decides it.
        seconds: How long it took.
        files: Files that belong to it; they are as old as the artifact or older.
        runtime: Settings that were in force and decide no more than rounding.
    """
    note = {
        **_noted(recipe),
        "sha256": content_hash(artifact),
        "files": {path.relative_to(run_dir.root).as_posix(): path.stat().st_size for path in sorted(files)},
        "seconds": round(seconds, 3),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "us_anomaly": __version__,
        "environment": environment(),
        "runtime": dict(runtime or {}),
    }
    write_json(run_dir.provenance(artifact), note)


def withdraw(run_dir: RunDir, artifact: Path) -> None:
    """Remove the note of an artifact of several files right before they are replaced one after the other.

    An artifact of one file needs no such thing: the hash in its note fits the old file or the new one.
    """
    note_path = run_dir.provenance(artifact)
    if note_path.exists():
        note_path.unlink()
        flush_folder(note_path.parent)


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file of the user's that an artifact was made from."""

    path: str
    """As it was named."""
    content_hash: str


def recorded_file(run_dir: RunDir, artifact: Path, key: str) -> RecordedFile | None:
    """Return the file that a setting named when an artifact was made; None where that is not known."""
    note_path = run_dir.provenance(artifact)
    match read_json(note_path) if note_path.exists() else None:
        case {"inputs": {**inputs}, "settings": {**settings}}:
            match settings.get(key), inputs.get(key):
                case str(path), str(digest):
                    return RecordedFile(path, digest)
    return None
