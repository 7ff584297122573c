"""What an artifact was made from, and whether that is still what is in force.

Beside every artifact lies `provenance/<artifact>.json`: the stage and its format version, the settings that decided the
artifact, the SHA-256 of each input artifact and of the artifact itself. An artifact is *up to date* when all four agree
with what is in force; it is *missing* without its provenance (it was interrupted), and *stale* otherwise.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from us_anomaly.errors import ArtifactError, MissingArtifactError, StaleArtifactError
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.run_dir.layout import RunDir
from us_anomaly.version import __version__

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides an artifact."""

    command: str
    """The command that makes it, for example `train-students`."""
    settings: dict[str, Any]
    """The settings that decide it, flat: dotted key to plain value."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Content hash of each input, by the name it has in the run directory."""
    format_version: int = FORMAT_VERSION
    """Version of the artifact's format."""


def fingerprint(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe: two artifacts of one fingerprint are the same artifact."""
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def record(run_dir: RunDir, artifact: Path, recipe: Recipe, *, seconds: float) -> None:
    """Write down that `artifact`, which is complete on disk, was made by `recipe` in `seconds`."""
    note = {
        **asdict(recipe),
        "sha256": content_hash(artifact),
        "seconds": round(seconds, 3),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "us_anomaly": __version__,
        "environment": environment(),
    }
    write_json(run_dir.provenance(artifact), note)


def environment() -> dict[str, str]:
    """Return what besides the recipe can change the last digits of a result."""
    import platform
    import sys

    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "torchvision", "numpy"):
        if name in sys.modules:
            versions[name] = str(sys.modules[name].__version__)
    return versions


def state(run_dir: RunDir, artifact: Path, recipe: Recipe) -> tuple[Literal["current", "missing", "stale"], str]:
    """Return whether `artifact` can be used as it lies there, and the reason if not."""
    note_path = run_dir.provenance(artifact)
    if not artifact.exists() or not note_path.exists():
        return "missing", f"{artifact} does not exist"
    note = read_json(note_path)
    try:
        differences = _differences(note, recipe)
        recorded_hash = note["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{note_path} is not a provenance note ({error!r}); delete {artifact} and it") from error
    if differences:
        return "stale", "; ".join(differences)
    if recorded_hash != content_hash(artifact):
        return "stale", "the file was changed after it was made"
    return "current", ""


def require(run_dir: RunDir, artifact: Path, recipe: Recipe) -> str:
    """Return the content hash of `artifact` if it is what `recipe` makes.

    Raises:
        MissingArtifactError: It was not made yet; the message names the command that makes it.
        StaleArtifactError: It was made from something else; the message says from what and shows the ways out.
    """
    condition, reason = state(run_dir, artifact, recipe)
    if condition == "missing":
        raise MissingArtifactError(
            f"{artifact} does not exist: run `usad {recipe.command}` first, with the same settings (or `usad run` for all stages)"
        )
    if condition == "stale":
        raise StaleArtifactError(
            f"{artifact} was made from something else than what is in force: {reason}. Give the settings it was made with, "
            f"make it again with `usad {recipe.command} overwrite=true`, or choose another run_dir="
        )
    return content_hash(artifact)


def _differences(note: dict[str, Any], recipe: Recipe) -> list[str]:
    """Say in words where a note and a recipe differ."""
    if note["format_version"] != recipe.format_version:
        return [
            f"its format is version {note['format_version']}, this us_anomaly reads version {recipe.format_version}"
        ]
    differences = []
    recorded = note["settings"]
    for key in sorted(recorded.keys() | recipe.settings.keys()):
        then, now = recorded.get(key, "not set"), recipe.settings.get(key, "not set")
        if then != now:
            differences.append(f"it was made with {key}={_shown(then)}, now {key}={_shown(now)}")
    for name in sorted(note["inputs"].keys() | recipe.inputs.keys()):
        if note["inputs"].get(name) != recipe.inputs.get(name):
            differences.append(f"it was made from another {name}")
    return differences


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
