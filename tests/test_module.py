"""`python -m us_anomaly` is `usad`, and what its commands load."""

import subprocess
import sys
from pathlib import Path

import pytest

import us_anomaly


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


def test_the_package_knows_its_errors_without_torch():
    code = "import sys, us_anomaly; print(us_anomaly.errors.DataError.__name__, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "DataError False\n"


def test_a_type_checker_knows_what_the_package_has_and_what_not(tmp_path):
    api = pytest.importorskip("mypy.api")
    package = Path(us_anomaly.__file__).parent
    program = tmp_path / "program.py"
    program.write_text(
        "import us_anomaly\nus_anomaly.load, us_anomaly.Prediction, us_anomaly.errors.DataError\nus_anomaly.laod\n"
    )
    options = ["--config-file=", f"--cache-dir={tmp_path}", "--follow-imports=skip", "--no-error-summary"]
    said, _, _ = api.run([*options, str(package / "__init__.py"), str(package / "errors.py"), str(program)])
    assert said == f'{program}:3: error: Module has no attribute "laod"  [attr-defined]\n'
