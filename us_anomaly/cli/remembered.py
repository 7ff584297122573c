"""What a run directory was made with, for a command that names the directory and no data set.

`usad infer run_dir=runs/tiles inference.input=new.png` is enough: all else was typed when the detector was made. Commands that
make a part of it write that down when they have succeeded (`.hydra/made_with.yaml`). A run directory may come from anybody, so
settings of the detector and its data are all that is taken from there: nothing that configures Hydra, reads configuration or
pictures from elsewhere, writes elsewhere, or shows what the environment holds.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from us_anomaly.cli.configuration import config_dir
from us_anomaly.cli.messages import quoted
from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_text

LOOKING = ("infer", "evaluate", "report", "compare")
"""Commands that make no part of the detector: what they were given says nothing about it."""
OF_ONE_COMMAND = ("run_dir", "cache_dir", "overwrite", "inference", "tracking", "data.allow_outside_root")
"""Settings, and groups of them, that are never taken over."""
_OPTION = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-zA-Z_][\w-]*(/[\w-]+)*", re.IGNORECASE)
_NEEDS_NO_QUOTES = re.compile(r"[\w./+-]+")


def remember(run_dir: RunDir, *, command: str, overrides: Sequence[str], data_root: str) -> None:
    """Note with which overrides a command succeeded, if it makes a part of the detector.

    Args:
        run_dir: Where it worked.
        command: Its name.
        overrides: As typed.
        data_root: The folder of the pictures, which is noted as an absolute path: the next command may come from elsewhere.
    """
    if command in LOOKING:
        return
    root = str(Path(data_root).expanduser().absolute())
    absolute = f"data.root={root if _NEEDS_NO_QUOTES.fullmatch(root) else quoted(root)}"
    noted = [absolute if _key(override) == "data.root" else override for override in overrides]
    write_text(run_dir.made_with, _as_yaml({"command": command, "overrides": noted}))


def with_remembered(arguments: Sequence[str]) -> list[str]:
    """Return settings, preceded by those that the run directory was made with, where they name one and no data set.

    What is typed takes the place of what is remembered: a value of one value, an option of a group (`backbone=`) of the group
    with its values, an experiment of everything but the data set. Says on stderr what was taken over.

    Args:
        arguments: Settings as typed, without flags.

    Raises:
        ArtifactError: What the run directory remembers cannot be read.
    """
    typed = {_key(argument) for argument in arguments}
    run_dir = _run_dir(arguments)
    if run_dir is None or typed & {"data", "data.root"} or not run_dir.made_with.is_file():
        return list(arguments)
    command, overrides = _read(run_dir.made_with)
    taken = [override for override in overrides if _is_of_detector(override) and not _is_replaced(override, typed)]
    said = " ".join(map(shlex.quote, taken)) or "none but the defaults"
    print(f"usad: settings of {run_dir.root}, as its `usad {command}` had them: {said}", file=sys.stderr)
    return [*taken, *arguments]


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
    return RunDir(Path(value).expanduser()) if isinstance(value, str) and value else None


def _read(path: Path) -> tuple[str, list[str]]:
    """Return command and overrides of a note."""
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # whatever a YAML reader may raise
        raise _damaged(path) from error
    match content:
        case {"command": str(command), "overrides": list(overrides)} if all(isinstance(one, str) for one in overrides):
            return command, overrides
    raise _damaged(path)


def _damaged(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: remove it, and give the settings themselves, such as data=... data.root=..."
    )


def _is_of_detector(override: str) -> bool:
    """Return whether an override chooses an option of a group, or sets one value, and is one that may be taken over."""
    key, sign, value = override.partition("=")
    if not sign or any(key == own or key.startswith(f"{own}.") for own in OF_ONE_COMMAND):
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


def _as_yaml(content: object) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(content))  # type: ignore[call-overload]
