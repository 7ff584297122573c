"""Being asked to stop: Ctrl-C and SIGTERM end a command at a place where nothing is lost."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM asked to stop; what was done is saved."""

    def __init__(self, signal_number: int) -> None:
        """Remember the signal, whose number decides the exit code."""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM raise `Interrupted`, so that locks are released and half-written files removed.

    Libraries that tidy up in haste put an error of their own in its place: whatever leaves after a signal becomes `Interrupted`.
    """
    came: list[int] = []

    def stop(signal_number: int, frame: FrameType | None) -> None:
        came.append(signal_number)
        raise Interrupted(signal_number)

    with _handled_by(stop):
        try:
            yield
        except Exception as error:
            if came:
                raise Interrupted(came[-1]) from error
            raise


@contextmanager
def deferred(note: Callable[[int], None]) -> Iterator[None]:
    """Within it, the first Ctrl-C or SIGTERM is handed to `note`; a second one raises `Interrupted` at once."""
    noted = False

    def handle(signal_number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise Interrupted(signal_number)
        noted = True
        note(signal_number)

    with _handled_by(handle):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM wait; they come at its end. For short steps that must not be cut in two."""
    came: list[int] = []
    try:
        with _handled_by(lambda number, frame: came.append(number)):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler, except for signals that whoever started us wants ignored, as nohup does."""
    previous = {}
    try:
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread, where Python delivers no signals
        previous.clear()
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
