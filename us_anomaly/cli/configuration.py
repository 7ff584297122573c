"""From YAML files and overrides to typed settings."""

import difflib
import os
from pathlib import Path
from typing import Any

from us_anomaly.cli.messages import one_line, unknown_key
from us_anomaly.errors import SettingsError


def config_dir() -> Path:
    """Return the folder of the configuration: inside the installed package, or beside it in a checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def register_schemas() -> None:
    """Tell Hydra the typed settings; the layouts and backbones are schemas of their groups."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from us_anomaly import settings

    OmegaConf.register_new_resolver("usad_folder", lambda path: str(Path(path).expanduser()), replace=True)
    OmegaConf.register_new_resolver(
        "usad_size",
        lambda size: settings.sides_of(OmegaConf.to_object(size) if OmegaConf.is_list(size) else size),
        replace=True,
    )
    store = ConfigStore.instance()
    store.store(name="schema", node=settings.Settings)
    store.store(name="compare_schema", node=settings.CompareSettings)
    for schema in (*settings.DATA_LAYOUTS, *settings.BACKBONES):
        store.store(name=schema.__name__, node=schema)


def to_settings(config: Any) -> Any:
    """Return the typed settings of a composed configuration.

    Raises:
        SettingsError: A value is missing, out of range or of another type; the message quotes its key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    if OmegaConf.is_missing(config, "run_dir"):
        raise SettingsError("`run_dir` is not set: add run_dir=...")
    try:
        _refuse_unknown_keys(config)
        return OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or "a value"
        raise SettingsError(f"`{key}` is not set: add {key}=...{_or_from_run_dir(key, config)}") from error
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere, or to what does not fit
        raise SettingsError(one_line(error)) from error


def _or_from_run_dir(key: str, config: Any) -> str:
    """Say of the data set, which a run directory can remember, that this one does not."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        run_dir = config.run_dir if key == "data.root" else None
    except OmegaConfBaseException:
        run_dir = None
    return f", or run_dir= of a run directory that remembers it; {_why_not(Path(run_dir))}" if run_dir else ""


def _why_not(run_dir: Path) -> str:
    try:
        if os.path.lexists(run_dir.expanduser()):
            return f"{run_dir} does not"
        siblings = [folder.name for folder in run_dir.expanduser().parent.iterdir() if folder.is_dir()]
    except (OSError, RuntimeError):  # no such folder or user, or one that this user may not look into
        siblings = []
    close = difflib.get_close_matches(run_dir.name, siblings, n=1)
    return f"there is no {run_dir}" + (f", did you mean {run_dir.with_name(close[0])}?" if close else "")


def _refuse_unknown_keys(config: Any, prefix: str = "") -> None:
    """Refuse keys that were added by +key=value, which opens even a typed configuration to anything."""
    import dataclasses

    from omegaconf import OmegaConf

    kind = OmegaConf.get_type(config)
    if kind is None or not dataclasses.is_dataclass(kind):
        return
    known = {field.name for field in dataclasses.fields(kind)}
    for key in config:
        full = f"{prefix}{key}"
        if key not in known:
            raise SettingsError(unknown_key(full))
        if not OmegaConf.is_missing(config, key) and OmegaConf.is_dict(config[key]):
            _refuse_unknown_keys(config[key], f"{full}.")
