"""Python code in copies of one process that has loaded the libraries: a process of its own takes five seconds for that alone.

Coverage is measured there only on request: most of what they run, other tests run where it is, and it takes as long again.
"""

import io
import multiprocessing
import multiprocessing.forkserver
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import coverage
import pytest

USAD = "import sys; from us_anomaly.cli import main; sys.exit(main())"
CONTEXT = multiprocessing.get_context("forkserver")
OUTPUTS = ("stdout", "stderr")
Limits = Sequence[tuple[int, int]]


def unmeasured(**variables: str) -> dict[str, str]:
    """Return the variables of this process, without those that let coverage be measured, and with some more."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return kept | {"OMP_NUM_THREADS": "1"} | variables


class Forked:
    """A running process, with the part of `subprocess.Popen` that tests need."""

    def __init__(
        self,
        code: str,
        arguments: tuple[str, ...],
        *,
        input: str = "",
        cwd: Path | None = None,
        limits: Limits = (),
        is_measured: bool = False,
    ) -> None:
        _ensure_running()
        self._folder = Path(tempfile.mkdtemp())
        for name in OUTPUTS:
            (self._folder / name).touch()
        self._written: tuple[str, str] | None = None
        variables = unmeasured(**(os.environ if is_measured else {}))
        given = (code, arguments, self._folder, input, cwd, limits, variables)
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait until it has ended; return what it wrote to stdout and to stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        if self._written is None:
            self._written = (self._folder / OUTPUTS[0]).read_text(), (self._folder / OUTPUTS[1]).read_text()
            shutil.rmtree(self._folder)
        return self._written


def start(*arguments: str) -> Forked:
    """Start `usad`, measured for coverage if this process is."""
    return Forked(USAD, arguments, is_measured=True)


def run(
    code: str,
    *arguments: str,
    input: str = "",
    cwd: Path | None = None,
    limits: Limits = (),
    is_measured: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Do what `python -c` does, and wait until it has ended."""
    process = Forked(code, arguments, input=input, cwd=cwd, limits=limits, is_measured=is_measured)
    try:
        output, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def _ensure_running() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - unmeasured().keys():
            patch.delenv(name)
        CONTEXT.set_forkserver_preload(["us_anomaly.commands.run"])
        multiprocessing.forkserver.ensure_running()


def _run(
    code: str,
    arguments: tuple[str, ...],
    folder: Path,
    input: str,
    cwd: Path | None,
    limits: Limits,
    variables: dict[str, str],
) -> None:
    for descriptor, name in enumerate(OUTPUTS, start=1):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(variables)
    if cwd is not None:
        os.chdir(cwd)
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))
    sys.argv = ["-c", *arguments]
    sys.stdin = io.StringIO(input)
    measuring = coverage.process_startup()  # None unless the variables ask for it
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        if measuring is not None:
            measuring.stop()
            measuring.save()
