"""Whether an artifact is what the settings and inputs in force make, and in words why not: provenance notes against recipes.

An artifact is *up to date* when all of its note agrees with what is in force; it is *missing* without its note, which is
written last (so it was interrupted), and *stale* otherwise.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from us_anomaly.errors import ArtifactError, MissingArtifactError, StaleArtifactError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.environment import say_if_made_elsewhere
from us_anomaly.run_dir.format_version import advice_on_version
from us_anomaly.run_dir.layout import RunDir, is_inside
from us_anomaly.run_dir.provenance import CONTENTS, OF_THE_DATA_SET, SEVERAL, Recipe, content_hash
from us_anomaly.settings.plain import typed

_OTHER_SETTING = "it was made with "
_UNSET = "not set"
MAX_TOLD = 6
"""More differences than this are counted, not told."""
_NOT_ALWAYS_KNOWN = OF_THE_DATA_SET[1:]
"""Older notes do not mention them, and where the data set is gone they may not be known."""


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
        return "stale", _first_of(differences)
    say_if_made_elsewhere(run_dir.root, run_dir.name_of(artifact), note.get("environment"))
    return "current", ""


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
    if note["inputs"].get(CONTENTS) != recipe.inputs.get(CONTENTS) and not recipe.explain.get(CONTENTS, str)():
        by_content -= {CONTENTS}  # the folder helps to see why
    for key in sorted((recorded.keys() | recipe.settings.keys()) - by_content):
        then, now = (settings.get(key, recipe.when_absent.get(key, _UNSET)) for settings in (recorded, recipe.settings))
        for place, was, is_now in _apart(key, then, now):
            differences.append(f"{_OTHER_SETTING}{place}={typed(was)}, now {place}={typed(is_now)}")
    unexplained = []
    for name in sorted(note["inputs"].keys() | recipe.inputs.keys()):
        then, now = note["inputs"].get(name), recipe.inputs.get(name, recipe.before.get(name))
        if then == now or (None in (then, now) and name in _NOT_ALWAYS_KNOWN):
            continue
        if then is None or now is None:
            differences.append(f"it was made {'without' if then is None else 'with'} {name}")
            continue
        words = recipe.explain[name]() if name in recipe.explain else None
        told = f"it was made from {_another(name)}"
        if words == "":  # something else may tell it
            unexplained.append(told)
        else:
            differences.append(told + (f" ({words})" if words else ""))
    return differences or unexplained


def _first_of(differences: Sequence[str]) -> str:
    """Return the differences that tell most, and how many there are more: one setting may bring along thirty of its group."""
    telling = sorted(differences, key=lambda text: _UNSET in text)
    more = len(telling) - MAX_TOLD
    return "; ".join(telling[:MAX_TOLD]) + (f"; and {more} more" if more > 0 else "")


def _another(name: str) -> str:
    if name == CONTENTS:
        return f"another content of {name}"
    return f"{'other' if name in SEVERAL else 'another'} {name}"


def _apart(key: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield where two values differ, entry by entry where they are lists or mappings of the same shape."""
    match then, now:
        case dict(), dict() if then.keys() == now.keys():
            for name in then:
                yield from _apart(f"{key}.{name}", then[name], now[name])
        case list(), list() if len(then) == len(now) and all(isinstance(entry, dict) for entry in (*then, *now)):
            for number, (before, after) in enumerate(zip(then, now, strict=True)):
                yield from _apart(f"{key}.{number}", before, after)
        case _ if then != now:
            yield key, then, now


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
