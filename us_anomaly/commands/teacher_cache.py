"""The cache of teachers: one that depends on no data set is distilled once and then serves every run directory.

An entry is a little run directory of its own, `cache_dir/teachers/p33-<key>/`, with the teacher, its loss curve and its
provenance. The key is made of everything that decides the bytes: the recipe with its seed, the patch size, the version of this
package (whose code draws the pictures), and number format and kind of device. It appears all at once, so that any number of
processes may read and write the cache at the same time. Nothing that is wrong with the cache is an error: the teacher is then
distilled as if there were none.

A file of backbone weights, or of a teacher to start from (`teacher.start_from`), is in the key with its content: what it has seen
is settled by that.

Not kept: teachers that saw the training split or a backbone fine-tuned on it, and those of a folder of pictures. What is in
such a folder is not part of the recipe, because hashing an ImageNet takes as long as distilling; a run directory may live with
that, but a cache would hand the teacher of yesterday's pictures to somebody who does not even know that it is there.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from us_anomaly.errors import UsadError
from us_anomaly.models.compute import Compute
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import flush_folder, read_tensors, write_bytes
from us_anomaly.run_dir.faults import in_one_line
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX
from us_anomaly.run_dir.provenance import Recipe, fingerprint, record
from us_anomaly.run_dir.staleness import state
from us_anomaly.settings import BUILT_IN_PICTURES, NAMED_FILES, Settings
from us_anomaly.settings.plain import flat
from us_anomaly.version import __version__

log = logging.getLogger(__name__)

LEFT_BEHIND_AFTER_SECONDS = 24 * 3600
"""What is half-written for so long in a cache belongs to a process that was killed: an entry is written in seconds."""


def take_or_distil(
    settings: Settings, patch_size: int, recipe: Recipe, *, compute: Compute, distil: Callable[[], None]
) -> None:
    """Put the teacher of one patch size into the run directory: from the cache, or by `distil`, and then keep it.

    Args:
        settings: Cache, run directory, and what the teacher learns from.
        patch_size: Side of its patches.
        recipe: What decides the teacher.
        compute: Where and in which number format it is distilled.
        distil: Trains it and writes it into the run directory.

    Raises:
        ResourceError: The run directory cannot be written.
    """
    entry = cache_entry(settings, patch_size, recipe, compute=compute)
    if entry is not None and _take(entry, RunDir(settings.run_dir), patch_size, recipe):
        return
    started = time.monotonic()
    distil()
    if entry is not None:
        _keep(settings, entry, patch_size, recipe, seconds=time.monotonic() - started)


def cache_entry(settings: Settings, patch_size: int, recipe: Recipe, *, compute: Compute) -> RunDir | None:
    """Return where the cache has, or would have, the teacher of one patch size; None for one that is not kept."""
    of_no_data_set = recipe.inputs.keys() <= set(NAMED_FILES)
    if (
        not settings.teacher.cache
        or not of_no_data_set
        or not settings.teacher.image_sources().keys() <= BUILT_IN_PICTURES.keys()
    ):
        return None
    decisive = [fingerprint(recipe), patch_size, __version__, compute.device.type, str(compute.dtype)]
    key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    return RunDir(Path(settings.cache_dir) / "teachers" / f"p{patch_size}-{key[:32]}")


def _take(entry: RunDir, run_dir: RunDir, patch_size: int, recipe: Recipe) -> bool:
    """Copy a teacher and its loss curve out of the cache; return whether there was a good one."""
    kept, artifact = entry.teacher(patch_size), run_dir.teacher(patch_size)
    try:
        if not kept.exists():
            return False
        condition, reason = state(entry, kept, recipe)  # compares the hash of the content
        if condition != "current":
            log.warning("%s in the cache is not whole (%s): the teacher is distilled anew", entry.root, reason)
            return False
        read_tensors(kept)  # who can write here can vouch as well
        teacher, curve = kept.read_bytes(), entry.loss_curve(kept).read_bytes()
    except (OSError, UsadError) as error:
        log.warning("%s in the cache cannot be used (%s): the teacher is distilled anew", entry.root, _reason(error))
        return False
    write_bytes(run_dir.loss_curve(artifact), curve)
    write_bytes(artifact, teacher)
    log.info("took the teacher from the cache %s", entry.root)
    return True


def _keep(settings: Settings, entry: RunDir, patch_size: int, recipe: Recipe, *, seconds: float) -> None:
    """Copy the teacher of a run directory into the cache; where that fails, say so and go on."""
    run_dir, folder = RunDir(settings.run_dir), entry.root.parent
    artifact = run_dir.teacher(patch_size)
    aside: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(folder)
        aside = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder))
        made = RunDir(aside / entry.root.name)
        kept = made.teacher(patch_size)
        write_bytes(kept, artifact.read_bytes())
        write_bytes(made.loss_curve(kept), run_dir.loss_curve(artifact).read_bytes())
        curves, runtime = [made.loss_curve(kept)], flat("runtime", settings.runtime)
        record(made, kept, recipe, seconds=seconds, files=curves, runtime=runtime)
        _publish(made, entry, patch_size, recipe)
    except (OSError, UsadError) as error:
        log.warning(
            "the teacher is not kept in the cache %s (%s); cache_dir= names another place, teacher.cache=false does without",
            folder,
            _reason(error),
        )
    else:
        log.info("the cache keeps the teacher for other run directories: %s", entry.root)
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _remove_left_behind(folder: Path) -> None:
    """Remove what killed processes, of this or of another machine, left half-written."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - path.lstat().st_mtime > LEFT_BEHIND_AFTER_SECONDS:
                shutil.rmtree(path)


def _publish(made: RunDir, entry: RunDir, patch_size: int, recipe: Recipe) -> None:
    """Give a finished entry its place, unless another process was faster; a damaged one there goes away."""
    if entry.root.exists():
        if _is_good(entry, patch_size, recipe):
            return
        entry.root.rename(made.root.with_name("damaged"))
    try:
        made.root.rename(entry.root)
    except OSError:
        if not entry.root.is_dir():  # else another process was faster after all
            raise
    flush_folder(entry.root.parent)


def _is_good(entry: RunDir, patch_size: int, recipe: Recipe) -> bool:
    try:
        is_current = state(entry, entry.teacher(patch_size), recipe)[0] == "current"
        return is_current and bool(read_tensors(entry.teacher(patch_size)))
    except (OSError, UsadError):
        return False


def _reason(error: Exception) -> str:
    """Return why, without the advice for run directories."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, UsadError):
        return str(cause)
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else in_one_line(cause)
