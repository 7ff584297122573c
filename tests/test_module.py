"""`python -m us_anomaly` is `usad`."""

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
