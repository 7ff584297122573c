"""The command line `usad`: one Hydra application per command, and the only package that knows Hydra and OmegaConf.

Torch is never imported here; each command's module is imported when it runs, so that help and completion stay quick.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from us_anomaly.cli.arguments import expand_categories, not_an_option, prepared
from us_anomaly.cli.configuration import config_dir, register_schemas, to_settings
from us_anomaly.cli.foreign import refuse_code
from us_anomaly.cli.messages import explain_keys, one_line
from us_anomaly.errors import UsadError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.command_log import recorded
from us_anomaly.run_dir.environment import forget_what_was_said
from us_anomaly.run_dir.faults import explain, explained
from us_anomaly.run_dir.interruption import interruptible
from us_anomaly.run_dir.lock import locked
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

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the module whose `run(settings)` does the work, and what the overview says."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("run", "all stages in order; what is up to date is skipped"),
    "split": Command("split", "check every picture and divide the data set into train, val and test"),
    "finetune-backbone": Command("finetune_backbone", "teach the backbone on normal pictures first (optional)"),
    "distill-teacher": Command("distill_teacher", "distil the pretrained backbone into the patch network"),
    "normalize": Command("normalize", "measure mean and deviation of the teacher's descriptors"),
    "train-students": Command("train_students", "train the ensemble on normal pictures"),
    "calibrate": Command("calibrate", "choose thresholds and colours on validation pictures"),
    "infer": Command("infer", "score the data set, or any file, folder or glob (inference.input=)"),
    "evaluate": Command("evaluate", "compare predictions with the truth"),
    "compare": Command("compare", "put any number of evaluated run directories into one table: usad compare DIR..."),
    "report": Command("report", "web pages that show data, decisions and doubt; open from disk"),
}
ALIASES = {"train-teacher": "distill-teacher"}

THREADS_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Threads of the arithmetic that wait for work sleep instead of spinning, or two processes on the same cores would slow each
other down many times. Read by the runtime of the threads when torch is loaded."""

_faults: list[UsadError] = []
"""What stopped a single job."""
_failures: list[str] = []
"""What went wrong in the jobs of a sweep, which goes on after a failed job."""


def main() -> None:
    """Run `usad` with the arguments of the process; exit with 0, 1 for a user's fault, or 128 + signal number."""
    for variable, value in THREADS_SLEEP.items():
        os.environ.setdefault(variable, value)
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
        return explain_keys(arguments[1])
    if arguments[0] in ("-V", "--version", "version"):
        print(f"usad {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell_completion", "--shell-completion"):
        return _complete(arguments)
    name = ALIASES.get(arguments[0], arguments[0])
    if name not in COMMANDS:
        print(
            f"usad: there is no command {arguments[0]!r}{_suggestion(arguments[0])}; `usad --help` lists them",
            file=sys.stderr,
        )
        return 1
    return _run_command(name, arguments[1:])


def overview() -> str:
    """Return the text of `usad --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usad {__version__}: find defects in images after seeing only good ones (Uninformed Students, CVPR 2020)",
            "",
            "usage: usad COMMAND [flags] [key=value ...]",
            "",
            *lines,
            "",
            "  usad run data=demo                                      try it on textures that pip brings along",
            "  usad run data=folder data.root=DIR                      your own pictures: DIR/images/good, DIR/images/<defect>",
            "  usad infer data=folder data.root=DIR inference.input=photo.png",
            "",
            "  usad help KEY              what a setting means, or all settings of a group: usad help teacher",
            "  usad COMMAND --help        every setting with its value",
            "  usad COMMAND --cfg job     the configuration and nothing else",
            "  usad COMMAND -m a=1,2      a sweep: one run directory per job",
            '  eval "$(usad -sc install=bash)"   tab completion for this shell',
        ]
    )


def _suggestion(typed: str) -> str:
    import difflib

    near = difflib.get_close_matches(typed, [*COMMANDS, *ALIASES], n=1)
    return f", did you mean {near[0]!r}?" if near else ""


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
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    _failures.clear()
    try:
        with interruptible():
            _run_application(name, arguments)
    except KeyboardInterrupt as interruption:
        number = int(getattr(interruption, "signal_number", 2))
        print(f"usad: {interruption or 'stopped'}; run the same command again to go on", file=sys.stderr)
        return 128 + number
    except Exception as error:
        worded = _worded(error, arguments)
        if worded is None or show_traceback:
            raise
        return _report(worded)
    return _report(_faults.pop()) if _faults else 0


def _run_application(name: str, arguments: Sequence[str]) -> None:
    import hydra

    register_schemas()
    task = hydra.main(config_path=str(config_dir()), config_name=name, version_base="1.3")(TASKS[name])
    refuse_code(arguments)
    with _arguments(prepared(name, arguments)):
        task()


def _worded(error: Exception, arguments: Sequence[str]) -> Exception | None:
    """Return an error that says what a user did wrong or what the machine lacks; None for a fault of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UsadError | HydraException | OmegaConfBaseException):
        return error
    return explain(error) or not_an_option(error, arguments)


def _report(error: BaseException) -> int:
    failures = list(_failures)
    if failures and _is_sweep():
        print(f"usad: {len(failures)} of the jobs failed:", file=sys.stderr)
        for failure in failures:
            print(f"  {failure}", file=sys.stderr)
        return 1
    print(f"usad: {one_line(error)}", file=sys.stderr)
    return 1


def _is_sweep() -> bool:
    return any(argument in ("-m", "--multirun") for argument in sys.argv)


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra see the arguments of one command as those of the process."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def execute(name: str, config: Any) -> None:
    """Run one command on a composed configuration; what fails in a sweep is remembered and listed at the end."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from us_anomaly.reporting.summary import invoked_with

    is_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    if is_sweep:
        config.run_dir = HydraConfig.get().runtime.output_dir  # one complete run directory per job
    forget_what_was_said()
    try:
        with interruptible(), explained():
            settings = to_settings(config)
            logging.getLogger().setLevel(settings.runtime.log_level.upper())
            run_dir = RunDir(settings.run_dir)
            overrides = list(HydraConfig.get().overrides.task)
            texts = {"config.yaml": _yaml(config), "overrides.yaml": _yaml(overrides)}
            with (
                locked(run_dir, command=" ".join(["usad", name, *overrides])),
                invoked_with([*overrides, f"run_dir={config.run_dir}"] if is_sweep else overrides),
                recorded(run_dir, command=name, texts=texts),
            ):
                importlib.import_module(f"us_anomaly.commands.{COMMANDS[name].module}").run(settings)
    except UsadError as error:
        log.debug("what failed, with its traceback:", exc_info=True)
        _failures.append(f"{config.run_dir}: {error}")
        if is_sweep:  # raised, because a launcher may run the job in another process
            log.error("this job failed: %s", error)
            _failures[-1] = f"{config.run_dir} ({' '.join(HydraConfig.get().overrides.task)}): {error}"
            raise
        _faults.append(error)  # not raised, because Hydra would print a line of its own


def _yaml(content: Any) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(content) if isinstance(content, list) else content, resolve=True)


def _run(config: Any) -> None:
    execute("run", config)


def _split(config: Any) -> None:
    execute("split", config)


def _finetune_backbone(config: Any) -> None:
    execute("finetune-backbone", config)


def _distill_teacher(config: Any) -> None:
    execute("distill-teacher", config)


def _normalize(config: Any) -> None:
    execute("normalize", config)


def _train_students(config: Any) -> None:
    execute("train-students", config)


def _calibrate(config: Any) -> None:
    execute("calibrate", config)


def _infer(config: Any) -> None:
    execute("infer", config)


def _evaluate(config: Any) -> None:
    execute("evaluate", config)


def _write_report(config: Any) -> None:
    execute("report", config)


def _compare(config: Any) -> None:
    settings = to_settings(config)
    try:
        importlib.import_module("us_anomaly.commands.compare").run(
            settings.runs, baseline=settings.baseline, output=settings.output
        )
    except UsadError as error:
        _faults.append(error)


TASKS: dict[str, Callable[[Any], None]] = {
    "run": _run,
    "split": _split,
    "finetune-backbone": _finetune_backbone,
    "distill-teacher": _distill_teacher,
    "normalize": _normalize,
    "train-students": _train_students,
    "calibrate": _calibrate,
    "infer": _infer,
    "evaluate": _evaluate,
    "compare": _compare,
    "report": _write_report,
}
"""Module-level functions, because launchers pickle them by name."""
