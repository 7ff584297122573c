"""`python -m us_anomaly` is `usad`, and what its commands load."""

import subprocess
import sys


def test_the_module_is_the_command():
    ended = subprocess.run([sys.executable, "-m", "us_anomaly", "--help"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "train-students" in ended.stdout


def test_the_module_fails_as_the_command_does():
    ended = subprocess.run([sys.executable, "-m", "us_anomaly", "no-such-command"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "no-such-command" in ended.stderr


def test_figures_and_pages_are_made_without_torchvision_which_takes_as_long_to_load_as_torch():
    code = "import sys; from us_anomaly.commands import evaluate, report; print('torchvision' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
