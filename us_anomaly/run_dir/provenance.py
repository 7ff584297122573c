"""What an artifact was made from, and whether that is still what is in force.

Beside every artifact lies `provenance/<artifact>.json`: the stage and its format version, the settings that decided the
artifact, the SHA-256 of each input artifact and of the artifact itself, and the sizes of the files that belong to it (the maps
of `predictions.jsonl`). An artifact is *up to date* when all of it agrees with what is in force; it is *missing* without
its provenance, which is written last (so it was interrupted), and *stale* otherwise.

A note outlives the artifact it describes: where an artifact is made again and that fails half-way, the old one is still
there and still described. A note never vouches for another file than its own, because it holds the hash.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from us_anomaly.errors import ArtifactError, MissingArtifactError, StaleArtifactError
from us_anomaly.run_dir.atomic import flush_folder, read_json, write_json
from us_anomaly.run_dir.environment import environment, say_if_made_elsewhere
from us_anomaly.run_dir.format_version import advice_on_version
from us_anomaly.run_dir.layout import RunDir, is_inside
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
_SEVERAL = (TRAINING_PICTURES, REFERENCE_PICTURES, SCORED_PICTURES, TEST_MASKS)
OF_THE_DATA_SET = (LIST_OF_PICTURES, CONTENTS, *_SEVERAL)
"""Names of inputs that lie outside of the run directory, by name and content."""
_OTHER_SETTING = "it was made with "
_NOT_ALWAYS_KNOWN = OF_THE_DATA_SET[1:]
"""Older notes do not mention them, and where the data set is gone they may not be known."""


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
    """Version of the artifact's format."""
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
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
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


def state(run_dir: RunDir, artifact: Path, recipe: Recipe) -> tuple[Literal["current", "missing", "stale"], str]:
    """Return whether `artifact` can be used as it lies there, and the reason if not.

    The files that belong to it are compared by size: hashing gigabytes of maps before every command would take longer than
    most commands.

    Raises:
        ArtifactError: Its provenance is damaged.
    """
    note_path = run_dir.provenance(artifact)
    if not artifact.exists():
        return "missing", f"{artifact} does not exist"
    if not note_path.exists():
        return "missing", f"{artifact} was not completed"
    note = read_json(note_path)
    try:
        differences = _differences(note, recipe)
        if not differences:
            differences = _changed(run_dir, artifact, note)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(note_path, error) from error
    if differences:
        return "stale", "; ".join(differences)
    say_if_made_elsewhere(run_dir.root, run_dir.name_of(artifact), note.get("environment"))
    return "current", ""


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


def require_consistent(run_dir: RunDir, artifact: Path, *, parts: Iterable[Path]) -> None:
    """Check that a finished artifact was made from just these parts, whatever the settings in force.

    Args:
        run_dir: Where they lie.
        artifact: For example `calibration.json`.
        parts: Artifacts that are used together with it.

    Raises:
        MissingArtifactError: It was not made yet, or not completed.
        StaleArtifactError: Something was changed since.
    """
    note_path = run_dir.provenance(artifact)
    if not artifact.exists() or not note_path.exists():
        what = "does not exist" if not artifact.exists() else "was not completed"
        raise MissingArtifactError(f"{artifact} {what}: run `usad run` with the settings of this run directory")
    note = read_json(note_path)
    try:
        changed = _changed(run_dir, artifact, note)
        changed += [
            f"{part} is not the file it was made from"
            for part in parts
            if part.is_file() and note["inputs"].get(run_dir.name_of(part)) != content_hash(part)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(note_path, error) from error
    if changed:
        raise StaleArtifactError(
            f"{artifact} cannot be used: {'; '.join(changed)}. Run `usad run` with the settings of this run directory"
        )
    say_if_made_elsewhere(run_dir.root, run_dir.name_of(artifact), note.get("environment"))


def require(run_dir: RunDir, artifact: Path, recipe: Recipe) -> str:
    """Return the content hash of `artifact` if it is what `recipe` makes.

    Raises:
        MissingArtifactError: It was not made yet; the message names the command that makes it.
        StaleArtifactError: It was made from something else; the message says from what and shows the ways out.
    """
    condition, reason = state(run_dir, artifact, recipe)
    if condition == "missing":
        raise MissingArtifactError(
            f"{reason}{_other_scales(run_dir, artifact) or ':'} run `usad {recipe.command}` first, with the same settings (or "
            "`usad run` for all stages)"
        )
    if condition == "stale":
        raise StaleArtifactError(
            f"{made_otherwise(run_dir, artifact, reason)} run `usad {recipe.command}` with the settings in force and "
            "overwrite=true"
        )
    return content_hash(artifact)


def _other_scales(run_dir: RunDir, artifact: Path) -> str:
    """Say that other patch sizes have what is missing: somebody forgot what the run directory was made with."""
    made = [size for size in run_dir.patch_sizes if (run_dir.scale(size) / artifact.name).exists()]
    if artifact.parent == run_dir.root or not made:
        return ""
    sizes = ",".join(map(str, made))
    said = (
        f", but {run_dir.root} was made with scales=[{sizes}]: give all settings it was made with, such as experiment="
    )
    return f"{said}{_remembered_by(run_dir)}; else"


def made_otherwise(run_dir: RunDir, artifact: Path, reason: str) -> str:
    """Say that an artifact is stale and how to keep it; what follows is how to make it anew."""
    keep = "choose another run_dir="
    if _OTHER_SETTING in reason:
        keep = f"give the settings it was made with{_remembered_by(run_dir)} or another run_dir="
    return (
        f"{artifact} was made from something else than what is in force: {reason}. To keep it, {keep}; to make it anew,"
    )


def _remembered_by(run_dir: RunDir) -> str:
    """Say that the run directory remembers the settings it was made with, if it does."""
    return f" (run_dir={run_dir.root} without data= and data.root= takes them)" if run_dir.made_with.is_file() else ""


def _differences(note: dict[str, Any], recipe: Recipe) -> list[str]:
    """Say in words where a note and a recipe differ."""
    version, reads = note["format_version"], recipe.format_version
    if version != reads:
        return [f"its format is version {version}, {advice_on_version(version, reads=reads, command=recipe.command)}"]
    differences = []
    recorded = note["settings"]
    by_content = note["inputs"].keys() & recipe.inputs.keys()
    if note["inputs"].get(CONTENTS) != recipe.inputs.get(CONTENTS):
        by_content -= {CONTENTS}  # the folder helps to see why
    for key in sorted((recorded.keys() | recipe.settings.keys()) - by_content):
        then, now = (
            settings.get(key, recipe.when_absent.get(key, "not set")) for settings in (recorded, recipe.settings)
        )
        if then != now:
            differences.append(f"{_OTHER_SETTING}{key}={_shown(then)}, now {key}={_shown(now)}")
    unexplained = []
    for name in sorted(note["inputs"].keys() | recipe.inputs.keys()):
        then, now = note["inputs"].get(name), recipe.inputs.get(name, recipe.before.get(name))
        if then == now or (None in (then, now) and name in _NOT_ALWAYS_KNOWN):
            continue
        if then is None or now is None:
            differences.append(f"it was made {'without' if then is None else 'with'} {name}")
            continue
        words = recipe.explain[name]() if name in recipe.explain else None
        told = f"it was made from {'other' if name in _SEVERAL else 'another'} {name}"
        if words == "":  # something else may tell it
            unexplained.append(told)
        else:
            differences.append(told + (f" ({words})" if words else ""))
    return differences or unexplained


def _changed(run_dir: RunDir, artifact: Path, note: dict[str, Any]) -> list[str]:
    """Say in words what was changed on disk after an artifact was made."""
    if note["sha256"] != content_hash(artifact):
        return ["the file was changed after it was made"]
    for name, size in note.get("files", {}).items():
        path = run_dir.root / name
        if not is_inside(name) or not path.is_file():
            return [f"{name}, which belongs to it, is missing"]
        if path.stat().st_size != size:
            return [f"{name}, which belongs to it, was changed"]
    return []


def _damaged(note_path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{note_path} is not a provenance note ({error!r}); delete it, what it describes is made again"
    )


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
