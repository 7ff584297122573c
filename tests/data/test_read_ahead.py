import gc
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data.images import read_image
from us_anomaly.data.read_ahead import read_ahead

PIXELS = 8 * 6


class Content:
    """Something that can be referred to weakly."""

    def __init__(self, path):
        self.name = path.name


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path in paths:
        Image.fromarray(np.zeros((8, 6, 3), dtype=np.uint8)).save(path)
    return paths


def started_before_each(files, **limits):
    """How many files are read or being read when each result has been taken."""
    started, lock = [], threading.Lock()

    def read(path):
        with lock:
            started.append(path)
        return path.name

    counts = []
    for number, future in enumerate(read_ahead(files, read, max_pixels=10**6, **limits)):
        assert future.result() == files[number].name
        counts.append(number + 1)
    return started, counts


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_order_and_every_file_is_read_once(files, num_threads):
    started, counts = started_before_each(files, num_threads=num_threads)
    assert sorted(started) == files
    assert counts == list(range(1, 8))


@pytest.mark.parametrize(("limit", "expected"), [(10 * PIXELS, 3), (2 * PIXELS, 2), (1, 1)])
def test_pictures_in_use_and_ahead_stay_below_the_bound(files, limit, expected):
    begun = []
    futures = read_ahead(
        files, lambda path: begun.append(path), num_threads=2, max_pixels=10**6, max_pixels_ahead=limit
    )
    most = 0
    for number, future in enumerate(futures):
        future.result()
        threading.Event().wait(0.02)  # whatever was submitted has begun by now
        most = max(most, len(begun) - number)
    assert most == expected


def test_a_bad_file_fails_where_it_is_taken_and_the_others_go_on(files):
    files[2].write_bytes(b"no picture")

    def read(path):
        return read_image(path, max_pixels=PIXELS).shape[:2]

    results = []
    for future in read_ahead(files, read, num_threads=2, max_pixels=PIXELS):
        results.append("bad" if future.exception() else future.result())
    assert results == [(8, 6), (8, 6), "bad", (8, 6), (8, 6), (8, 6), (8, 6)]


def test_what_was_taken_is_not_kept(files):
    alive = []
    for future in read_ahead(files[:3], Content, num_threads=1, max_pixels=10**6, max_pixels_ahead=1):
        alive.append(weakref.ref(future.result()))
        del future
        gc.collect()
        assert not any(reference() for reference in alive)
