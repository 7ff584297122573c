"""What was said already, so that a command, or loading a detector, says it once: every stage of `usad run` comes by it again."""

from collections.abc import Hashable

_said: set[tuple[Hashable, ...]] = set()


def was_said(*what: Hashable) -> bool:
    """Return whether something was said since a command, or loading a detector, began."""
    return what in _said


def note_said(*what: Hashable) -> None:
    """Remember that something was said."""
    _said.add(what)


def forget_what_was_said() -> None:
    """Let the next command of this process, or the next detector that is loaded, say it again."""
    _said.clear()
