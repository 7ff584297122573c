"""Progress of long work: bars on a terminal, a line now and then elsewhere, nothing when switched off.

Everything goes to stderr, where the logs are. Bars of work within work (steps within patch sizes) share one display.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO, TypeVar, overload

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from us_anomaly.training.course import OnStep

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_REFRESHES = 0.2

_display: ContextVar[Progress | None] = ContextVar("display", default=None)
"""The display that is open, to which inner work adds its bar."""
_place: ContextVar[str] = ContextVar("place", default="")
"""Where in the outer work we are, for lines: ` (2 of 3)`."""


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
        with _open_display() as display:
            yield _bar(display, description, total)
    else:
        yield _lines(description + _place.get(), total)


@contextmanager
def progress_over(description: str, items: Sequence[Item], *, enabled: bool) -> Iterator[Iterable[Item]]:
    """Show at which of some long pieces of work we are; a single one needs no bar of its own.

    Args:
        description: What the pieces are, for example `patch sizes`.
        items: The pieces.
        enabled: Show anything at all.

    Yields:
        The pieces, to go through once.
    """
    if not enabled or len(items) < 2:
        yield items
    elif sys.stderr.isatty():
        with _open_display() as display:
            yield _counted(items, _bar(display, description, len(items)))
    else:
        try:
            yield _placed(items)
        finally:
            _place.set("")


class Watched(Sequence[Item]):
    """A sequence that tells how far it was gone through, each time anew; for work that takes no callback."""

    def __init__(self, items: Sequence[Item], on_item: Callable[[int], None]) -> None:
        """Watch `items`: `on_item` is called with the number of items done."""
        self._items = items
        self._on_item = on_item

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """Return one item, or some of them unwatched."""
        return self._items[index]

    def __iter__(self) -> Iterator[Item]:
        """Yield the items; one is done when the next is asked for."""
        for number, item in enumerate(self._items, start=1):
            yield item
            self._on_item(number)


@contextmanager
def _open_display() -> Iterator[Progress]:
    """Return the display that is open, or open one; what is logged meanwhile appears above it."""
    outer = _display.get()
    if outer is not None:
        yield outer
        return
    terminal, console = sys.stderr, Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", style="progress.data.speed"),
        TimeElapsedColumn(),
        _TimeLeftColumn(),
        TextColumn("{task.fields[values]}", markup=False),
    )
    # stdout is not redirected: results must reach it even where stderr is a terminal and stdout a file
    with Progress(*columns, console=console, redirect_stdout=False) as display, _logs_above(terminal):
        token = _display.set(display)
        try:
            yield display
        finally:
            _display.reset(token)


@contextmanager
def _logs_above(terminal: TextIO) -> Iterator[None]:
    """Let log handlers that write to the terminal write above the display, whose stand-in `sys.stderr` is by now."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is terminal
    ]
    streams = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            if stream is not None:
                handler.setStream(stream)


class _TimeLeftColumn(ProgressColumn):
    """Time that is left at the present rate, known from the first steps on."""

    def render(self, task: Task) -> Text:
        """Return it as text."""
        seconds = task.fields["left"]
        if task.finished or seconds is None:
            return Text("")
        return Text(f"{clock_text(seconds)} left", style="progress.remaining")


def clock_text(seconds: float) -> str:
    """Return a duration as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _bar(display: Progress, description: str, total: int) -> OnStep:
    task = display.add_task(description, total=total, values="", rate="", left=None)
    clock = _Clock(SECONDS_BETWEEN_REFRESHES)

    def on_step(done: int, values: dict[str, float]) -> None:
        clock.note(done)
        if done == total or clock.is_due():
            display.update(
                task,
                completed=done,
                values=_shown(values),
                rate=_rate_text(clock.rate()),
                left=clock.seconds_left(total),
            )

    return on_step


def _lines(description: str, total: int) -> OnStep:
    clock = _Clock(SECONDS_BETWEEN_LINES)

    def on_step(done: int, values: dict[str, float]) -> None:
        clock.note(done)
        if done == total:
            spent = clock_text(clock.seconds())
            log.info("%s: %d of %d in %s, %s", description, done, total, spent, _with(values, clock))
        elif clock.is_due():
            left = clock_text(clock.seconds_left(total))
            log.info("%s: %d of %d, %s left, %s", description, done, total, left, _with(values, clock))

    return on_step


def _with(values: dict[str, float], clock: "_Clock") -> str:
    return f"{_rate_text(clock.rate())} {_shown(values)}".rstrip()


def _counted(items: Sequence[Item], on_step: OnStep) -> Iterator[Item]:
    """Yield the items; one is done when the next is asked for."""
    on_step(0, {})
    for number, item in enumerate(items, start=1):
        yield item
        on_step(number, {})


def _placed(items: Sequence[Item]) -> Iterator[Item]:
    """Yield the items while lines tell which of them is at work."""
    for number, item in enumerate(items, start=1):
        _place.set(f" ({number} of {len(items)})")
        yield item


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
            self._first = max(done - 1, 0)
        self._done = done

    def seconds(self) -> float:
        """Return the time since the start."""
        return max(time.monotonic() - self._start, 1e-9)

    def rate(self) -> float:
        """Return steps per second."""
        return (self._done - (self._first or 0)) / self.seconds()

    def seconds_left(self, total: int) -> float:
        """Return the time that the remaining steps take at this rate."""
        return (total - self._done) / max(self.rate(), 1e-9)

    def is_due(self) -> bool:
        """Return whether the interval has passed, and start it anew if so."""
        now = time.monotonic()
        due = now - self._shown_at >= self._interval
        if due:
            self._shown_at = now
        return due


def _rate_text(steps_per_second: float) -> str:
    if 0 < steps_per_second < 0.1:
        return f"{1 / steps_per_second:.0f} s each"
    return f"{steps_per_second:.1f}/s"


def _shown(values: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())
