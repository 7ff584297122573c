"""Pictures read in order by threads, a few ahead of whoever works with them, and only as far as memory allows."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from us_anomaly.data.images import image_size
from us_anomaly.errors import BadImageError

MAX_PIXELS_AHEAD = 64 * 1024**2
"""Pixels of the pictures that are in use and read ahead together; a larger one is read when it is its turn."""

T = TypeVar("T")


def read_ahead(
    paths: Sequence[Path],
    read: Callable[[Path], T],
    *,
    num_threads: int,
    max_pixels: int,
    max_pixels_ahead: int = MAX_PIXELS_AHEAD,
) -> Iterator[Future[T]]:
    """Yield the result of `read` for each path, in order; whoever takes one decides what to do if it failed.

    Args:
        paths: Files of pictures.
        read: Called with each path, in one of the threads.
        num_threads: Threads, and pictures that are read ahead.
        max_pixels: As for `read_image`.
        max_pixels_ahead: Bound of the pictures that are in use and ahead, by what their headers say.
    """
    unread = deque(paths)
    waiting: deque[tuple[int, Future[T]]] = deque()

    def submit(readers: ThreadPoolExecutor, *, in_use: int) -> None:
        while unread and len(waiting) < num_threads:
            taken = in_use + sum(size for size, _ in waiting)
            size = _num_pixels(unread[0], max_pixels=max_pixels)
            if taken and taken + size > max_pixels_ahead:
                return
            waiting.append((size, readers.submit(read, unread.popleft())))

    with ThreadPoolExecutor(max_workers=num_threads) as readers:
        while unread or waiting:
            submit(readers, in_use=0)
            size, future = waiting.popleft()
            submit(readers, in_use=size)
            handed_over = [future]
            del future  # what a future holds lives as long as this generator would
            yield handed_over.pop()


def _num_pixels(path: Path, *, max_pixels: int) -> int:
    """Return the pixels of a picture as its header tells them; 0 for a bad one, whose fault is told by who reads it."""
    try:
        height, width = image_size(path, max_pixels=max_pixels)
    except BadImageError:
        return 0
    return height * width
