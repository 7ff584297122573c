"""What a run directory was made with, for a command that names the directory and no data set.

`usad infer run_dir=runs/tiles inference.input=new.png` is enough: all else was typed when the detector was made. A command that
made something there writes that down when it has succeeded (`.hydra/made_with.json`). A run directory may come from anybody, so
settings of the detector and its data are all that is taken from there: nothing that configures Hydra, reads configuration or
pictures from elsewhere, writes elsewhere, or shows what the environment holds.
"""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from us_anomaly.cli.configuration import config_dir
from us_anomaly.cli.foreign import added_folders
from us_anomaly.cli.messages import NEEDS_A_FOLDER, NO_CONSTANT, as_text, one_line
from us_anomaly.errors import ArtifactError, SettingsError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.added_folder import CONFIG_DIR, added_folder_of
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.settings import is_of_one_command

NAMING_DATA = ("data", "data.root")
"""Settings that make a command a whole one: where one is typed, nothing is taken over."""
_OPTION = re.compile(rf"{NO_CONSTANT}[a-zA-Z_][\w-]*(/[\w-]+)*", re.IGNORECASE)
_INTERPOLATION = re.compile(r"[^\[{]*\$\{.*")
"""A value that holds an interpolation and is no list or mapping."""


def remember(
    run_dir: RunDir,
    *,
    command: str,
    typed: Sequence[str],
    resolved: Sequence[str],
    paths: Mapping[str, str],
    config_dir: str | None = None,
) -> None:
    """Note the overrides with which a command made something.

    Args:
        run_dir: Where it worked.
        command: Its name.
        typed: Overrides as typed.
        resolved: The same with what interpolations stand for, which is noted: the environment may be another next time.
        paths: By key, which are noted as absolute ones: the next command may come from elsewhere.
        config_dir: Folder of configuration files that was added. It is told to whoever goes on, and never taken over.
    """
    noted = []
    for override, meant in zip(typed, resolved, strict=True):
        key, _, value = override.lstrip("+").partition("=")
        if key in paths:
            value = _absolute(paths[key])
        elif _INTERPOLATION.fullmatch(value):
            value = as_text(meant.partition("=")[2])
        noted.append(f"{key}={value}")
    own = [override for override in noted if not _is_of_one_command(override)]
    added = {} if config_dir is None else {"config_dir": config_dir}
    write_json(run_dir.made_with, {"command": command, "overrides": own} | added)


def renew_paths(run_dir: RunDir, paths: Mapping[str, str]) -> None:
    """Note where files lie now that a command was given at another place than before and found to be the same.

    Args:
        run_dir: Where it worked, and which remembers something.
        paths: By key.
    """
    try:
        _, overrides = _read(run_dir.made_with)
    except ArtifactError:  # told to the one who wants what it remembers
        return
    keys = [_key(override) for override in overrides]
    renewed = [
        f"{key}={_absolute(paths[key])}" if key in paths else override
        for key, override in zip(keys, overrides, strict=True)
    ]
    if renewed != overrides:
        write_json(run_dir.made_with, read_json(run_dir.made_with) | {"overrides": renewed})


def _absolute(path: str) -> str:
    return as_text(str(Path(path).expanduser().absolute()))


def with_remembered(arguments: Sequence[str], *, flags: Sequence[str] = ()) -> list[str]:
    """Return settings, preceded by those that the run directory was made with, where they name one and no data set.

    What is typed takes the place of what is remembered: a value of one value, an option of a group (`backbone=`) of the group
    with its values, an experiment of everything but the data set. Says on stderr what was taken over, and what not; where a
    data set is named, which settings of the detector are lost by that.

    Args:
        arguments: Settings as typed, without flags.
        flags: The flags as typed.

    Raises:
        ArtifactError: What the run directory remembers cannot be read.
    """
    typed = {_key(argument) for argument in arguments}
    run_dir = _run_dir(arguments)
    if run_dir is None or not run_dir.made_with.is_file():
        return list(arguments)
    if typed & set(NAMING_DATA):
        _tell_what_is_lost(run_dir, typed)
        return list(arguments)
    command, overrides = _read(run_dir.made_with)
    wanted = [override for override in overrides if not _is_replaced(override, typed)]
    taken = [override for override in wanted if _is_of_detector(override)]
    left = [override for override in wanted if override not in taken]
    if (folder := added_folder_of(run_dir)) is not None and not added_folders(flags):
        left.append(f"{CONFIG_DIR}{folder}")
    said = _shown(taken) or "none but the defaults"
    said += f"; not taken over, type it again if you want it: {_shown(left)}" if left else ""
    print(f"usad: settings of {run_dir.root}, as its `usad {_printable(command)}` had them: {said}", file=sys.stderr)
    return [*taken, *arguments]


def naming_the_folder(error: Exception, arguments: Sequence[str]) -> Exception:
    """Return an error over an experiment that is not there, with the folder where the run directory has found its own."""
    run_dir = _run_dir([argument for argument in arguments if "=" in argument])
    folder = None if run_dir is None or added_folders(arguments) else added_folder_of(run_dir)
    if folder is None or not (text := one_line(error)).endswith(NEEDS_A_FOLDER):
        return error
    return SettingsError(text.replace("--config-dir FOLDER", shlex.quote(f"{CONFIG_DIR}{folder}")))


def _tell_what_is_lost(run_dir: RunDir, typed: set[str]) -> None:
    """Say which settings of the detector a command that names its data set leaves behind."""
    kept = [override for override in _of_detector(run_dir) if _key(override).partition(".")[0] != "data"]
    lost = [override for override in kept if not _is_replaced(override, typed)]
    if lost:
        print(
            f"usad: {run_dir.root} was made with {_shown(lost)}, which this command, as it names its data, does not take over: "
            f"leave {' and '.join(f'{key}=' for key in NAMING_DATA if key in typed)} out to take them, or type them",
            file=sys.stderr,
        )


def missing_data(arguments: Sequence[str], *, run_dir: str) -> SettingsError | None:
    """Return what to say where `data.root` is not set, though the run directory knows it or has seen it; None otherwise.

    Args:
        arguments: Settings as typed, without flags.
        run_dir: The run directory, if none is typed.
    """
    typed = {_key(argument) for argument in arguments}
    named = _run_dir(arguments)
    known = named or _at(run_dir)
    if known is None or "data.root" in typed:
        return None
    if "data.root" in map(_key, _of_detector(known)):
        ways = ["leave data= out"] if "data" in typed else []
        ways += [] if named else [f"add {_shown([f'run_dir={as_text(str(known.root))}'])}"]
        where = "data= is typed" if named else "it is not named alone"
        return SettingsError(
            f"`data.root` is not set: {known.root} remembers it, but takes nothing over where {where}: {' and '.join(ways)}, or "
            "add data.root=..."
        )
    begun = known.of_all_commands(known.command_settings)
    if begun and not known.made_with.is_file():
        return SettingsError(
            f"`data.root` is not set, and {known.root} does not remember it, for no command has finished there yet: type the "
            f"whole command again; {begun[-1]} has its settings"
        )
    return None


def _of_detector(run_dir: RunDir) -> list[str]:
    """Return the settings of the detector and its data that a run directory remembers; none where that cannot be read."""
    try:
        _, overrides = _read(run_dir.made_with) if run_dir.made_with.is_file() else ("", [])
    except ArtifactError:  # told to the one who wants what it remembers
        return []
    return [override for override in overrides if _is_of_detector(override)]


def _shown(overrides: Sequence[str]) -> str:
    return " ".join(_printable(shlex.quote(override)) for override in overrides)


def _printable(text: str) -> str:
    """Return a text that can do nothing to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _is_group(key: str) -> bool:
    return re.fullmatch(r"\w+", key) is not None and (config_dir() / key).is_dir()


def _is_replaced(override: str, typed: set[str]) -> bool:
    key = _key(override)
    group = key.partition(".")[0]
    if "experiment" in typed and group != "data":
        return True
    return key in typed or (group in typed and _is_group(group))


def _run_dir(arguments: Sequence[str]) -> RunDir | None:
    """Return the run directory that is named, if it is one and not several."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    named = [argument for argument in arguments if _key(argument) == "run_dir"]
    if not named:
        return None
    try:
        value = OverridesParser.create().parse_override(named[-1]).value()
    except HydraException:  # told when the command is composed
        return None
    return _at(value) if isinstance(value, str) and value else None


def _at(run_dir: str) -> RunDir | None:
    try:
        return RunDir(Path(run_dir).expanduser())
    except RuntimeError:  # the home of nobody, told with the settings
        return None


def _read(path: Path) -> tuple[str, list[str]]:
    """Return command and overrides of a note."""
    try:
        content = read_json(path)
    except ArtifactError as error:
        raise _damaged(path) from error
    match content:
        case {"command": str(command), "overrides": list(overrides)} if all(isinstance(one, str) for one in overrides):
            return command, overrides
    raise _damaged(path)


def _damaged(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: remove it, and give the settings themselves, such as data=... data.root=..."
    )


def _is_of_one_command(override: str) -> bool:
    key = _key(override)
    return is_of_one_command(key) or re.match(r"hydra($|[./])", key) is not None


def _is_of_detector(override: str) -> bool:
    """Return whether an override chooses an option of a group, or sets one value, and is one that may be taken over."""
    key, sign, value = override.partition("=")
    if not sign or _is_of_one_command(override):
        return False
    if _is_group(key):
        return _OPTION.fullmatch(value) is not None
    calls_a_resolver = re.search(r"\$\{[^}]*:", value)
    return re.fullmatch(r"[\w.]+", key) is not None and _is_setting(key) and not calls_a_resolver


def _is_setting(key: str) -> bool:
    """Return whether a key is a single setting, or inside of a group of them; groups as a whole are none."""
    import dataclasses

    from us_anomaly.settings import Settings

    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Settings)}
    name, dot, _ = key.partition(".")
    return name in kinds and dataclasses.is_dataclass(kinds[name]) == bool(dot)
