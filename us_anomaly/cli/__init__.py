"""The command line `usad`: one Hydra application per command, and the only package that knows Hydra and OmegaConf.

Torch is never imported here; each command's module is imported when it runs, so that help and completion stay quick.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from us_anomaly.cli.arguments import (
    asked_help,
    beyond_ascii,
    expand_categories,
    not_an_option,
    prepared,
    without_settings,
)
from us_anomaly.cli.commands import ALIASES, COMMANDS, overview, suggestion
from us_anomaly.cli.configuration import config_dir, register_schemas, to_settings
from us_anomaly.cli.execution import TASKS, failures, faults, jobs, unexpected
from us_anomaly.cli.foreign import refuse_code, refuse_hidden
from us_anomaly.cli.help import show_help
from us_anomaly.cli.job_names import name_jobs
from us_anomaly.cli.messages import one_line
from us_anomaly.cli.process_environment import prepare_environment
from us_anomaly.cli.remembered import naming_the_folder
from us_anomaly.errors import SettingsError, UsadError
from us_anomaly.reporting.comparison_unfinished import EVALUATING
from us_anomaly.run_dir.faults import explain
from us_anomaly.run_dir.interruption import interruptible
from us_anomaly.version import __version__

__all__ = [
    "ALIASES",
    "COMMANDS",
    "TASKS",
    "config_dir",
    "expand_categories",
    "main",
    "one_line",
    "overview",
    "register_schemas",
    "to_settings",
]


def main() -> None:
    """Run `usad` with the arguments of the process; exit with 0, 1 for a user's fault, or 128 + signal number."""
    prepare_environment()
    try:
        status = _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:  # before a command began
        status = 130
    except OSError as error:  # standard output is a file on a full disk
        status = _report(explain(error) or error)
    sys.exit(status)


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["help"]:
        print(overview())
        return 0
    if arguments[0] == "help":
        return show_help(arguments[1])
    if arguments[0] in ("-V", "--version", "version"):
        print(f"usad {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell_completion", "--shell-completion"):
        return _complete(arguments)
    name = ALIASES.get(arguments[0], arguments[0])
    if name not in COMMANDS:
        print(
            f"usad: there is no command {arguments[0]!r}{suggestion(arguments[0])}; `usad --help` lists them",
            file=sys.stderr,
        )
        return 1
    return _run_command(name, arguments[1:])


def _complete(arguments: list[str]) -> int:
    """Answer the shell: complete the command first, then hand the rest of the line to its Hydra application."""
    if "query=bash" not in arguments:
        return _run_command("run", arguments)
    words = os.environ.get("COMP_LINE", "").split()
    line = os.environ.get("COMP_LINE", "")
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        print(" ".join([*COMMANDS, *ALIASES]))
        return 0
    name = ALIASES.get(words[1], words[1])
    if name not in COMMANDS:
        return 0
    os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
    return _run_command(name, arguments)


def _run_command(name: str, arguments: Sequence[str]) -> int:
    """Run one Hydra application and turn whatever goes wrong into one line and an exit code."""
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    for remembered in (faults, failures, jobs):  # of a command before in this process
        remembered.clear()
    try:
        with interruptible(), _hydra_raising():
            _run_application(name, arguments)
    except KeyboardInterrupt as interruption:
        _list_failures()
        number = int(getattr(interruption, "signal_number", 2))
        print(f"usad: {interruption or 'stopped'}; run the same command again to go on", file=sys.stderr)
        return 128 + number
    except Exception as error:
        worded, is_told = _worded(error, arguments), _is_of_a_job(error)
        if show_traceback or (worded is None and not is_told):
            _list_failures()
            raise
        return _report(worded or error, is_told=is_told)
    if name in EVALUATING:
        for folder in dict.fromkeys(Path(run_dir).parent for run_dir in jobs):
            print(f"the jobs side by side: usad compare {shlex.quote(str(folder))}")
    return _report(faults.pop()) if faults else 0


@contextmanager
def _hydra_raising() -> Iterator[None]:
    """Within it, Hydra raises what goes wrong instead of printing it and ending the process."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _run_application(name: str, arguments: Sequence[str]) -> None:
    import hydra

    register_schemas()
    task = hydra.main(config_path=str(config_dir()), config_name=name, version_base="1.3")(TASKS[name])
    refuse_code(arguments)
    refuse_hidden(arguments)
    if asked_help(arguments):
        _show_help_of_command(name, arguments, task)
        return
    given = prepared(name, arguments)
    name_jobs([argument for argument in given if "=" in argument and not argument.startswith("-")])
    with _arguments(given):
        task()


def _show_help_of_command(name: str, arguments: Sequence[str], show: Callable[[], object]) -> None:
    """Show the help with the settings that are typed, or without where they are wrong, which is said."""
    try:
        with _arguments(prepared(name, arguments)):
            show()
    except Exception as error:
        worded = _worded(error, arguments)
        flags = without_settings(arguments)
        if worded is None or len(flags) == len(arguments):
            raise
        print(f"usad: the help without what is typed: {one_line(worded)}", file=sys.stderr)
        with _arguments(flags):
            show()


def _worded(error: Exception, arguments: Sequence[str]) -> Exception | None:
    """Return an error that says what a user did wrong or what the machine lacks; None for a fault of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if (unquoted := beyond_ascii(error, arguments)) is not None:
        return unquoted
    if isinstance(error, UsadError | HydraException | OmegaConfBaseException):
        return naming_the_folder(error, arguments)
    if hasattr(error, "problem_mark"):  # an error of the YAML reader, which OmegaConf brings along
        return SettingsError(f"this is not YAML: {' '.join(str(error).split())}")
    return explain(error) or not_an_option(error, arguments)


def _report(error: BaseException, *, is_told: bool = False) -> int:
    """Say what went wrong, after the jobs that failed; `is_told` where it is one of those."""
    _list_failures()
    if not is_told:
        print(f"usad: {one_line(error)}", file=sys.stderr)
    return 1


def _is_of_a_job(error: BaseException) -> bool:
    """Return whether a job of a sweep that is listed raised it."""
    return any(failure in str(error) or unexpected(error) in failure for failure in failures)


def _list_failures() -> None:
    """Say which jobs of a sweep failed, if any did."""
    if failures:
        print(f"usad: {len(failures)} of the jobs failed:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra see the arguments of one command as those of the process."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
