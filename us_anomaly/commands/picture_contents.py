"""What pictures and masks of a data set hold, byte by byte, so that a file that was replaced in its place is noticed.

A file is read once for as long as it is the same file of the same size and times: the run directory remembers its hash. A copy
of the data set elsewhere, or files with other times, are read again and found to be the same.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from us_anomaly.data.images.masks import is_mask_picture
from us_anomaly.data.sample import Sample
from us_anomaly.errors import ArtifactError, ResourceError
from us_anomaly.reporting.progress import progress
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.run_dir.provenance import content_hash

MAX_THREADS = 8
LONG_BYTES = 2**30
"""Reading more than this is shown."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of one file."""

    state: str
    """Its size, its times and its number on the disk."""
    hash: str
    """Of its content."""
    hash_at_split: str | None = None
    """The same when the data set was divided; None if the file was not looked at then."""


class PictureContents:
    """Content hashes of the files of one data set, each of which an object of this class looks at once."""

    def __init__(self, run_dir: RunDir, root: Path, *, is_there: bool, shows_progress: bool = False) -> None:
        """Remember what the run directory knows.

        Args:
            run_dir: Where hashes are remembered.
            root: Folder of the data set.
            is_there: Whether the files can be looked at; else what is remembered is believed.
            shows_progress: Show how far the reading of many bytes is.
        """
        self._shows_progress = shows_progress
        self._run_dir = run_dir
        self._root = root
        self._is_there = is_there
        self._known = _read(run_dir.contents)
        self._looked_at: set[str] = set()

    def digest(self, names: Sequence[str]) -> str | None:
        """Return a hash of these files, in this order, by name and content; None where they are neither there nor known.

        Raises:
            ResourceError: Hashes cannot be remembered.
        """
        if self._is_there:
            self._look_at(names)
        keys = [_key(name) for name in names]
        if not all(key in self._known for key in keys):
            return None
        contents = [self._known[key] for key in keys]
        # without its data a detector rests on what the data set was divided with, whatever was seen of it later
        hashes = [one.hash if self._is_there else one.hash_at_split or one.hash for one in contents]
        return hashlib.sha256(
            "".join(f"{key}\n{one}\n" for key, one in zip(keys, hashes, strict=True)).encode()
        ).hexdigest()

    def note_split(self, names: Sequence[str]) -> None:
        """Remember that the data set was divided with these files as they are now, and forget all others."""
        self._look_at(names)
        known = {_key(name): self._known[_key(name)] for name in names}
        self._known = {key: replace(content, hash_at_split=content.hash) for key, content in known.items()}
        self._remember()

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return the files that are not what they were when the data set was divided."""
        known = {name: self._known[_key(name)] for name in names if _key(name) in self._known}
        return [name for name, content in known.items() if content.hash_at_split not in (None, content.hash)]

    def _look_at(self, names: Sequence[str]) -> None:
        found = {name: _state(self._root / name) for name in names if name not in self._looked_at}
        self._looked_at |= found.keys()
        unknown = [
            name
            for name, state in found.items()
            if _key(name) not in self._known or self._known[_key(name)].state != state
        ]
        if not unknown:
            return
        num_bytes = sum(int(found[name].partition(" ")[0] or 0) for name in unknown)
        is_long = self._shows_progress and num_bytes > LONG_BYTES
        hashes = []
        with (
            progress("reading pictures", len(unknown), enabled=is_long) as on_step,
            ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1)) as pool,
        ):
            for digest in pool.map(lambda name: _hash(self._root / name), unknown):
                hashes.append(digest)
                on_step(len(hashes), {})
        for name, digest in zip(unknown, hashes, strict=True):
            before = self._known.get(_key(name))
            self._known[_key(name)] = Content(found[name], digest, before.hash_at_split if before else None)
        if self._run_dir.split.exists():  # nothing is left where a data set was never divided
            self._remember()

    def _remember(self) -> None:
        entries = {key: [one.state, one.hash, one.hash_at_split] for key, one in self._known.items()}
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
    try:
        files = sorted(path.iterdir()) if path.is_dir() else []
    except OSError:  # told by whoever reads it
        files = []
    return [f"{sample.mask_path}/{file.name}" for file in files if is_mask_picture(file)] or [sample.mask_path]


def _read(path: Path) -> dict[str, Content]:
    """Return what is remembered; nothing where that cannot be read, for it can be found out again."""
    try:
        return {name: Content(*entry) for name, entry in read_json(path).items()} if path.is_file() else {}
    except (ArtifactError, ResourceError, AttributeError, TypeError):
        return {}


def _key(name: str) -> str:
    """Return a name as text that can be written, whatever bytes a file is called by."""
    return name.encode("utf-8", "backslashreplace").decode()


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _hash(path: Path) -> str:
    """Return the hash of a file, or a word for one that cannot be read: whoever needs it tells why."""
    try:
        return content_hash(path)
    except OSError as error:
        return type(error).__name__
