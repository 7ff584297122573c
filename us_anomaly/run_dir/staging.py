"""Results of many files: written aside, flushed, and moved into place together; the list that vouches for them comes last."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from us_anomaly.run_dir.atomic import flush_file, flush_folder, write_bytes
from us_anomaly.run_dir.faults import cannot_write
from us_anomaly.run_dir.interruption import held_back
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX, RunDir
from us_anomaly.run_dir.provenance import withdraw

_FLUSHING_THREADS = 8
"""Flushes that wait together share one write of the file system's journal."""


@contextmanager
def staged(run_dir: RunDir) -> Iterator[RunDir]:
    """Yield an empty run directory inside of `run_dir`; what is not published disappears at the end.

    Raises:
        ResourceError: It cannot be made.
    """
    root: Path | None = None
    try:
        with held_back():
            root = _new_folder(run_dir.root)
        yield RunDir(root)
    finally:
        if root is not None:
            with held_back():
                shutil.rmtree(root, ignore_errors=True)


def _new_folder(parent: Path) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
    except OSError as error:
        raise cannot_write(parent, error) from error


class Submit(Protocol):
    """Hands work to a thread."""

    def __call__(self, work: Callable[..., None], /, *arguments: object) -> Future[None]:
        """Return the future of `work(*arguments)`."""


@contextmanager
def writing_threads(num_threads: int) -> Iterator[Submit]:
    """Yield how to hand work to threads, none of which still writes when the context ends, wherever it is interrupted.

    A signal in the middle of starting a thread would leave one that its pool does not know and does not wait for, and what it
    writes would come back after its folder was removed. Work that has not begun when the context ends is dropped.
    """
    pool = ThreadPoolExecutor(num_threads)

    def submit(work: Callable[..., None], /, *arguments: object) -> Future[None]:
        with held_back():
            return pool.submit(work, *arguments)

    try:
        yield submit
    finally:
        with held_back():
            pool.shutdown(cancel_futures=True)


def publish(staging: RunDir, run_dir: RunDir) -> None:
    """Replace predictions and the folders of maps, pictures and exports of `run_dir` by those in `staging`.

    A process killed in between leaves no `predictions.jsonl`, so that nothing vouches for half of the files. Where one of the old
    or new files cannot be moved, the old ones stay.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    try:
        _flush(staging.root)
        note = run_dir.provenance(run_dir.predictions)
        old = [note, run_dir.predictions, *run_dir.result_folders]
        made = [*staging.result_folders, staging.predictions]
        places = [*run_dir.result_folders, run_dir.predictions]
        with held_back(), _moving_back() as move:
            for path in old:
                move(path, staging.root / f"old-{path.name}")
            if note.parent.is_dir():
                flush_folder(note.parent)
            flush_folder(run_dir.root)
            for path, place in zip(made, places, strict=True):
                move(path, place)
            flush_folder(run_dir.root)
    except OSError as error:
        raise cannot_write(run_dir.predictions, error) from error


@contextmanager
def _moving_back() -> Iterator[Callable[[Path, Path], None]]:
    """Yield how to move a file or folder, if it exists, to a free place; where one cannot be moved, all others go back.

    A viewer that is open in a folder may forbid it.
    """
    moved: list[tuple[Path, Path]] = []

    def move(path: Path, place: Path) -> None:
        if path.exists() or path.is_symlink():
            path.rename(place)
            moved.append((path, place))

    try:
        yield move
    except OSError:
        for path, place in reversed(moved):
            with suppress(OSError):  # as many as can be
                place.rename(path)
        raise


def replace_together(run_dir: RunDir, artifact: Path, contents: Mapping[Path, str | bytes]) -> None:
    """Replace an artifact and the files that belong to it, the artifact last; all are written before the first old one goes.

    Args:
        run_dir: Where they lie.
        artifact: The one that vouches for the others; it is among `contents`.
        contents: By path.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    with staged(run_dir) as aside:
        written = {path: aside.root / run_dir.name_of(path) for path in contents}
        for path, content in contents.items():
            write_bytes(written[path], content.encode() if isinstance(content, str) else content)
        try:
            withdraw(run_dir, artifact)
            for path in sorted(contents, key=lambda path: path == artifact):
                path.parent.mkdir(parents=True, exist_ok=True)
                written[path].replace(path)
                flush_folder(path.parent)
        except OSError as error:
            raise cannot_write(artifact, error) from error


def _flush(root: Path) -> None:
    """Force all files below a folder, and the names in its folders, to the disk."""
    files, folders = [], []
    for folder, _, names in os.walk(root):
        folders.append(Path(folder))
        files += [Path(folder) / name for name in names]
    with ThreadPoolExecutor(_FLUSHING_THREADS) as pool:
        list(pool.map(flush_file, files))
        list(pool.map(flush_folder, folders))
