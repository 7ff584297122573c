"""What pictures and masks of a data set hold, byte by byte, so that a file that was replaced in its place is noticed.

A file is read once for as long as its size and time stay as they are: the run directory remembers its hash. A copy of the data
set elsewhere, or files with other times, are read again and found to be the same.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from us_anomaly.data.sample import Sample
from us_anomaly.errors import ArtifactError, ResourceError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.run_dir.provenance import content_hash

MAX_THREADS = 8


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of one file."""

    size: int
    """Bytes."""
    time_ns: int
    """When it was written."""
    hash: str
    """Of its content."""
    hash_at_split: str | None = None
    """The same when the data set was divided; None if the file was not looked at then."""


class PictureContents:
    """Content hashes of the files of one data set."""

    def __init__(self, run_dir: RunDir, root: Path, *, is_there: bool) -> None:
        """Remember what the run directory knows.

        Args:
            run_dir: Where hashes are remembered.
            root: Folder of the data set.
            is_there: Whether the files can be looked at; else what is remembered is believed.
        """
        self._run_dir = run_dir
        self._root = root
        self._is_there = is_there
        self._known = _read(run_dir.contents)

    def digest(self, names: Sequence[str]) -> str | None:
        """Return a hash of these files, in this order, by name and content; None where they are neither there nor known.

        Raises:
            ResourceError: Hashes cannot be remembered.
        """
        if self._is_there:
            self._look_at(names)
        if not all(name in self._known for name in names):
            return None
        lines = (f"{name}\n{self._known[name].hash}\n" for name in names)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def note_split(self, names: Sequence[str]) -> None:
        """Remember that the data set was divided with these files as they are now, and forget all others."""
        self._look_at(names)
        self._known = {name: replace(self._known[name], hash_at_split=self._known[name].hash) for name in names}
        self._remember()

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return the files that are not what they were when the data set was divided."""
        known = {name: self._known[name] for name in names if name in self._known}
        return [name for name, content in known.items() if content.hash_at_split not in (None, content.hash)]

    def _look_at(self, names: Sequence[str]) -> None:
        found = {name: _state(self._root / name) for name in names}
        unknown = [
            name
            for name, state in found.items()
            if name not in self._known or (self._known[name].size, self._known[name].time_ns) != state
        ]
        if not unknown:
            return
        with ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            hashes = list(pool.map(lambda name: _hash(self._root / name), unknown))
        looked_at = {
            name: Content(*found[name], digest, self._known[name].hash_at_split if name in self._known else None)
            for name, digest in zip(unknown, hashes, strict=True)
        }
        self._known |= looked_at
        if self._run_dir.split.exists():  # nothing is left where a data set was never divided
            self._remember()

    def _remember(self) -> None:
        entries = {name: [one.size, one.time_ns, one.hash, one.hash_at_split] for name, one in self._known.items()}
        write_json(self._run_dir.contents, entries)


def files_of(samples: Iterable[Sample], root: Path) -> list[str]:
    """Return the names of pictures and masks, relative to the root; of a folder of masks those in it."""
    names = []
    for sample in samples:
        names += [sample.filename, *mask_files(sample, root)]
    return names


def mask_files(sample: Sample, root: Path) -> list[str]:
    """Return the names of the mask of a picture, relative to the root: none, one, or those in a folder."""
    if sample.mask_path is None:
        return []
    path = root / sample.mask_path
    if not path.is_dir():
        return [sample.mask_path]
    return [f"{sample.mask_path}/{file.name}" for file in sorted(path.iterdir())]


def _read(path: Path) -> dict[str, Content]:
    """Return what is remembered; nothing where that cannot be read, for it can be found out again."""
    try:
        return {name: Content(*entry) for name, entry in read_json(path).items()} if path.is_file() else {}
    except (ArtifactError, ResourceError, AttributeError, TypeError):
        return {}


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _hash(path: Path) -> str:
    """Return the hash of a file, or a word for one that cannot be read: whoever needs it tells why."""
    try:
        return content_hash(path)
    except OSError as error:
        return type(error).__name__
