"""What the command line says about settings: faults in one line that quotes the key, and the meaning of keys."""

import re
import shlex
import sys

from us_anomaly.errors import UsadError


def one_line(error: BaseException) -> str:
    """Return what an error says as one line that quotes the key, without Hydra's and OmegaConf's decoration."""
    if isinstance(error, UsadError):
        return str(error)
    text = str(error)
    if (override := getattr(error, "override", None)) is not None:
        return _not_parsed(override, text)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'$", text.splitlines()[0] if text else ""):
        return (
            f"`{ambiguous.group(1)}` has several values; add -m to run one job for each, write a list as key=[a,b], or, if it is "
            f"one text, {_way_to_quote(ambiguous.group(1))}"
        )
    cause = error.__cause__ or error.__context__
    detail = str(cause) if cause is not None else text
    key = re.search(r"full_key: (\S+)", detail + "\n" + text)
    lines = [line.strip() for line in detail.splitlines() if line.strip()] or [type(error).__name__]
    first = lines[0]
    if first.startswith("In '") and "Could not find" in first:
        choices = " ".join(lines[1:]).partition("Config search path")[0]
        return f"{first.partition(': ')[2]}. {choices}".strip()
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


def _not_parsed(override: str, text: str) -> str:
    """Return what to say about an argument that Hydra cannot read."""
    reason = text.replace(f"Error parsing override '{override}'", "").strip().splitlines()[0]
    shown = "" if reason.startswith("Lexer") else f" ({reason})"
    return f"`{override}` is not key=value{shown}; {_way_to_quote(override)}"


def _way_to_quote(override: str) -> str:
    """Say how an override is typed whose value is one text: Hydra needs quotes, and the shell needs quotes around them."""
    key, sign, value = override.partition("=")
    example = f"{key}={quoted(value)}" if sign and value else 'key="a, b"'
    return f"quote special characters, as in {shlex.quote(example)}"


def quoted(text: str) -> str:
    """Return a text in quotes, as the value of an override that stands for just this text."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def similar_key(full_key: str) -> str:
    """Return a question about the setting that was probably meant, or nothing."""
    import dataclasses
    import difflib

    from us_anomaly import settings

    keys = []
    for field in dataclasses.fields(settings.Settings):
        keys.append(field.name)
        groups = {"data": settings.DATA_LAYOUTS, "backbone": settings.BACKBONES}.get(field.name, (field.type,))
        for group in groups:
            if dataclasses.is_dataclass(group):
                keys += [f"{field.name}.{sub.name}" for sub in dataclasses.fields(group)]
    near = difflib.get_close_matches(full_key, keys, n=1, cutoff=0.6)
    return f", did you mean `{near[0]}`?" if near else ""


def unknown_key(full: str) -> str:
    """Return what to say about a key that is no setting."""
    return f"`{full}` is not a setting{similar_key(full)}; `usad COMMAND --cfg job` shows all of them"


def explain_keys(wanted: str) -> int:
    """Print what a key means, or all keys of a group; `all` prints every key there is."""
    import textwrap

    from us_anomaly import settings
    from us_anomaly.settings.documentation import explain

    keys = explain(settings.Settings, groups={"data": settings.DATA_LAYOUTS, "backbone": settings.BACKBONES})
    chosen = [key for key in keys if wanted == "all" or key.key == wanted or key.key.startswith(f"{wanted}.")]
    if not chosen:
        print(f"usad: `{wanted}` is not a setting{similar_key(wanted)}", file=sys.stderr)
        return 1
    for key in chosen:
        print(key.key)
        print(textwrap.fill(key.meaning, width=100, initial_indent="    ", subsequent_indent="    "))
    return 0
