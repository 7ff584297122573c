"""Settings as the command line composes them, for the scripts."""

import functools

import hydra

from us_anomaly.cli import config_dir, register_schemas, to_settings
from us_anomaly.settings import Settings


@functools.cache
def composed(*overrides: str) -> Settings:
    """Return the settings of `usad run` with some overrides; a misspelt one raises."""
    register_schemas()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        settings: Settings = to_settings(hydra.compose(config_name="run", overrides=list(overrides)))
        return settings
