"""What a run directory was made with, for a command that names the directory and no data set.

`usad infer run_dir=runs/tiles inference.input=new.png` is enough: all else was typed when the detector was made, and stands in
`.hydra/<command>/overrides.yaml`. A run directory may come from anybody, so of what stands there settings alone are taken:
nothing that configures Hydra, and no way to files outside the configuration.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from us_anomaly.cli.commands import COMMANDS
from us_anomaly.cli.configuration import config_dir
from us_anomaly.errors import SettingsError
from us_anomaly.run_dir import RunDir

LOOKING = ("infer", "evaluate", "report", "compare")
"""Commands that make no part of the detector: what they were given says nothing about it."""
_OPTION = re.compile(r"[\w-]+(/[\w-]+)*")


def with_remembered(arguments: Sequence[str]) -> list[str]:
    """Return settings, preceded by those that the run directory was made with, where they name one and no data set.

    What is typed replaces what is remembered. Says on stderr what was taken over.

    Args:
        arguments: Settings as typed, without flags.

    Raises:
        SettingsError: What the run directory remembers cannot be read.
    """
    typed = {_key(argument) for argument in arguments}
    run_dir = _run_dir(arguments)
    if run_dir is None or typed & {"data", "data.root"}:
        return list(arguments)
    known = [path for path in map(run_dir.command_folder, _making()) if (path / "overrides.yaml").is_file()]
    if not known:
        return list(arguments)
    folder = max(known, key=lambda path: (path / "overrides.yaml").stat().st_mtime)
    taken = [override for override in _read(folder / "overrides.yaml") if _key(override) not in typed]
    said = " ".join(map(shlex.quote, taken)) or "none but the defaults"
    print(f"usad: settings of {run_dir.root}, as its `usad {folder.name}` had them: {said}", file=sys.stderr)
    return [*taken, *arguments]


def _making() -> list[str]:
    return [name for name in COMMANDS if name not in LOOKING]


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _run_dir(arguments: Sequence[str]) -> RunDir | None:
    """Return the run directory that is named, if it is one and not several."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    named = [argument for argument in arguments if argument.startswith("run_dir=")]
    if not named:
        return None
    try:
        value = OverridesParser.create().parse_override(named[-1]).value()
    except HydraException:  # told when the command is composed
        return None
    return RunDir(Path(value).expanduser()) if isinstance(value, str) and value else None


def _read(path: Path) -> list[str]:
    """Return the overrides of a file that are settings and belong to the detector."""
    from omegaconf import OmegaConf

    from us_anomaly.reporting.summary import NOT_REPEATED

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:
        raise _damaged(path) from error
    if not isinstance(content, list) or not all(isinstance(override, str) for override in content):
        raise _damaged(path)
    own = {"run_dir", *NOT_REPEATED}
    return [override for override in content if _is_setting(override) and override.partition("=")[0] not in own]


def _damaged(path: Path) -> SettingsError:
    return SettingsError(
        f"{path} is damaged: remove it, and give the settings themselves, such as data=... data.root=..."
    )


def _is_setting(override: str) -> bool:
    """Return whether an override sets a value of ours, or chooses one of the options of a group."""
    import dataclasses

    from us_anomaly.settings import Settings

    key, sign, value = override.partition("=")
    if re.fullmatch(r"\w+", key) and (config_dir() / key).is_dir():
        return _OPTION.fullmatch(value) is not None
    names = {field.name for field in dataclasses.fields(Settings)}
    return bool(sign) and key.split(".")[0] in names and re.fullmatch(r"[\w.]+", key) is not None
