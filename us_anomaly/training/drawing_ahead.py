"""Batches drawn ahead of the training step that wants them: by a thread, or by processes where a graphics card computes.

One thread is enough beside a processor that computes for as long as it draws. A graphics card takes the pictures of hundreds of
steps a second, and one interpreter cannot draw them.
"""

import itertools
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from us_anomaly.errors import UsadError
from us_anomaly.models.compute import Compute, available_cores
from us_anomaly.settings import RuntimeSettings
from us_anomaly.training.course import Batches

log = logging.getLogger(__name__)

BATCHES_PER_PROCESS = 4
"""Batches that each process draws ahead."""
FORKS = sys.platform == "linux"
"""Whether a process may be forked while others of its threads run: macOS says that it can, and its libraries cannot."""
MAX_PROCESSES = 8
"""No more processes than this are taken unless more are asked for: five feed one training."""

Pixels = npt.NDArray[np.float32]


def drawn_ahead(batches: Batches, *, runtime: RuntimeSettings, compute: Compute) -> AbstractContextManager[Batches]:
    """Draw the batches of the next steps while the current one is computed.

    Batches must draw their random numbers from `step_rng` alone and use no global generator: then neither threads nor processes
    change what a step sees.

    Args:
        batches: Steps of training count up from 0, held-out batches down from -1.
        runtime: `num_drawing_processes` says who draws.
        compute: Where the steps are computed.
    """
    num_processes = runtime.num_drawing_processes
    if num_processes is None:
        num_processes = min(MAX_PROCESSES, available_cores() - 1) if compute.device.type == "cuda" else 0
    elif num_processes and not FORKS:
        log.warning(
            "runtime.num_drawing_processes=%d: processes draw on Linux only; a thread does it here", num_processes
        )
    if num_processes and FORKS:
        return drawn_by_processes(batches, num_processes=num_processes)
    return drawn_by_a_thread(batches)


@contextmanager
def drawn_by_a_thread(batches: Batches) -> Iterator[Batches]:
    """Draw the batch of the next step in a thread."""
    waiting: dict[int, Future[Tensor]] = {}
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures") as pool:

        def get(step: int) -> Tensor:
            current = waiting.pop(step, None) or pool.submit(batches, step)
            for other in waiting.values():
                other.cancel()
            waiting.clear()
            following = step + _direction(step)
            waiting[following] = pool.submit(batches, following)
            return current.result()

        try:
            yield get
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def drawn_by_processes(batches: Batches, *, num_processes: int) -> Iterator[Batches]:
    """Draw the batches of the next steps in processes, which are forked at the first step and end with the context."""
    stream = _Stream(batches, num_processes=num_processes)
    try:
        yield stream
    finally:
        stream.end()


class _Stream:
    """Batches from processes, which go on from the last step that was asked for."""

    def __init__(self, batches: Batches, *, num_processes: int) -> None:
        self._order = _Onward()
        with _without_warnings():
            self._loader: DataLoader[Pixels | UsadError] = DataLoader(
                _Drawn(batches),
                batch_size=None,
                sampler=self._order,
                num_workers=num_processes,
                prefetch_factor=BATCHES_PER_PROCESS,
                persistent_workers=True,
                multiprocessing_context="fork",
                collate_fn=_as_it_is,
                worker_init_fn=_leave_signals_to_the_parent,
            )
        self._drawn: Iterator[Pixels | UsadError] = iter(())
        self._following: int | None = None

    def __call__(self, step: int) -> Tensor:
        if step != self._following:
            self._order.first = step
            with _without_warnings():
                self._drawn = iter(self._loader)
        self._following = step + _direction(step)
        result = next(self._drawn)
        if isinstance(result, UsadError):
            raise result
        return torch.from_numpy(result)

    def end(self) -> None:
        """End the processes now: by themselves they live as long as an exception holds the loader."""
        shut_down = getattr(self._drawn, "_shutdown_workers", None)  # torch has no public name for it
        if shut_down is not None:
            shut_down()
        del self._drawn, self._loader


class _Drawn(Dataset[Pixels | UsadError]):
    """The batch of each step, as an array: tensors would need shared memory, of which containers have little.

    A fault of the data is handed over, because the loader would raise it with a traceback in it.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Pixels | UsadError:
        try:
            return self._batches(step).numpy()
        except UsadError as error:
            return error


class _Onward(Sampler[int]):
    """Steps without end, from `first` on."""

    first = 0

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, _direction(self.first))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out the warnings that more processes than cores were asked for, and that threads run beside a fork.

    Both are meant: the children take none of the locks of the threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"This process .* is multi-threaded", category=DeprecationWarning)
        yield


def _as_it_is(drawn: Any) -> Any:
    """Hand over what was drawn; the loader would make a tensor of it."""
    return drawn


def _direction(step: int) -> int:
    return 1 if step >= 0 else -1


def _leave_signals_to_the_parent(process: int) -> None:
    """Go on at Ctrl-C and SIGTERM, which terminals and batch systems send to all: the training finishes its step and saves."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
