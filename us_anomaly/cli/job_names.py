"""What the run directories of a sweep are called: after the values that differ between its jobs.

So a sweep that is given more values finds what it has done already, and a folder says what it holds: `bottle`, `seed-1`,
`bottle_students.steps-100_seed-1`.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from us_anomaly.cli.messages import known_keys

CATEGORY = "data.category"
MAX_BYTES = 100


def name_jobs(overrides: Sequence[str]) -> None:
    """Tell Hydra how jobs are called in `configs/config.yaml`: `usad_job(number, overrides of the job)`.

    Launchers that start other processes take the function along, as they take all of Hydra's state.

    Args:
        overrides: As typed for the sweep.
    """
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("usad_job", partial(job_name, tuple(overrides)), replace=True)


def _of_all_jobs(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that have one value; none where one is wrong, which Hydra tells."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return []
    return [
        f"{override.get_key_element()}={override.get_value_element_as_str()}"  # as Hydra hands it to the jobs
        for override in parsed
        if not override.is_sweep_override()
    ]


def is_swept(override: str) -> bool:
    """Return whether an override has several values; a wrong one, which Hydra tells, has not."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(override).is_sweep_override())
    except HydraException:
        return False


def job_name(typed: Sequence[str], number: int, overrides: Any) -> str:
    """Return the name of one job: its category, and the values that not all jobs have; its number where there are neither.

    Args:
        typed: Overrides of the sweep, as typed; those with one value do not differ between jobs.
        number: Number of the job.
        overrides: Overrides of the job, `key=value` each.
    """
    shared = _of_all_jobs(typed)
    values = {}
    for override in map(str, overrides):
        key, _, value = override.partition("=")
        if value and (key == CATEGORY or override not in shared):
            values[key.lstrip("+~")] = value
    named = sorted(values, key=lambda key: key != CATEGORY)
    parts = [
        _readable(values[key])
        if key == CATEGORY and values[key][0] not in "-."
        else f"{_readable(_short(key))}-{_readable(values[key])}"
        for key in named
    ]
    name = "_".join(parts)
    if len(name.encode()) > MAX_BYTES:
        kept = name.encode()[:MAX_BYTES].decode(errors="ignore")
        name = f"{kept}-{_digest(' '.join(f'{key}={values[key]}' for key in named))}"
    return name or str(number)


def _short(key: str) -> str:
    """Return the last part of a key where it is that of no other setting: two sweeps must not share a folder."""
    last = key.rpartition(".")[2]
    return last if [known.rpartition(".")[2] for known in known_keys()].count(last) <= 1 else key


def _readable(value: str) -> str:
    """Return a value as a part of a name that needs no quotes; with a digest unless it is such itself, or a list of such."""
    if plain := re.fullmatch(r"(['\"]?)([\w.+-]+)\1", value):
        return plain[2]
    if re.fullmatch(r"\[[\w.+-]+(, ?[\w.+-]+)*\]", value):
        return re.sub(r", ?", "-", value[1:-1])
    readable = re.sub(r"[^\w.+-]+", "-", value).strip("-.")
    return f"{readable}-{_digest(value)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
