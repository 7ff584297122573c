"""Configuration from elsewhere is data: files that name something to call are refused before Hydra reads them.

Hydra itself is configured by the same files, and there (`hydra:`) a name can stand for a function that is called: callbacks,
launchers, handlers of a log. What comes with this package and what is typed is trusted; a folder of configuration files, which
may come from anybody, is not.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from us_anomaly.cli.configuration import config_dir
from us_anomaly.errors import SettingsError

_OUR_LOG = "usad.log"
"""As `config.yaml` names a file that is never opened; a copy of it may, too."""
_SEARCH_PATH = "hydra.searchpath"
_FOLDER_FLAGS = ("-cd", "-cp")
_CALLS = ("_target_", "()")
"""Keys whose value is called: by Hydra, and by the configuration of logs in Python's library, which also calls `class`."""
_SUFFIXES = (".yaml", ".yml")


def refuse_code(arguments: Sequence[str]) -> None:
    """Refuse flags and configuration folders by which a file could make something run.

    Raises:
        SettingsError: There is one; the message names the file and the key.
    """
    for argument in arguments:
        if argument.startswith("--e"):  # argparse takes abbreviations of --experimental-rerun
            raise SettingsError(
                f"{argument.partition('=')[0]} loads pickled Python objects, which could run code: give the overrides that are "
                "written down in .hydra/<command>/overrides.yaml of the run directory"
            )
    for folder in dict.fromkeys(_folders(arguments)):
        for path in _files(folder):
            if (key := _call(path)) is not None:
                raise SettingsError(
                    f"{path}: the key {key} could make something run, and configuration is data only: remove it, or give it on "
                    "the command line if you trust it"
                )


def refuse_hidden(arguments: Sequence[str]) -> None:
    """Refuse files of a folder that is added by `--config-dir` and has one called as one that ships, which Hydra would take.

    Raises:
        SettingsError: There is one; the message names it.
    """
    for folder in added_folders(arguments):
        for path in _files(folder):
            inside = path.relative_to(folder)
            if len(inside.parts) > 1 and (config_dir() / inside).is_file():
                raise SettingsError(
                    f"{path}: a file of this name ships with the package and would be taken instead; give yours another name"
                )


def added_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders of configuration files that the arguments add to those that ship."""
    return list(dict.fromkeys(_folders(arguments, replacing=False)))


def search_path_of(arguments: Sequence[str]) -> list[str]:
    """Return the entries of `hydra.searchpath` among the arguments."""
    given = [argument.partition("=") for argument in arguments]
    values = [value for name, _, value in given if name.lstrip("+~") == _SEARCH_PATH]
    return [part for value in values for part in re.split(r"[\[\],'\"]+", value) if part]


def _folders(arguments: Sequence[str], *, replacing: bool = True) -> Iterator[Path]:
    """Yield the folders of configuration files that the arguments name; optionally without those that replace ours."""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, _, value = argument.partition("=")
        if not replacing and (name.startswith("--config-p") or name == "-cp"):
            continue
        if name.startswith("--config-") or name in _FOLDER_FLAGS:
            named = [value or following]
        elif name.lstrip("+~") == _SEARCH_PATH:
            named = [part.removeprefix("file://") for part in search_path_of([argument])]
        else:
            continue
        for candidate in named:
            for base in (Path.cwd(), Path(__file__).parent):  # Hydra takes --config-path relative to its main module
                path = base / Path(candidate).expanduser()
                if candidate and path.is_dir():
                    yield path


def _files(folder: Path) -> Iterator[Path]:
    """Yield the YAML files below a folder, those behind links too, each folder once."""
    visited: set[str] = set()
    for current, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        yield from (Path(current) / name for name in sorted(names) if name.endswith(_SUFFIXES))


def _call(path: Path) -> str | None:
    """Return the first key of a file that names something to call, or another folder of configuration files."""
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        packages = re.findall(r"^\s*#\s*@package\s+(\S+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    except Exception:  # Hydra tells it when it reads the file, in its words
        return None
    places = [
        place for package in packages if (place := package.removeprefix("_global_").lstrip(".")) and place[0] != "_"
    ]
    return next((key for place in ["", *places] for key in _calls(content, place)), None)


def _calls(content: Any, prefix: str) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            full = f"{prefix}.{key}" if prefix else str(key)
            if key in _CALLS or full.endswith("searchpath") or _is_of_a_log(full, value) or _goes_to_hydra(key):
                yield full
            yield from _calls(value, full)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            if _goes_to_hydra(value):
                yield f"{prefix}[{index}]"
            yield from _calls(value, f"{prefix}[{index}]")


def _is_of_a_log(key: str, value: Any) -> bool:
    """Return whether a key names the class of a handler or formatter, or the file that one writes into."""
    last = key.rpartition(".")[2]
    if last == "class":
        is_of_a_log = any(word in key for word in ("hydra", "logging", "handlers", "formatters"))
        return is_of_a_log or (isinstance(value, str) and ("." in value or "${" in value))
    return last == "filename" and "handlers" in key and value != _OUR_LOG


def _goes_to_hydra(entry: Any) -> bool:
    """Return whether an entry of a list of defaults puts a file into the configuration of Hydra itself."""
    return isinstance(entry, str) and re.search(r"@(_global_\.)?hydra", entry) is not None
