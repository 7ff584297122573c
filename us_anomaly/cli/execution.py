"""One command on a composed configuration: what Hydra calls, once for a job and in a sweep for each."""

import importlib
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from us_anomaly.cli.commands import COMMANDS
from us_anomaly.cli.configuration import to_settings
from us_anomaly.cli.messages import as_text
from us_anomaly.cli.remembered import missing_data, remember, renew_paths
from us_anomaly.errors import SettingsError, UsadError
from us_anomaly.reporting.comparison_unfinished import FAILED
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.added_folder import CONFIG_DIR
from us_anomaly.run_dir.command_log import leaving_no_trace, recorded
from us_anomaly.run_dir.faults import explained, in_one_line, with_way_out
from us_anomaly.run_dir.interruption import interruptible
from us_anomaly.run_dir.lock import locked
from us_anomaly.run_dir.said import forget_what_was_said

log = logging.getLogger(__name__)

faults: list[UsadError] = []
"""What stopped a single job."""
failures: list[str] = []
"""What went wrong in the jobs of a sweep, which goes on after a failed job."""
jobs: list[str] = []
"""Run directories of the jobs of a sweep that succeeded in this process."""


def execute(name: str, config: Any) -> None:
    """Run one command on a composed configuration; what fails in a sweep is remembered and listed at the end."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from us_anomaly.reporting.summary import working_in

    is_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    typed = _as_typed(HydraConfig.get().overrides.task)
    overrides = typed
    if is_sweep:
        config.run_dir = HydraConfig.get().runtime.output_dir  # one complete run directory per job
        overrides = [override for override in typed if not override.startswith("run_dir=")]
        overrides.append(f"run_dir={as_text(config.run_dir)}")
        _warn_of_batches()
    added = _added_folder()
    flags = [] if added is None else [f"{CONFIG_DIR}{added}"]
    forget_what_was_said()
    home: RunDir | None = None
    try:
        with interruptible(), explained():
            settings = _settings(config, typed)
            resolved = list(HydraConfig.get().overrides.task)
            logging.getLogger().setLevel(settings.runtime.log_level.upper())
            run_dir = RunDir(settings.run_dir)
            home = _home(name, settings)
            texts = {
                home.command_configuration(name): _yaml(config, resolve=True),
                home.command_settings(name): _yaml(overrides, resolve=False),
            }
            with (
                with_way_out(_way_out(name, settings)),
                nullcontext() if settings.inference.output is None else leaving_no_trace(home),
                locked(home, command=" ".join(["usad", name, *overrides])),
                working_in(f"run_dir={as_text(settings.run_dir)}"),
                recorded(home, command=name, texts=texts),
                _failure_in_log(shlex.join(["usad", name, *flags, *overrides])),
            ):
                before = run_dir.notes()
                importlib.import_module(f"us_anomaly.commands.{COMMANDS[name].module}").run(settings)
                made_something = run_dir.notes() != before or not run_dir.made_with.exists()
                if settings.inference.output is None and made_something:
                    remember(
                        run_dir,
                        command=name,
                        typed=typed,
                        resolved=resolved,
                        paths=settings.paths(),
                        config_dir=added,
                    )
                elif settings.inference.input is None:  # its files were looked at, and are what they were
                    renew_paths(run_dir, settings.paths())
        if is_sweep:
            jobs.append(config.run_dir)
    except UsadError as error:
        log.debug("what failed, with its traceback:", exc_info=True)
        if is_sweep:  # raised, because a launcher may run the job in another process
            _note_failed_job(error, str(error), run_dir=config.run_dir, typed=typed)
            sweep = shlex.quote(str(Path(config.run_dir).parent))
            raise type(error)(f"{failures[-1]}; `usad compare {sweep}` lists those that began") from error
        faults.append(error)  # not raised, because Hydra would print a line of its own
    except Exception as error:
        if is_sweep:
            log_file = (home or RunDir(config.run_dir)).command_log(name)
            where = f"; the traceback is in {log_file}" if log_file.exists() else ""
            _note_failed_job(error, unexpected(error), run_dir=config.run_dir, typed=typed, where=where)
        raise
    finally:
        if is_sweep:
            _free_device_memory()


def _note_failed_job(error: BaseException, said: str, *, run_dir: str, typed: Sequence[str], where: str = "") -> None:
    """Remember a job of a sweep for the list at the end, and nothing else of it."""
    log.error("this job failed: %s", said)
    failures.append(f"{run_dir} ({' '.join(typed)}): {said}{where}")
    _let_go(error)


def unexpected(error: BaseException) -> str:
    """Return what an exception that is no fault of a user says in one line, with its kind."""
    kind, said = type(error).__name__, in_one_line(error)
    return kind if said == kind else f"{kind}: {said}"


def _warn_of_batches() -> None:
    """Say, with the first job of a sweep in batches, what Hydra does where one fails."""
    from hydra.core.hydra_config import HydraConfig

    size = HydraConfig.get().sweeper.get("max_batch_size")
    if size is not None and HydraConfig.get().job.num == 0:
        log.warning(
            "hydra.sweeper.max_batch_size=%s: if a job fails, Hydra starts no batch after its own; without it all other jobs run",
            size,
        )


def _let_go(error: BaseException) -> None:
    """Clear the variables of all functions through which an exception and its causes came.

    Hydra keeps what a job raised until the sweep ends, and with it the networks and pictures of that job.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            pending += [one.__cause__, one.__context__]


def _free_device_memory() -> None:
    """Give back what torch keeps on a graphics card for later, where torch was loaded at all."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # after a fault of the card; what failed is told
            torch.cuda.empty_cache()


def _home(name: str, settings: Any) -> RunDir:
    """Return the folder in which a command works and whose lock it holds: the run directory, or `inference.output`.

    Raises:
        SettingsError: `inference.input` or `inference.output` is given to a command that has no use for it.
        UsadError: The folder cannot take the results.
    """
    if name != "infer":
        for key in ("output", "input"):
            if getattr(settings.inference, key) is not None:
                raise SettingsError(
                    f"`inference.{key}` is for `usad infer`, and does nothing for `usad {name}`: leave it out (or, where an "
                    f"experiment sets it, add inference.{key}=null)"
                )
    if settings.inference.output is None:
        return RunDir(settings.run_dir)
    from us_anomaly.commands.output_folder import output_folder

    return output_folder(settings)


def _way_out(name: str, settings: Any) -> str:
    """Return what to do where the folder cannot be written into."""
    if settings.inference.output is not None:
        return "choose another inference.output="
    if name == "export":
        return "copy the run directory to where you may write, and export there"
    if name == "infer" and settings.inference.input is not None:
        return "give the results a folder elsewhere, inference.output=DIR"
    return "choose another run_dir="


def _settings(config: Any, typed: Sequence[str]) -> Any:
    """Return the typed settings.

    Raises:
        SettingsError: A value is missing, out of range or of another type.
    """
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        return to_settings(config)
    except SettingsError as error:
        cause = error.__cause__
        if not isinstance(cause, MissingMandatoryValue) or getattr(cause, "full_key", None) != "data.root":
            raise
        try:
            run_dir = config.run_dir
        except OmegaConfBaseException:  # told once data.root is set
            raise error from cause
        raise missing_data(typed, run_dir=run_dir) or error from cause


@contextmanager
def _failure_in_log(command: str) -> Iterator[None]:
    """Within it, what ends a command is written into the log of its run directory, where `usad compare` finds it.

    The console is told elsewhere, once.
    """
    try:
        with explained():
            yield
    except (Exception, KeyboardInterrupt) as error:
        is_expected = isinstance(error, UsadError | KeyboardInterrupt)
        said, trace = (error, None) if is_expected else (unexpected(error), sys.exc_info())
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, FAILED, (command, said), trace)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        raise


def _added_folder() -> str | None:
    """Return the folder that `--config-dir` has added, as an absolute path."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)


def _as_typed(overrides: Any) -> list[str]:
    """Return overrides with an interpolation where one was typed, instead of what it stands for, which may need quotes."""
    from omegaconf import OmegaConf

    typed: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in typed]


def _yaml(content: Any, *, resolve: bool) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(content) if isinstance(content, list) else content, resolve=resolve)


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


def _export(config: Any) -> None:
    execute("export", config)


def _write_report(config: Any) -> None:
    execute("report", config)


def _compare(config: Any) -> None:
    settings = to_settings(config)
    try:
        importlib.import_module("us_anomaly.commands.compare").run(
            settings.runs, baseline=settings.baseline, output=settings.output
        )
    except UsadError as error:
        faults.append(error)


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
    "export": _export,
    "report": _write_report,
}
"""Module-level functions, because launchers pickle them by name."""
