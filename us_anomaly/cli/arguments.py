"""What is done to arguments before Hydra sees them: flags first, folders of `usad compare`, remembered settings, categories.

And what is said of those over which Hydra itself fails.
"""

import re
import shlex
import sys
from collections.abc import Sequence

from us_anomaly.cli.configuration import config_dir, to_settings
from us_anomaly.cli.foreign import added_folders, search_path_of
from us_anomaly.cli.job_names import is_swept
from us_anomaly.cli.messages import as_text, quoted
from us_anomaly.cli.remembered import with_remembered
from us_anomaly.errors import SettingsError

_WITH_VALUE = (
    "-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir",
    "--experimental-rerun",
)  # fmt: skip
_LONG = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--shell-completion",
    "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip
_MODES = {
    "-r": "--run", "--run": "--run", "-m": "-m", "--multirun": "-m", "-c": "--cfg", "--cfg": "--cfg", "-i": "--info",
    "--info": "--info",
}  # fmt: skip
_KINDS_OF_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def prepared(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command as Hydra takes them: flags first, for it takes settings on one side of a flag only.

    Raises:
        SettingsError: Two flags ask for different things.
        DataError: There is no such category.
    """
    flags, others = _divided(arguments)
    if "--hydra-help" in asked_help(flags):  # its configuration has no settings of ours
        return flags
    keys = [argument.partition("=")[0] for argument in others if "=" in argument]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        print(f"usad: `{key}` is given {keys.count(key)} times; the last one counts", file=sys.stderr)
    if name == "compare":
        return [*flags, *named_runs(others)]
    if asked_help(flags):
        return [
            *flags,
            *(other for other in with_remembered(others, flags=flags) if not is_sweep(flags) or _is_of_all_jobs(other)),
        ]
    return expand_categories(name, [*flags, *with_remembered(others, flags=flags)])


def not_an_option(error: BaseException, arguments: Sequence[str]) -> SettingsError | None:
    """Return what to say where Hydra fails over `experiment=null` or `data=3`, which name no option; None otherwise."""
    if not str(error).startswith("Config group override must be"):
        return None
    for argument in arguments:
        group, _, value = argument.partition("=")
        options = sorted(path.stem for path in (config_dir() / group.lstrip("+")).glob("*.yaml"))
        if options and not set(value.split(",")) <= set(options):
            return SettingsError(f"`{argument}` must name one of {', '.join(options)}; leave it out for the default")
    return None


def beyond_ascii(error: BaseException, arguments: Sequence[str]) -> SettingsError | None:
    """Return what to say where Hydra fails over a letter that it reads only in quotes; None otherwise."""
    override = str(getattr(error, "override", None) or "")
    key, sign, value = override.partition("=")
    said = str(error.__cause__ or error.__context__)
    if not re.search(r"token recognition error at: '[^\x00-\x7f]", said) or not sign or not key.isascii():
        return None
    if value[0] in "[{" or ("," in value and is_sweep(arguments)):
        cured = re.sub(r"[^][{}:,]*[^][{}:,\x00-\x7f][^][{}:,]*", lambda found: quoted(found[0]), value)
    else:
        cured = quoted(value)
    return SettingsError(
        f"`{override}` holds letters beyond ASCII, which Hydra reads only in quotes: type {shlex.quote(f'{key}={cured}')}"
    )


def asked_help(arguments: Sequence[str]) -> list[str]:
    """Return which flags of help there are, unabbreviated."""
    asked = []
    for argument in arguments:
        meant = [flag for flag in _LONG if argument.startswith("--") and flag.startswith(argument)]
        asked += ["--help"] if argument == "-h" else meant if meant in (["--help"], ["--hydra-help"]) else []
    return asked


def without_settings(arguments: Sequence[str]) -> list[str]:
    """Return the flags and their values alone.

    Raises:
        SettingsError: Two flags ask for different things.
    """
    return _divided(arguments)[0]


def _divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return flags with their values, and all else.

    Raises:
        SettingsError: Two flags ask for different things.
    """
    flags, others, modes = [], [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            others.append(argument)
            continue
        name = argument.partition("=")[0]
        if name.startswith("--") and not any(flag.startswith(name) for flag in _LONG):
            raise SettingsError(f"there is no flag {name}; settings have no dashes: {argument.lstrip('-')}")
        flags.append(argument)
        modes.append(_mode(argument))
        if argument in ("-i", "--info"):
            flags.append(rest.pop(0) if rest and rest[0] in _KINDS_OF_INFO else "all")
        elif "=" not in argument and _takes_value(argument) and rest:
            flags.append(rest.pop(0))
    asked = [mode for mode in dict.fromkeys(modes) if mode is not None]
    if len(asked) > 1:
        raise SettingsError(f"{' and '.join(asked)} cannot be used together: leave {' or '.join(asked)} out")
    return flags, others


def _takes_value(flag: str) -> bool:
    """Return whether the argument after a flag belongs to it; flags may be abbreviated."""
    return flag in _WITH_VALUE or (len(flag) > 2 and any(known.startswith(flag) for known in _WITH_VALUE))


def named_runs(arguments: list[str]) -> list[str]:
    """Give the folders of `usad compare DIR...`, which are no overrides, the form of one: runs=[...]."""
    folders = [argument for argument in arguments if not argument.startswith("-") and "=" not in argument]
    others = [argument for argument in arguments if argument not in folders]
    if not folders:
        return others
    return [*others, f"runs=[{','.join(map(quoted, folders))}]"]


def expand_categories(name: str, arguments: list[str]) -> list[str]:
    """In a sweep, replace `data.category=all` (or a pattern) by the categories that `data.root` holds, as one job each."""
    if not is_sweep(arguments):
        return arguments
    from us_anomaly.data.categories import means_several

    for position, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key == "data.category" and means_several(value):
            settings = [
                other for other in arguments if "=" in other and not other.startswith("-") and other != argument
            ]
            others = [other for other in settings if _is_of_all_jobs(other)]
            categories = _categories(name, [*others, f"data.category={quoted(value)}", *_search_path(arguments)])
            arguments[position] = f"data.category={','.join(map(as_text, categories))}"
    return arguments


def _search_path(arguments: Sequence[str]) -> list[str]:
    """Return the override by which configuration is also looked for where the arguments say, if they do."""
    places = [f"file://{folder.absolute()}" for folder in added_folders(arguments)]
    places += [place for place in search_path_of(arguments) if place.startswith("pkg://")]
    return [f"hydra.searchpath=[{','.join(map(quoted, places))}]"] if places else []


def _is_of_all_jobs(setting: str) -> bool:
    """Return whether a setting has one value, which is that of every job, and is one of ours."""
    return not setting.lstrip("+~").startswith("hydra") and not is_swept(setting)


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether the arguments ask for several jobs."""
    return any(_mode(argument) == "-m" for argument in arguments)


def _mode(argument: str) -> str | None:
    """Return which of `_MODES` a flag asks for; a long one may be abbreviated."""
    name = argument.partition("=")[0]
    meant = [flag for flag in _LONG if name.startswith("--") and flag.startswith(name)]
    return _MODES.get(meant[0] if len(meant) == 1 else name)


def _categories(name: str, overrides: list[str]) -> list[str]:
    from hydra import compose, initialize_config_dir

    from us_anomaly.data.sources import list_categories

    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return list_categories(to_settings(compose(config_name=name, overrides=overrides)).data)
