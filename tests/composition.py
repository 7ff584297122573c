"""Configurations as Hydra composes them, in a tenth of its time: its work on files is done once for each choice of groups."""

import functools
import pickle

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf

from us_anomaly.cli import config_dir, register_schemas

register_schemas()

GROUPS = {path.name for path in config_dir().iterdir() if path.is_dir()}


def composed(command: str, *overrides: str) -> DictConfig:
    """Set single values in a copy of the configuration that Hydra composes from the command and the groups."""
    choices = tuple(override for override in overrides if override.partition("=")[0] in GROUPS)
    values = [override for override in overrides if override not in choices]
    try:
        config: DictConfig = pickle.loads(_composed_once(command, choices))
        for override in OverridesParser.create().parse_overrides(values):
            if override.type is not OverrideType.CHANGE or override.is_sweep_override():
                return composed_by_hydra(command, *overrides)
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except Exception:  # what is wrong is told in the words of Hydra
        return composed_by_hydra(command, *overrides)
    return config


def composed_by_hydra(command: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name=command, overrides=list(overrides))


@functools.cache
def _composed_once(command: str, choices: tuple[str, ...]) -> bytes:
    return pickle.dumps(composed_by_hydra(command, *choices))
