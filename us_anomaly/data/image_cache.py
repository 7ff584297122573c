"""Pictures of a data set, sent through the deterministic head of a transform list once and kept as bytes.

Shapes: N pictures, 3 channels, H W pixels after the head.
"""

import itertools
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from us_anomaly.data.augmentation import Pipeline
from us_anomaly.data.images import read_image
from us_anomaly.data.memory import available_memory_bytes
from us_anomaly.errors import ResourceError
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX

MEMORY_SHARE = 0.25
READ_AHEAD = 4


class ImageCache:
    """Read-only sequence of uint8 tensors (3, H, W), in memory or, if that is too small, in a mapped file."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        pipeline: Pipeline,
        max_pixels: int,
        folder: Path,
        num_workers: int = 0,
        memory_budget_bytes: int | None = None,
        white_level: float | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Read all pictures.

        Args:
            paths: Files, in the order of the indices.
            pipeline: Its `prefix` is applied to each picture.
            max_pixels: Larger files are refused.
            folder: Where the mapped file goes if one is needed; it disappears with this object.
            num_workers: Threads that decode; 0 decodes in the calling thread.
            memory_budget_bytes: Larger sets go to the file; None grants a quarter of the free memory.
            white_level: As for `read_image`.
            on_progress: Called with the number of pictures done, after each.

        Raises:
            BadImageError: A file cannot be decoded.
            ResourceError: The mapped file cannot be written.
        """
        budget = available_memory_bytes() * MEMORY_SHARE if memory_budget_bytes is None else memory_budget_bytes

        def load(path: Path) -> torch.Tensor:
            return pipeline.prefix(read_image(path, max_pixels=max_pixels, white_level=white_level))

        pictures = _reported(_map(load, paths, num_workers=num_workers), on_progress)
        self._images: torch.Tensor | list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        taken = 0
        for picture in pictures:
            kept.append(picture)
            taken += picture.numel()
            expected = taken / len(kept) * len(paths)
            if max(expected, taken) > budget:
                self._images = self._map_file(itertools.chain(kept, pictures), folder)
                break
        else:
            self._images = _stack(kept)

    def __len__(self) -> int:
        """Return the number N of pictures."""
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one picture, uint8 (3, H, W); a view that must not be written to."""
        return self._images[index]

    def _map_file(self, pictures: Iterable[torch.Tensor], folder: Path) -> torch.Tensor | list[torch.Tensor]:
        """Write the pictures one after another into a temporary file and map it into memory."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}images-", dir=folder)
        except OSError as error:
            raise _unwritable(folder, error) from error
        shapes = []
        try:
            with os.fdopen(descriptor, "wb") as file:
                for picture in pictures:
                    _write(file.write, picture, folder)
                    shapes.append(picture.shape)
            whole = torch.from_file(name, shared=False, size=Path(name).stat().st_size, dtype=torch.uint8)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _remove_when_unused(self, Path(name))
        if len(set(shapes)) == 1:
            return whole.view(len(shapes), *shapes[0])
        ends = itertools.accumulate(shape.numel() for shape in shapes)
        return [whole[end - shape.numel() : end].view(shape) for end, shape in zip(ends, shapes, strict=True)]


def _stack(pictures: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """Move pictures of one size into one tensor (N, 3, H, W), releasing each as it is moved."""
    if len({picture.shape for picture in pictures}) != 1:
        return pictures
    whole = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8)
    for index in reversed(range(len(pictures))):
        whole[index] = pictures.pop()
    return whole


def _map(load: Callable[[Path], torch.Tensor], paths: Sequence[Path], *, num_workers: int) -> Iterator[torch.Tensor]:
    """Load in order, by threads if wanted, never far ahead of the consumer."""
    if num_workers == 0:
        yield from map(load, paths)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting = iter(paths)
        futures = [pool.submit(load, path) for path in itertools.islice(waiting, num_workers * READ_AHEAD)]
        try:
            while futures:
                yield futures.pop(0).result()
                futures.extend(pool.submit(load, path) for path in itertools.islice(waiting, 1))
        finally:
            for future in futures:
                future.cancel()


def _reported(pictures: Iterator[torch.Tensor], on_progress: Callable[[int], None] | None) -> Iterator[torch.Tensor]:
    for done, picture in enumerate(pictures, start=1):
        if on_progress is not None:
            on_progress(done)
        yield picture


def _write(write: Callable[[bytes], int], picture: torch.Tensor, folder: Path) -> None:
    try:
        write(picture.numpy().tobytes())
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"the pictures do not fit into memory, and a file that would hold them cannot be written in {folder} "
        f"({error.strerror or error}): free some space there, choose another run_dir= or lower image_size="
    )


def _remove_when_unused(owner: object, path: Path) -> None:
    """Delete a mapped file: at once where the system allows it, so that even a killed process leaves none."""
    try:
        path.unlink()
    except OSError:  # Windows keeps mapped files
        weakref.finalize(owner, path.unlink, missing_ok=True)
