"""Progress of long work: a bar on a terminal, a line now and then elsewhere, nothing when switched off."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from us_anomaly.training.course import OnStep

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_REFRESHES = 0.2


@contextmanager
def progress(description: str, total: int, *, enabled: bool) -> Iterator[OnStep]:
    """Show the progress of `total` steps.

    Args:
        description: What is being done.
        total: Number of steps.
        enabled: Show anything at all.

    Yields:
        A function to call with the number of steps done and current values such as losses.
    """
    if not enabled:
        yield lambda done, values: None
    elif sys.stderr.isatty():
        with _bar(description, total) as on_step:
            yield on_step
    else:
        yield _lines(description, total)


@contextmanager
def _bar(description: str, total: int) -> Iterator[OnStep]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(description, total=total, values="", rate="")
        clock = _Clock(SECONDS_BETWEEN_REFRESHES)

        def on_step(done: int, values: dict[str, float]) -> None:
            clock.note(done)
            if done == total or clock.is_due():
                bar.update(task, completed=done, values=_shown(values), rate=f"{clock.rate():.1f}/s")

        yield on_step


def _lines(description: str, total: int) -> OnStep:
    clock = _Clock(SECONDS_BETWEEN_LINES)

    def on_step(done: int, values: dict[str, float]) -> None:
        clock.note(done)
        if done == total or clock.is_due():
            left = (total - done) / max(clock.rate(), 1e-9)
            log.info(
                "%s: %d of %d, %.1f/s, %.0f s left %s",
                description,
                done,
                total,
                clock.rate(),
                left,
                _shown(values),
            )

    return on_step


class _Clock:
    """Rate of the steps, and whether it is time to show something again."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._start = self._shown_at = time.monotonic()
        self._first: int | None = None
        self._done = 0

    def note(self, done: int) -> None:
        """Note the number of steps done; a resumed training does not begin at 0."""
        if self._first is None:
            self._first = done - 1
        self._done = done

    def rate(self) -> float:
        """Return steps per second."""
        return (self._done - (self._first or 0)) / max(time.monotonic() - self._start, 1e-9)

    def is_due(self) -> bool:
        """Return whether the interval has passed, and start it anew if so."""
        now = time.monotonic()
        due = now - self._shown_at >= self._interval
        if due:
            self._shown_at = now
        return due


def _shown(values: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())
