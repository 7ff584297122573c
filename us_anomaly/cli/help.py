"""`usad help`: what a setting means, which options a group of files has, and which settings mention a word."""

import itertools
import re
import sys
import textwrap
from pathlib import Path

from us_anomaly.cli.configuration import config_dir
from us_anomaly.cli.messages import similar_key

WIDTH = 100


def show_help(wanted: str) -> int:
    """Print what a key or all keys of a group mean, or those that mention a word; `all` prints every key there is."""
    from us_anomaly import settings
    from us_anomaly.settings.documentation import explain

    keys = explain(settings.Settings, groups=settings.GROUPS)
    options = sorted((config_dir() / wanted).glob("*.yaml")) if wanted.isidentifier() else []
    chosen = [key for key in keys if wanted == "all" or key.key == wanted or key.key.startswith(f"{wanted}.")]
    of_compare = [key for key in explain(settings.CompareSettings, groups={}) if wanted in ("all", key.key)]
    if of_compare and not chosen:
        chosen = [key for key in keys if key.key.endswith(f".{wanted}")]  # `output` is a name of two commands
    if not (chosen or options or of_compare):
        word = re.compile(re.escape(wanted).replace("_", "[ _]"), re.IGNORECASE)
        chosen = [key for key in keys if word.search(f"{key.key} {key.meaning}")] if not similar_key(wanted) else []
    if not (chosen or options or of_compare):
        print(f"usad: `{wanted}` is not a setting{similar_key(wanted)}", file=sys.stderr)
        return 1
    for option in options:
        _show(f"{wanted}={option.stem}", _purpose(option))
    for key in chosen:
        _show(key.key, f"{key.meaning} One of {', '.join(key.choices)}." if key.choices else key.meaning)
    for key in of_compare:
        _show(f"{key.key} (of usad compare)", key.meaning)
    return 0


def _show(title: str, text: str) -> None:
    print(title)
    if text:
        print(textwrap.fill(text, width=WIDTH, initial_indent="    ", subsequent_indent="    "))


def _purpose(path: Path) -> str:
    """Return the first words of a file of settings: what it is for."""
    comments = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in comments if "@package" not in line)
    return re.split(r" (?:Hardware|Expect|Command): ", text.removeprefix("What: "))[0]
