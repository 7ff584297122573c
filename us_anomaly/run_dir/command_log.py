"""What was asked of a run directory and what was said about it: `.hydra/<command>/`, beside the artifacts.

Written only by the process that holds the lock, so that a refused command leaves no trace in another one's record.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from us_anomaly.errors import StaleArtifactError
from us_anomaly.run_dir.atomic import write_bytes, write_text
from us_anomaly.run_dir.faults import cannot_write
from us_anomaly.run_dir.layout import RunDir

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def recorded(run_dir: RunDir, *, command: str, texts: Mapping[Path, str]) -> Iterator[None]:
    """Write down the configuration of a command, and what it logs meanwhile.

    Where a command is refused because what is there was made with other settings, the configuration of before stays.

    Args:
        run_dir: Where it works.
        command: Name of the command.
        texts: Contents of files in the folder of the command.

    Raises:
        ResourceError: It cannot be written.
    """
    before = {path: path.read_bytes() if path.is_file() else None for path in texts}
    for path, text in texts.items():
        write_text(path, text)
    log_path = run_dir.command_log(command)
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Log(log_path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise cannot_write(log_path, error) from error
    formatter = logging.Formatter(_FORMAT)
    formatter.default_msec_format = f"%s,%03d{time.strftime('%z')}"  # machines that share a disk may differ
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except StaleArtifactError:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, content)
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def leaving_no_trace(run_dir: RunDir) -> Iterator[None]:
    """Within it, a failure leaves nothing behind in a folder where nobody worked before and no results came to be."""
    was_there, is_new = run_dir.root.exists(), not run_dir.is_known
    strangers = {path.name for path in run_dir.records.iterdir()} if run_dir.records.is_dir() else set()
    try:
        yield
    except BaseException:
        if is_new and not run_dir.predictions.exists():
            _remove_records(run_dir, but=strangers)
            if not was_there:
                with suppress(OSError):
                    run_dir.root.rmdir()
        raise


def _remove_records(run_dir: RunDir, *, but: set[str]) -> None:
    """Remove the records of a folder, but for what another program that is made with Hydra had put there before."""
    if not but:
        shutil.rmtree(run_dir.records, ignore_errors=True)
        return
    for path in run_dir.records.iterdir():
        if path.name in but:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class _Log(logging.FileHandler):
    """A log that is given up silently where it cannot be written: a full disk is told once, by what fails on it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (name of the standard library)
        """Do nothing instead of printing a traceback."""
