"""One stage: skip what is up to date, refuse to replace what is precious, build, and write down how it came about."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from us_anomaly.data.sample import Sample, Split, of_split, parse_labels
from us_anomaly.errors import StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import Recipe, fingerprint, record
from us_anomaly.run_dir.staleness import made_otherwise, state
from us_anomaly.settings import Settings
from us_anomaly.settings.plain import flat

log = logging.getLogger(__name__)


def make(
    artifact: Path,
    recipe: Recipe,
    build: Callable[[], None],
    *,
    settings: Settings,
    is_precious: bool,
    companions: Callable[[], Iterable[Path]] = tuple,
    anew: bool = False,
) -> bool:
    """Make `artifact` by `build` unless it is up to date; return whether it was made.

    What is there stays there, with its provenance, until `build` replaces it: where that fails half-way, nothing is lost. The
    state of a training is kept until the artifact is recorded, so that a process killed in between has nothing to repeat.

    Args:
        artifact: File in the run directory.
        recipe: What decides it under the settings in force.
        build: Writes it, as a whole or not at all.
        settings: `overwrite` and the run directory.
        is_precious: Refuse to replace an artifact that was made by another recipe (unless `overwrite`); others, which
            take minutes to make again, are replaced with a word about why.
        companions: The files that `artifact` vouches for; where one of them is gone or changed, all are made again.
        anew: Make it even if it is up to date.

    Raises:
        StaleArtifactError: There is a precious one that was made from something else, and `overwrite` is false.
    """
    run_dir = RunDir(settings.run_dir)
    condition, reason = state(run_dir, artifact, recipe)
    if condition == "current" and not anew:
        log.info("%s is up to date", artifact)
        _remove_finished_state(run_dir, artifact)
        return False
    if condition == "stale":
        if is_precious and not settings.overwrite:
            raise StaleArtifactError(f"{made_otherwise(run_dir, artifact, reason)} add overwrite=true")
        log.info("%s is made again: %s", artifact, reason)
    started = time.monotonic()
    build()
    seconds = time.monotonic() - started
    record(
        run_dir,
        artifact,
        recipe,
        seconds=max(seconds, _seconds_of_attempts(run_dir.training_state(artifact), recipe)),
        files=companions(),
        runtime=flat("runtime", settings.runtime),
    )
    run_dir.training_state(artifact).unlink(missing_ok=True)
    return True


def _seconds_of_attempts(state_path: Path, recipe: Recipe) -> float:
    """Return how long all attempts at a training took; 0 where nothing was trained."""
    if not state_path.exists():
        return 0.0
    from us_anomaly.training.checkpoint import seconds_trained  # loads torch, which splitting does without

    return seconds_trained(state_path, key=fingerprint(recipe))


def _remove_finished_state(run_dir: RunDir, artifact: Path) -> None:
    """Remove the state of the training that made an artifact, left by a process that was killed at the very end.

    A later one is that of another training, with other settings, which was interrupted and may go on.
    """
    state_path = run_dir.training_state(artifact)
    if not state_path.exists():
        return
    if state_path.stat().st_mtime_ns <= run_dir.provenance(artifact).stat().st_mtime_ns:
        state_path.unlink(missing_ok=True)
    else:
        log.info("%s stays: a training with other settings was interrupted there, and goes on with them", state_path)


def read_split(run_dir: RunDir, split: Split | None = None) -> list[Sample]:
    """Return the samples of `split.jsonl`, all or those of one split."""
    samples = parse_labels(run_dir.split.read_text(encoding="utf-8"))
    return samples if split is None else of_split(samples, split)


def image_paths(settings: Settings, samples: list[Sample]) -> list[Path]:
    """Return where the pictures of the samples lie."""
    return [Path(settings.data.root) / sample.filename for sample in samples]
