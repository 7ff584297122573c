"""Ctrl-C and SIGTERM to the real command: the conventional exit code, a saved state, nothing half-written."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import pytest
from forked import Forked

from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors

WAIT_SECONDS = 120
Start = Callable[..., Forked]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `usad` as the console script does; what still runs when the test ends is killed, however it ends."""
    processes: list[Forked] = []

    def start(*arguments: str) -> Forked:
        processes.append(forked.start(*arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: Forked) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def leftovers(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.rglob("*") if path.name.startswith((".partial-", ".lock")))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_stopped_saves_first_and_exits_with_the_code_of_the_signal(
    start, trained_copy, tiny, number, code
):
    run_dir = RunDir(trained_copy)
    state = run_dir.training_state(run_dir.students(33))
    process = start(
        "train-students", *tiny(trained_copy, "students.steps=100000", "checkpoint.every_steps=2", "overwrite=true")
    )
    wait_for(state, process)
    before = run_dir.students(33).read_bytes()
    process.send_signal(number)
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == code, output + errors
    assert errors.splitlines()[-1] == f"usad: stopped by {number.name}; run the same command again to go on"
    assert "Traceback" not in errors
    assert read_tensors(state)["step"] >= 2
    assert run_dir.students(33).read_bytes() == before
    assert leftovers(trained_copy) == []


@pytest.mark.slow
def test_scoring_that_is_stopped_leaves_nothing_half_written_and_the_old_results(start, trained_copy, tiny):
    before = (trained_copy / "predictions.jsonl").read_bytes()
    process = start("infer", *tiny(trained_copy, "overwrite=true"))
    deadline = time.monotonic() + WAIT_SECONDS
    while not list(trained_copy.glob(".partial-*/maps")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 143, output + errors
    assert "Traceback" not in errors
    assert leftovers(trained_copy) == []
    assert (trained_copy / "predictions.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_second_process_gets_one_line_and_changes_nothing_while_the_first_works(start, trained_copy, tiny):
    run_dir = RunDir(trained_copy)
    first = start(
        "train-students", *tiny(trained_copy, "students.steps=100000", "checkpoint.every_steps=2", "overwrite=true")
    )
    wait_for(run_dir.training_state(run_dir.students(33)), first)
    second = start("evaluate", *tiny(trained_copy))
    output, errors = second.communicate(timeout=WAIT_SECONDS)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.returncode == 1, output + errors
    (line,) = errors.splitlines()
    assert line.startswith(f"usad: {trained_copy} is in use by `usad train-students run_dir=")
    assert f"(process {first.pid} on " in line
    assert line.endswith("wait until it has finished, or choose another run_dir=")
    assert not run_dir.command_folder("evaluate").exists()
    third = start("evaluate", *tiny(trained_copy))
    output, errors = third.communicate(timeout=WAIT_SECONDS)
    assert third.returncode == 0, output + errors  # the old students are still there, and still described
    assert f"(process {first.pid} on " in errors
    assert "which was killed" in errors
    assert leftovers(trained_copy) == []
