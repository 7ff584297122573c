"""What the command line says about settings: faults in one line that quotes the key."""

import re
import shlex
from pathlib import Path
from typing import Any, get_args

from us_anomaly.errors import UsadError

LAUNCHERS = {
    "hydra-joblib-launcher": ("joblib",),
    "hydra-submitit-launcher": ("submitit_local", "submitit_slurm"),
    "hydra-ray-launcher": ("ray", "ray_aws"),
    "hydra-rq-launcher": ("rq",),
}
"""Packages that bring launchers of sweeps, and what they bring."""


_ALSO_LISTS = ("image_size",)
"""Settings that take a list among other things."""
NO_CONSTANT = r"(?!(?:null|true|false|inf|nan)$)"
"""Begins a pattern of words: those that Hydra reads as a value of another kind are none."""


NEEDS_A_FOLDER = "; one of your own needs --config-dir FOLDER"


def one_line(error: BaseException) -> str:
    """Return what an error says as one line that quotes the key, without Hydra's and OmegaConf's decoration."""
    if isinstance(error, UsadError):
        return str(error)
    text = str(error)
    if (override := getattr(error, "override", None)) is not None:
        return _not_parsed(override, text)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'$", text.splitlines()[0] if text else ""):
        return _several_values(ambiguous.group(1))
    cause = error.__cause__ or error.__context__
    detail = str(cause) if cause is not None else text
    key = re.search(r"full_key: (\S+)", detail + "\n" + text)
    lines = [line.strip() for line in detail.splitlines() if line.strip()] or [type(error).__name__]
    first = lines[0]
    if interpolated := re.match(
        r"While dereferencing interpolation '.*?': (.*)", text
    ):  # its cause still has placeholders
        first = interpolated[1]
    first = re.sub(r'\w+ raised while resolving interpolation: "?(.*?)"?$', r"\1", first)
    if first.startswith("In '") and "Could not find" in first:
        choices = " ".join(lines[1:]).partition("Config search path")[0].strip()
        return f"{first.partition(': ')[2]}. {choices}{_where_else(first)}"
    if unknown := re.search(r"Key '([^']+)' not in '(\w+)'", detail + "\n" + text):
        full = key.group(1) if key else unknown.group(1)
        return unknown_key(full)
    if null := re.search(r"field '([^']+)' is not Optional", first):
        return f"`{null.group(1)}` cannot be null; `usad help {null.group(1)}` says what it means"
    if key and "is not a ListConfig, list or tuple" in first:
        return f"`{key.group(1)}` is a list, as in {key.group(1)}=[a,b]"
    if key and key.group(1) not in first:
        return f"`{key.group(1)}`: {first}"
    return first if first in text or cause is None else f"{text.strip().splitlines()[0]}: {first}"


def _several_values(override: str) -> str:
    """Return what to say about a value with commas where one job is asked for."""
    key = override.partition("=")[0]
    if key == "inference.input":
        return (
            f"`{override}` has a comma: `{key}` takes one file, folder or glob; if the comma is in its name, "
            f"{_way_to_quote(override)}"
        )
    if not is_list(key) and (with_point := _with_point(override)) is not None:
        return (
            f"`{override}` has a comma: numbers have a point, {with_point}; if several values are meant, add -m to run one job "
            "for each"
        )
    as_list = f"write a list as {key}=[a,b], " if is_list(key) else ""
    return (
        f"`{override}` has several values; add -m to run one job for each, {as_list}or, if it is one text, "
        f"{_way_to_quote(override)}"
    )


def _with_point(override: str) -> str | None:
    """Return an override with a point where a number has a decimal comma; None where that cannot be what was meant."""
    key, _, value = override.partition("=")
    is_number = re.fullmatch(r"[+-]?\d+,\d+(e[+-]?\d+)?", value, re.IGNORECASE | re.ASCII) is not None
    return f"{key}={value.replace(',', '.')}" if is_number and takes_fraction(key) else None


def _where_else(text: str) -> str:
    """Say where to find what is no option of a group, if we know."""
    if "'experiment/" in text:
        return NEEDS_A_FOLDER
    if "'backbone/" in text:
        return "; other networks of torchvision: backbone.name=resnet50"
    for package, names in LAUNCHERS.items():
        if any(f"'hydra/launcher/{name}'" in text for name in names):
            return f"; pip install {package} brings it"
    return ""


def _not_parsed(override: str, text: str) -> str:
    """Return what to say about an argument that Hydra cannot read."""
    key, sign, _ = override.partition("=")
    if not sign:
        return f"`{override}` is not key=value; {_meant_by(override)}"
    if re.search(r"\[\d+\]", key):
        dotted = re.sub(r"\[(\d+)\]", r".\1", key)
        return f"`{override}` is not key=value: the place in a list is written with a dot, {dotted}=..."
    reason = text.replace(f"Error parsing override '{override}'", "").strip().splitlines()[0]
    shown = "" if reason.startswith("Lexer") else f" ({reason})"
    return f"`{override}` is not key=value{shown}; {_way_to_quote(override)}"


def _meant_by(text: str) -> str:
    """Return what to say about a text without a key: where it is a path, a question about the key that was probably meant."""
    from us_anomaly.data.listing import exists
    from us_anomaly.run_dir import RunDir

    if not exists(Path(text)):
        return "no spaces around `=`, and quotes around a value that has some"
    if RunDir(Path(text)).is_known:
        return f"did you mean run_dir={text}?"
    return f"did you mean inference.input={text}, or data.root={text}?"


def _way_to_quote(override: str) -> str:
    """Say how an override is typed whose value is one text: Hydra needs quotes, and the shell needs quotes around them."""
    key, sign, value = override.partition("=")
    example = f"{key}={quoted(value)}" if sign and value else 'key="a, b"'
    return f"quote special characters, as in {shlex.quote(example)}"


def quoted(text: str) -> str:
    """Return a text in quotes, as the value of an override that stands for just this text."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def as_text(text: str) -> str:
    """Return a text as the value of an override that stands for just this text, in quotes only where Hydra needs them.

    Without, `true` and `1e3` would be something else, and a comma would divide it.
    """
    return (
        text
        if re.fullmatch(rf"{NO_CONSTANT}(\.\./)*[a-zA-Z_/][\w./+-]*", text, re.IGNORECASE | re.ASCII)
        else quoted(text)
    )


def _types_of_keys() -> dict[str, Any]:
    """Return every key of two levels with its type."""
    import dataclasses

    from us_anomaly import settings

    types: dict[str, Any] = {}
    for field in dataclasses.fields(settings.Settings):
        types[field.name] = field.type
        for group in settings.GROUPS.get(field.name, (field.type,)):
            if dataclasses.is_dataclass(group):
                types |= {f"{field.name}.{sub.name}": sub.type for sub in dataclasses.fields(group)}
    return types


def known_keys() -> list[str]:
    """Return the keys of all settings of two levels."""
    return list(_types_of_keys())


def is_list(key: str) -> bool:
    """Return whether a setting takes a list."""
    return key in _ALSO_LISTS or getattr(_types_of_keys().get(key), "__origin__", None) is list


def takes_fraction(key: str) -> bool:
    """Return whether a setting takes a number with a fraction, perhaps among other things."""
    kind = _types_of_keys().get(key)
    return kind is Any or float in (kind, *get_args(kind))


def similar_key(full_key: str) -> str:
    """Return a question about the setting that was probably meant, or nothing."""
    import difflib

    near = difflib.get_close_matches(full_key, known_keys(), n=1, cutoff=0.6)
    return f", did you mean `{near[0]}`?" if near and near[0] != full_key else ""


def unknown_key(full: str) -> str:
    """Return what to say about a key that is no setting."""
    if full == "experiment":
        return "an experiment of your own must begin with the line `# @package _global_`"
    if full in _types_of_keys():
        return f"`{full}` is not a setting of this command; `usad COMMAND --cfg job` shows those that are"
    return f"`{full}` is not a setting{similar_key(full)}; `usad COMMAND --cfg job` shows all of them"
