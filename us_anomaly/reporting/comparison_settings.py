"""The settings in which compared runs differ, and what they make of the runs: labels, data sets, and runs that are the same."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from us_anomaly.reporting.comparison_origin import Origin
from us_anomaly.reporting.run_collection import EvaluatedRun
from us_anomaly.settings import NAMED_FILES
from us_anomaly.settings.plain import typed

SEED = "seed"
_NAME_THE_DATA = ("data.root", "data.category")
_MOST_IN_LABEL = 3
_LONGEST_IN_LABEL = 24
_SAY_LITTLE_ALONE = ("enabled", "file", "images", "layers", "layout", "mode", "name", "positions", "table", "weights")
"""Last parts of keys that nobody would understand without the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distinction:
    """The settings in which runs differ."""

    keys: list[str]
    """All of them, dotted; a file behind a setting that has the same name but another content is one, too."""
    in_labels: dict[str, str]
    """Those that labels show, with the name they have there."""
    values: list[dict[str, Any]]
    """What each run has in them; without those that had no say in it."""

    def text(self, values: Mapping[str, Any]) -> str:
        """Return those of a run's settings that labels show, and how many more differ."""
        shown = [f"{name}={_short(values[key])}" for key, name in self.in_labels.items() if key in values]
        num_more = len(values) - len(shown)
        return ", ".join(shown) + (f" and {num_more} more" if shown and num_more else "")


def distinction(runs: Sequence[EvaluatedRun]) -> Distinction:
    """Find the settings in which those of `runs` differ that know them.

    What describes the data counts among the runs of one data set only, or each category would differ from the next.
    """
    known = [(run, run.origin) for run in runs if run.origin is not None]
    keys = []
    for key in sorted({key for _, origin in known for key in origin.settings}, key=lambda key: ("." in key, key)):
        scopes: dict[Any, list[Origin]] = {}
        for run, origin in known:
            if key in origin.settings and key not in _NAME_THE_DATA:
                scope = run.subject if key.startswith("data.") else None
                scopes.setdefault(scope, []).append(origin)
        if any(not _has_same(key, origins[0], other) for origins in scopes.values() for other in origins[1:]):
            keys.append(key)
    for file in sorted({file for _, origin in known for file in origin.files}):
        has_same_name = file.partition(" ")[0] not in keys
        if has_same_name and len({origin.files[file] for _, origin in known if file in origin.files}) > 1:
            keys.append(file)
    values = [_values(run, keys) for run in runs]
    return Distinction(keys=keys, in_labels=_in_labels(keys, values, runs), values=values)


def _has_same(key: str, origin: Origin, other: Origin) -> bool:
    """Tell whether two runs agree in a setting; of one that names a file, by the content of the file."""
    values = origin.settings[key], other.settings[key]
    are_typed_alike = typed(values[0]) == typed(values[1])
    if are_typed_alike or None in values:
        return are_typed_alike
    common = {file for file in origin.files.keys() & other.files.keys() if file.partition(" ")[0] == key}
    return bool(common) and all(origin.files[file] == other.files[file] for file in common)


def _values(run: EvaluatedRun, keys: Sequence[str]) -> dict[str, Any]:
    if run.origin is None:
        return {}
    known = run.origin.settings | {file: digest[:8] for file, digest in run.origin.files.items()}
    return {key: known[key] for key in keys if key in known}


def _in_labels(
    keys: Sequence[str], values: Sequence[Mapping[str, Any]], runs: Sequence[EvaluatedRun]
) -> dict[str, str]:
    """Choose all settings if they are few, else those that tell runs apart; name each by its last part if that is clear."""
    texts = {key: [_short(row[key]) if key in row else "" for row in values] for key in keys}
    fitting = [key for key in keys if max(map(len, texts[key])) <= _LONGEST_IN_LABEL]
    names = [run.name for run in runs]
    chosen = fitting if len(keys) <= _MOST_IN_LABEL else []
    while fitting and len(chosen) < _MOST_IN_LABEL < len(keys):
        told_apart = {key: _num_told_apart(names, [texts[one] for one in (*chosen, key)]) for key in fitting}
        best = max(fitting, key=lambda key: told_apart[key])
        if told_apart[best] <= _num_told_apart(names, [texts[one] for one in chosen]):
            break
        chosen = [*chosen, best]
    ends = [key.rpartition(".")[2] for key in {key for run in runs if run.origin for key in run.origin.settings}]
    return {key: _name_in_label(key, ends) for key in keys if key in chosen}


def _num_told_apart(names: Sequence[str], columns: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return how many runs have a label of their own with these columns, and how many different ones the columns have."""
    return len(set(zip(names, *columns, strict=True))), len(set(zip(*columns, strict=True)))


def _name_in_label(key: str, ends: Sequence[str]) -> str:
    end = key.rpartition(".")[2]
    return end if ends.count(end) == 1 and end not in _SAY_LITTLE_ALONE else key


def _short(value: Any) -> str:
    """Return the end of a path that is too long for a label, and everything else as it is typed."""
    text = typed(value)
    is_path = isinstance(value, str) and "/" in value
    return f"…{text[1 - _LONGEST_IN_LABEL :]}" if is_path and len(text) > _LONGEST_IN_LABEL else text


def labels(runs: Sequence[EvaluatedRun], differing: Distinction) -> list[str]:
    """Return a name for each run that no other has: category, the settings in which it differs, its folder if need be."""
    texts = [differing.text(values) for values in differing.values]
    names = [f"{run.name}: {text}" if text else run.name for run, text in zip(runs, texts, strict=True)]
    bare = [run.name for run in runs]
    folders = _short_folders(runs)
    return [
        f"{name} ({folder})" if names.count(name) > 1 or (run.origin is None and bare.count(run.name) > 1) else name
        for run, name, folder in zip(runs, names, folders, strict=True)
    ]


def _short_folders(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return the folder of each run without what all of them begin with."""
    paths = [run.folder.parts for run in runs]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    return [Path(*path[depth:]).as_posix() for path in paths]


def data_sets(runs: Sequence[EvaluatedRun]) -> list[tuple[str | None, ...]]:
    """Return what each run learned from and was evaluated on: equal where figures can be compared.

    Data sets of one name and category are told apart by their pictures, for *folder* is the name of everybody's own, and those
    of one list of pictures by what the files hold. A run that does not know what they held goes with those that do, if these
    agree.
    """
    by_list = [(*run.subject, run.origin.pictures if run.origin else None) for run in runs]
    by_content = [
        (*names, run.origin.contents if run.origin else None) for names, run in zip(by_list, runs, strict=True)
    ]
    lists, contents = (_num_known(keys) for keys in (by_list, by_content))
    return [
        (*names[:-1], names[-1] if lists[names[:-1]] > 1 else None, full[-1] if contents[names] > 1 else None)
        for names, full in zip(by_list, by_content, strict=True)
    ]


def _num_known(keys: Iterable[tuple[str | None, ...]]) -> Counter[tuple[str | None, ...]]:
    """Count the different last parts, where they are known, of what begins with the same others."""
    return Counter(key[:-1] for key in set(keys) if key[-1] is not None)


def repeated(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun | None]:
    """Return, for each run, the first of those before it that was made from the same pictures in the same way, if any."""
    found: list[EvaluatedRun | None] = []
    seen = data_sets(runs)
    for number, run in enumerate(runs):
        same = next(
            (earlier for earlier in range(number) if seen[earlier] == seen[number] and _is_same(run, runs[earlier])),
            None,
        )
        found.append(None if same is None else found[same] or runs[same])
    return found


def _without(settings: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def _is_same(run: EvaluatedRun, other: EvaluatedRun) -> bool:
    """Tell whether both were made alike; where notes do not tell what pictures hold, their folder does, or the figures."""
    if run.origin is None or other.origin is None or run.subject != other.subject:
        return False
    contents = {run.origin.contents, other.origin.contents}
    roots = {one.settings.get("data.root") for one in (run.origin, other.origin)}
    only_one = {"data.max_image_pixels"} - (
        run.origin.settings.keys() & other.origin.settings.keys()
    )  # older notes lack it
    theirs = replace(other.origin, settings=_without(other.origin.settings, only_one))
    elsewhere = {
        key: other.origin.settings.get(key) for key in ("data.root", *NAMED_FILES) if key in run.origin.settings
    }
    held = {name: getattr(other.origin, name) for name in ("contents", "scored", "test_masks")}  # compared by the first
    if None in (run.origin.saturation, other.origin.saturation):
        held["saturation"] = other.origin.saturation
    moved = replace(run.origin, settings=_without(run.origin.settings | elsewhere, only_one), **held)
    if None in contents:
        is_same_data = len(roots) == 1 or run.evaluation["metrics"] == other.evaluation["metrics"]
    else:
        is_same_data = len(contents) == 1
    return is_same_data and moved == theirs  # which compares the content of named files
