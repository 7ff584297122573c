"""What the run directories of a sweep are called: after the values that differ between its jobs.

So a sweep that is given more values finds what it has done already, and a folder says what it holds: `bottle`, `seed-1`,
`bottle_students.steps-100_seed-1`.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

CATEGORY = "data.category"
MAX_LENGTH = 100


def name_jobs(swept: Sequence[str]) -> None:
    """Tell Hydra how jobs are called in `configs/config.yaml`: `usad_job(number, overrides of the job)`.

    Launchers that start other processes take the function along, as they take all of Hydra's state.

    Args:
        swept: Keys that have several values.
    """
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("usad_job", partial(job_name, tuple(swept)), replace=True)


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys of the overrides that have several values; none where an override is wrong, which Hydra tells."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return []
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def job_name(swept: Sequence[str], number: int, overrides: Any) -> str:
    """Return the name of one job: its category and its values of the swept keys, or its number where there are neither.

    Args:
        swept: Keys that have several values, in the order in which they were typed.
        number: Number of the job.
        overrides: Overrides of the job, `key=value` each.
    """
    values = {key.lstrip("+"): value for key, _, value in (str(override).partition("=") for override in overrides)}
    named = [key for key in dict.fromkeys((CATEGORY, *swept)) if key in values]
    last = [key.rpartition(".")[2] for key in named]
    shown = [part if last.count(part) == 1 else key for part, key in zip(last, named, strict=True)]
    parts = [
        _readable(values[key]) if key == CATEGORY else f"{_readable(name)}-{_readable(values[key])}"
        for name, key in zip(shown, named, strict=True)
    ]
    name = "_".join(parts)
    if len(name) > MAX_LENGTH:
        name = f"{name[:MAX_LENGTH]}-{_digest(' '.join(values[key] for key in named))}"
    return name or str(number)


def _readable(value: str) -> str:
    """Return a value as a part of a name that needs no quotes anywhere; what lost more than brackets is told apart."""
    plain = re.sub(r"[\[\]'\" ]", "", value)
    readable = re.sub(r"[^\w.+-]+", "-", plain).strip("-.")
    return readable if readable == plain.replace(",", "-") else f"{readable}-{_digest(value)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
