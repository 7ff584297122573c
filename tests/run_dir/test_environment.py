import platform
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from us_anomaly.run_dir import environment as module
from us_anomaly.run_dir.environment import (
    environment,
    say_if_calibrated_otherwise,
    say_if_made_elsewhere,
)
from us_anomaly.run_dir.said import forget_what_was_said


@pytest.fixture(autouse=True)
def _nothing_said():
    forget_what_was_said()
    yield
    forget_what_was_said()


def test_versions_and_processor_are_those_in_use():
    described = environment()
    assert described["python"] == platform.python_version()
    assert described["numpy"] == numpy.__version__
    assert torch.__version__.startswith(described["torch"].partition("+")[0])
    assert described["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert described["processor"]


def test_the_versions_are_known_without_loading_torch():
    code = (
        "import sys; from us_anomaly.run_dir.environment import environment; "
        "versions = environment(); assert 'torch' not in sys.modules; print(versions['torch'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == environment()["torch"]


def test_the_same_environment_is_no_news(caplog):
    say_if_made_elsewhere(Path("run"), "p33/teacher.pt", environment())
    assert caplog.text == ""


def test_another_torch_and_another_processor_are_told_in_one_line_once_per_run_directory(caplog):
    then = environment() | {"torch": "2.5.0", "processor": "Abacus 3000"}
    for _ in range(2):
        say_if_made_elsewhere(Path("run"), "p33/teacher.pt", then)
        say_if_made_elsewhere(Path("run"), "p33/students.pt", then)
    now = environment()
    assert [record.getMessage() for record in caplog.records] == [
        f"p33/teacher.pt was made elsewhere (torch 2.5.0 then, {now['torch']} now; processor Abacus 3000 then, "
        f"{now['processor']} now): the same settings can give slightly other results here"
    ]
    say_if_made_elsewhere(Path("another run"), "p33/teacher.pt", then)
    assert len(caplog.records) == 2


def test_the_next_command_tells_it_again(caplog):
    then = environment() | {"numpy": "1.26.0"}
    say_if_made_elsewhere(Path("run"), "x", then)
    forget_what_was_said()
    say_if_made_elsewhere(Path("run"), "x", then)
    assert len(caplog.records) == 2


def test_another_number_format_than_that_of_the_calibration_is_told_once_per_run_directory_and_command(caplog):
    for _ in range(2):
        say_if_calibrated_otherwise(Path("run"), calibrated="bfloat16", now="float32")
    assert [record.getMessage() for record in caplog.records] == [
        "run was calibrated in bfloat16 and now computes in float32: scores differ a little, but the threshold does not follow "
        "them; use runtime.precision=bfloat16 (in Python, precision='bfloat16'), or `usad calibrate overwrite=true`"
    ]
    say_if_calibrated_otherwise(Path("another run"), calibrated="bfloat16", now="float32")
    forget_what_was_said()
    say_if_calibrated_otherwise(Path("run"), calibrated="bfloat16", now="float32")
    assert len(caplog.records) == 3


@pytest.mark.parametrize("calibrated", [None, "float32"])
def test_the_number_format_of_the_calibration_is_no_news_nor_one_that_is_not_known(caplog, calibrated):
    say_if_calibrated_otherwise(Path("run"), calibrated=calibrated, now="float32")
    assert caplog.text == ""


@pytest.mark.parametrize("recorded", [None, {}, "2.5", {"torchvision-of-another-name": "1"}, {"python": "3.9"}])
def test_what_an_older_note_does_not_say_is_not_compared(caplog, recorded):
    say_if_made_elsewhere(Path("run"), "x", recorded)
    assert caplog.text == ""


def test_a_system_that_describes_no_processor_is_no_fault(monkeypatch, tmp_path):
    module._processor.cache_clear()
    monkeypatch.setattr(module, "Path", lambda name: tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert module._processor() == "unknown"
    module._processor.cache_clear()


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    module._version.cache_clear()
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    assert "no-such-package" not in environment()
    module._version.cache_clear()


def test_the_graphics_card_is_named_where_one_is_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card 1")
    assert environment()["gpu"] == "Card 1"
