"""The end of a command: what came out, where it lies, what to run next."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_IN_FILES = 100

_run_dir: ContextVar[str | None] = ContextVar("run_dir", default=None)
"""The override that names the run directory, if the command came from the command line."""
_is_stage: ContextVar[bool] = ContextVar("is_stage", default=False)
"""Whether the command runs as one of many stages, whose one summary comes at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a command says when it is done."""

    command: str
    """Its name."""
    facts: Sequence[tuple[str, str]] = ()
    """Name and value of what came out."""
    written: Sequence[tuple[str, Path]] = ()
    """Name and path of what was written; what does not exist is left out."""
    next_command: str | None = None
    """Name of the command to run next, with what must be added to its overrides."""


@contextmanager
def working_in(override: str) -> Iterator[None]:
    """Let summaries name the command to run next, which needs no more than `override`: `run_dir=...` remembers the rest."""
    token = _run_dir.set(override)
    try:
        yield
    finally:
        _run_dir.reset(token)


@contextmanager
def as_stage() -> Iterator[None]:
    """Leave out the summaries of commands that run as stages of a larger one."""
    token = _is_stage.set(True)
    try:
        yield
    finally:
        _is_stage.reset(token)


def show_summary(summary: Summary) -> None:
    """Print the summary of a command to stdout, unless it runs as a stage."""
    if not _is_stage.get():
        print_table(summary_table(summary))


def summary_table(summary: Summary) -> Table:
    """Return the summary as a table whose paths are never cut."""
    table = Table(title=f"usad {summary.command}", title_justify="left", box=box.ROUNDED, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = [*summary.facts, *((name, str(path)) for name, path in summary.written if path.exists())]
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    if summary.next_command is not None:
        table.add_section()
        table.add_row(Text("next"), Text(next_command(summary.next_command)))
    return table


def next_command(command: str) -> str:
    """Return the command line to run next, in the same run directory."""
    override = _run_dir.get()
    if override is None:
        return f"usad {command}, with the same settings"
    name, *added = command.split(" ", 1)
    return " ".join(["usad", name, shlex.quote(override), *added])


def print_table(table: Table) -> None:
    """Print a table to stdout: as wide as the terminal, or as wide as it needs to be in a file."""
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(highlight=False, width=10_000)
    console.width = max(WIDTH_IN_FILES, console.measure(table).maximum)
    console.print(table)
