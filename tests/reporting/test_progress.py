import io
import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from us_anomaly.reporting import progress as module
from us_anomaly.reporting.progress import Watched, clock_text, progress, progress_over


@pytest.fixture
def at_once(monkeypatch):
    """Every line is due."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)


def test_nothing_is_shown_when_switched_off(capsys, caplog, at_once):
    caplog.set_level(logging.DEBUG)
    with progress_over("sizes", [17, 33], enabled=False) as sizes:
        for _ in sizes:
            with progress("training", 2, enabled=False) as on_step:
                on_step(1, {"loss": 1.0})
                on_step(2, {"loss": 1.0})
    assert caplog.text == ""
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_a_line_tells_rate_time_left_and_losses(caplog, at_once):
    caplog.set_level(logging.INFO)
    with progress("training", 3, enabled=True) as on_step:
        on_step(1, {"loss": 0.12345})
    [line] = caplog.messages
    assert re.fullmatch(r"training: 1 of 3, \d:\d\d left, \d+\.\d/s loss=0\.1235", line)


def test_without_a_terminal_lines_come_now_and_then_and_at_the_end(caplog):
    caplog.set_level(logging.INFO)
    with progress("training", 1000, enabled=True) as on_step:
        for step in range(1, 1001):
            on_step(step, {})
    [line] = caplog.messages
    assert re.fullmatch(r"training: 1000 of 1000 in 0:00, \d+\.\d/s", line)


def test_without_a_terminal_lines_tell_which_piece_is_at_work(caplog):
    caplog.set_level(logging.INFO)
    with progress_over("patch sizes", [17, 33], enabled=True) as sizes:
        for size in sizes:
            with progress(f"training p={size}", 1, enabled=True) as on_step:
                on_step(1, {})
    assert [line.split(":")[0] for line in caplog.messages] == ["training p=17 (1 of 2)", "training p=33 (2 of 2)"]


def test_the_place_is_forgotten_when_work_fails(caplog):
    def fail() -> None:
        with progress_over("sizes", [1, 2], enabled=True) as sizes:
            for _ in sizes:
                raise ValueError("damaged")

    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match="damaged"):
        fail()
    with progress("later", 1, enabled=True) as on_step:
        on_step(1, {})
    assert caplog.messages[0].startswith("later: ")


def test_the_rate_of_a_resumed_training_counts_only_its_own_steps(monkeypatch):
    now = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    clock = module._Clock(1.0)
    clock.note(901)
    clock.note(1000)
    assert clock.rate() == pytest.approx(10.0)
    assert clock.seconds_left(1100) == pytest.approx(10.0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_durations_are_clock_times(seconds, text):
    assert clock_text(seconds) == text


def test_slow_steps_are_told_by_their_duration():
    assert module._rate_text(0.02) == "50 s each"
    assert module._rate_text(2.345) == "2.3/s"


def test_a_watched_sequence_tells_how_far_each_pass_is():
    told = []
    items = Watched("abc", told.append)
    assert (list(items), list(items)) == (["a", "b", "c"], ["a", "b", "c"])
    assert told == [1, 2, 3, 1, 2, 3]
    assert (len(items), items[1], items[1:]) == (3, "b", "bc")


def in_a_terminal(code: str) -> tuple[str, str]:
    """Run code whose stderr is a terminal and whose stdout is a pipe; return both as text."""
    main, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=side, env=environment)
    os.close(side)
    shown = io.BytesIO()
    while True:
        try:
            block = os.read(main, 4096)
        except OSError:  # the terminal is closed
            break
        if not block:
            break
        shown.write(block)
    os.close(main)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown.getvalue().decode()
    return shown.getvalue().decode(), stdout.decode()


NESTED = """
import logging, time
logging.basicConfig(level=logging.INFO, format="%(message)s")
from us_anomaly.reporting import progress as module
module.SECONDS_BETWEEN_REFRESHES = 0.0
with module.progress_over("patch sizes", [17, 33], enabled=True) as sizes:
    for size in sizes:
        with module.progress(f"training p={size}", 4, enabled=True) as on_step:
            for step in range(1, 5):
                time.sleep(0.02)
                on_step(step, {"loss": 0.5})
        logging.getLogger("x").info("saved %d", size)
        print("result", size)
"""


@pytest.fixture(scope="module")
def nested() -> tuple[str, str]:
    return in_a_terminal(NESTED)


def test_on_a_terminal_nested_bars_share_one_display(nested):
    terminal, _ = nested
    last = terminal.rsplit("patch sizes", 1)[1]
    assert "2/2" in last
    assert "training p=17" in last
    assert "training p=33" in last


def test_on_a_terminal_a_bar_shows_rate_and_loss(nested):
    terminal, _ = nested
    assert re.search(r"training p=33 .*4/4 \d+\.\d/s 0:00:00 .*loss=0\.5", terminal)
    assert re.search(r"\d:\d\d left", terminal)


def test_on_a_terminal_logs_stay_whole_lines_above_the_bars(nested):
    terminal, _ = nested
    assert [line.strip() for line in terminal.replace("\x1b[2K", "\n").splitlines() if "saved" in line] == [
        "saved 17",
        "saved 33",
    ]


def test_results_reach_stdout_even_while_bars_are_on_the_terminal(nested):
    assert nested[1].splitlines() == ["result 17", "result 33"]
