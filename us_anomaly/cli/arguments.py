"""Arguments that are no overrides yet: the folders of `usad compare`, the categories that `all` stands for."""

import re

from us_anomaly.cli.configuration import config_dir, to_settings


def named_runs(arguments: list[str]) -> list[str]:
    """Give the folders of `usad compare DIR...`, which are no overrides, the form of one: runs=[...]."""
    folders = [argument for argument in arguments if not argument.startswith("-") and "=" not in argument]
    others = [argument for argument in arguments if argument not in folders]
    if not folders:
        return others
    quoted = ",".join('"' + folder.replace("\\", "\\\\").replace('"', '\\"') + '"' for folder in folders)
    return [*others, f"runs=[{quoted}]"]


def expand_categories(name: str, arguments: list[str]) -> list[str]:
    """In a sweep, replace `data.category=all` (or a pattern) by the categories that `data.root` holds, as one job each."""
    if not any(argument in ("-m", "--multirun") for argument in arguments):
        return arguments
    for position, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key == "data.category" and (value == "all" or any(sign in value for sign in "*?[")):
            others = [other for other in arguments if "=" in other and other != argument and not _is_swept(other)]
            categories = _categories(name, [*others, f'data.category="{value}"'])
            arguments[position] = f"data.category={','.join(categories)}"
    return arguments


def _is_swept(override: str) -> bool:
    value = override.partition("=")[2]
    return "," in re.sub(r"\[.*\]|\{.*\}", "", value) or override.startswith("hydra")


def _categories(name: str, overrides: list[str]) -> list[str]:
    from hydra import compose, initialize_config_dir

    from us_anomaly.data.sources import list_categories

    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return list_categories(to_settings(compose(config_name=name, overrides=overrides)).data)
