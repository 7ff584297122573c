"""The scripts that a newcomer types, run in a copy of their folder with a Python that only writes down what it is told."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SCRIPTS = ("setup", "demo", "test", "check")
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="the scripts need bash")

# Answers what scripts/setup asks; `no_*` files beside it switch abilities off, and calls.txt collects what it was told.
FAKE_PYTHON = r"""#!/bin/bash
here=$(dirname "$0")
case "$1 $2" in
    "-c import sys; sys.exit("*) [ ! -e "$here/is_old" ] ;;
    "-c import pip") [ ! -e "$here/no_pip" ] ;;
    "-c import venv, ensurepip") [ ! -e "$here/no_venv" ] ;;
    "--version ") echo "Python 3.9.1" ;;
    "-m ensurepip") exit 1 ;;
    "-m venv") rm -rf "$4"; mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip") echo "pip ${*: -1}" >>"$here/calls.txt"; touch "$here/usad"; chmod +x "$here/usad"; [ ! -e "$here/no_network" ] ;;
    *) echo "$*" >>"$here/calls.txt"; [ "$2" != mypy ] || [ ! -e "$here/no_mypy" ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout that holds the scripts and the two files that decide whether to install again."""
    root = tmp_path / "a checkout"
    shutil.copytree(CHECKOUT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copytree(CHECKOUT / ".ci", root / ".ci")
    (root / "us_anomaly").mkdir()
    (root / "us_anomaly" / "version.py").write_text('__version__ = "1"\n')
    (root / "pyproject.toml").write_text("[project]\n")
    return root


def fake_python(folder: Path, *, name: str = "python") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / name
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return python


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Return a virtual environment with the fake Python."""
    fake_python(tmp_path / "env" / "bin")
    return tmp_path / "env"


def call(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    assert BASH is not None
    hidden = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHON")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [BASH, str(script), *arguments],
        env={**inherited, **variables},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def calls(environment: Path) -> list[str]:
    path = environment / "bin" / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("script", [*(CHECKOUT / "scripts" / name for name in SCRIPTS), CHECKOUT / ".ci" / "run"])
def test_every_script_is_executable_and_stops_at_the_first_error(script: Path) -> None:
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines


def test_setup_installs_into_the_active_environment_and_prints_its_python(checkout: Path, environment: Path) -> None:
    result = call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    assert (result.returncode, result.stdout) == (0, f"{environment}/bin/python\n")
    assert calls(environment) == [f"pip {checkout}[dev]"]
    assert not (checkout / ".venv").exists()


def test_setup_takes_the_extra_offline_unless_told_otherwise(checkout: Path, environment: Path) -> None:
    call(checkout / "scripts" / "setup", VIRTUAL_ENV=str(environment))
    assert calls(environment) == [f"pip {checkout}[offline]"]


def test_setup_installs_nothing_the_second_time(checkout: Path, environment: Path) -> None:
    call(checkout / "scripts" / "setup", "offline", VIRTUAL_ENV=str(environment))
    again = call(checkout / "scripts" / "setup", "offline", VIRTUAL_ENV=str(environment))
    assert (again.returncode, again.stdout, again.stderr) == (0, f"{environment}/bin/python\n", "")
    assert len(calls(environment)) == 1


def test_setup_knows_that_dev_holds_offline_but_not_the_other_way_round(checkout: Path, environment: Path) -> None:
    for extra in ("offline", "dev", "offline", "dev"):
        call(checkout / "scripts" / "setup", extra, VIRTUAL_ENV=str(environment))
    assert calls(environment) == [f"pip {checkout}[offline]", f"pip {checkout}[dev]"]


@pytest.mark.parametrize("changed", ["pyproject.toml", "us_anomaly/version.py"])
def test_setup_installs_again_when_the_packaging_changed(checkout: Path, environment: Path, changed: str) -> None:
    call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    (checkout / changed).write_text("# changed\n")
    call(checkout / "scripts" / "setup", "offline", VIRTUAL_ENV=str(environment))
    assert calls(environment) == [f"pip {checkout}[dev]", f"pip {checkout}[offline]"]


def test_setup_installs_again_when_another_checkout_was_installed_there_since(
    checkout: Path, environment: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(checkout, tmp_path / "other"))
    for root in (checkout, other, checkout):
        call(root / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    assert calls(environment) == [f"pip {root}[dev]" for root in (checkout, other, checkout)]


def test_setup_installs_again_when_the_command_is_gone(checkout: Path, environment: Path) -> None:
    call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    (environment / "bin" / "usad").unlink()
    call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    assert len(calls(environment)) == 2


def test_setup_remembers_nothing_of_an_installation_that_failed(checkout: Path, environment: Path) -> None:
    (environment / "bin" / "no_network").touch()
    failed = call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1] == "setup: pip could not install us-anomaly[dev]; what it said stands above"
    (environment / "bin" / "no_network").unlink()
    assert call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment)).returncode == 0
    assert len(calls(environment)) == 2


def test_setup_makes_venv_beside_itself_when_no_environment_is_active(checkout: Path, tmp_path: Path) -> None:
    interpreter = fake_python(tmp_path / "interpreters", name="python3")
    result = call(checkout / "scripts" / "setup", "offline", PYTHON=str(interpreter))
    assert result.stdout == f"{checkout}/.venv/bin/python\n"
    assert calls(checkout / ".venv") == [f"pip {checkout}[offline]"]
    again = call(checkout / "scripts" / "setup", "offline", PYTHON=str(interpreter))
    assert (again.stdout, again.stderr) == (result.stdout, "")


def test_setup_reuses_a_conda_environment_but_never_installs_into_base(
    checkout: Path, environment: Path, tmp_path: Path
) -> None:
    interpreter = fake_python(tmp_path / "interpreters", name="python3")
    own = call(checkout / "scripts" / "setup", CONDA_PREFIX=str(environment), CONDA_DEFAULT_ENV="usad")
    assert own.stdout == f"{environment}/bin/python\n"
    base = call(
        checkout / "scripts" / "setup",
        CONDA_PREFIX=str(environment),
        CONDA_DEFAULT_ENV="base",
        PYTHON=str(interpreter),
    )
    assert base.stdout == f"{checkout}/.venv/bin/python\n"


def test_setup_makes_a_broken_venv_again(checkout: Path, tmp_path: Path) -> None:
    interpreter = fake_python(tmp_path / "interpreters", name="python3")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(tmp_path / "a Python that was removed")
    result = call(checkout / "scripts" / "setup", PYTHON=str(interpreter))
    assert (result.returncode, result.stdout) == (0, f"{checkout}/.venv/bin/python\n")


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        (
            "no_pip",
            "{env}/bin/python has no pip and cannot install it (no ensurepip): install pip into that environment, on "
            "Debian and Ubuntu with `apt-get install python3-pip`",
        ),
        (
            "is_old",
            "the active environment {env} has Python 3.9.1, but 3.11 or newer is needed: deactivate it (then .venv is "
            "made here) or activate another",
        ),
    ],
)
def test_setup_says_in_one_line_why_an_environment_cannot_be_used(
    checkout: Path, environment: Path, switch: str, message: str
) -> None:
    (environment / "bin" / switch).touch()
    result = call(checkout / "scripts" / "setup", VIRTUAL_ENV=str(environment))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "setup: " + message.format(env=environment) + "\n"


def test_setup_says_in_one_line_that_the_active_environment_is_gone(checkout: Path, tmp_path: Path) -> None:
    result = call(checkout / "scripts" / "setup", VIRTUAL_ENV=str(tmp_path / "gone"))
    assert result.returncode == 1
    assert result.stderr == (
        f"setup: the active environment {tmp_path}/gone has no Python in it: deactivate it or make it again\n"
    )


def test_setup_says_in_one_line_that_python_cannot_make_environments(checkout: Path, tmp_path: Path) -> None:
    interpreter = fake_python(tmp_path / "interpreters", name="python3")
    (interpreter.parent / "no_venv").touch()
    result = call(checkout / "scripts" / "setup", PYTHON=str(interpreter))
    assert result.returncode == 1
    assert result.stderr == (
        f"setup: {interpreter} cannot make a virtual environment (no venv or ensurepip in it): install them, on Debian and "
        "Ubuntu with `apt-get install python3-venv`, or activate an environment of your own\n"
    )


def test_setup_says_in_one_line_that_there_is_no_recent_python(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("dirname", "cat", "cksum"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    old = fake_python(tools, name="python3")
    (tools / "is_old").touch()
    result = call(checkout / "scripts" / "setup", PATH=str(old.parent))
    assert result.returncode == 1
    assert result.stderr == (
        "setup: no Python 3.11 or newer on the PATH (looked for python3, python3.11 to python3.14, python): install one, "
        "or name it with PYTHON=/path/to/python\n"
    )


def test_demo_runs_the_demo_with_the_arguments_it_was_given(checkout: Path, environment: Path) -> None:
    call(checkout / "scripts" / "setup", "offline", VIRTUAL_ENV=str(environment))
    result = call(checkout / "scripts" / "demo", "seed=3", "run_dir='a, b'", VIRTUAL_ENV=str(environment))
    assert result.returncode == 0
    assert calls(environment)[1:] == ["-P -m us_anomaly run data=demo seed=3 run_dir='a, b'"]


@pytest.mark.parametrize("launcher", ["usad", "usad.exe", "Scripts/usad.exe"])
def test_what_is_installed_is_found_wherever_an_environment_keeps_its_programs(
    checkout: Path, environment: Path, launcher: str
) -> None:
    setup = checkout / "scripts" / "setup"
    call(setup, VIRTUAL_ENV=str(environment))
    place = environment / "bin" / launcher
    place.parent.mkdir(exist_ok=True)
    (environment / "bin" / "usad").rename(place)
    call(setup, VIRTUAL_ENV=str(environment))
    assert len(calls(environment)) == 1
    place.unlink()
    call(setup, VIRTUAL_ENV=str(environment))
    assert len(calls(environment)) == 2


def test_dev_holds_no_tracker(checkout: Path, environment: Path) -> None:
    for extra in ("dev", "mlflow", "mlflow", "export"):
        call(checkout / "scripts" / "setup", extra, VIRTUAL_ENV=str(environment))
    assert [line.rpartition("[")[2] for line in calls(environment)] == ["dev]", "mlflow]"]


def run_tests(checkout: Path, environment: Path, *arguments: str) -> str:
    tools = checkout / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("chromium", "chromedriver"):  # so that none is installed
        if not (tools / name).exists():
            (tools / name).symlink_to("/bin/true")
    search_path = f"{tools}:{os.environ['PATH']}"
    call(checkout / "scripts" / "test", *arguments, VIRTUAL_ENV=str(environment), PATH=search_path)
    return calls(environment)[-1]


def test_test_measures_branches_when_all_tests_run_and_asks_for_95_percent(checkout: Path, environment: Path) -> None:
    told = run_tests(checkout, environment)
    assert told.startswith("-m pytest ")
    assert " --cov --cov-branch " in told
    assert told.endswith(" --cov-fail-under=95")


def test_test_passes_on_its_arguments_and_measures_no_part(checkout: Path, environment: Path) -> None:
    told = run_tests(checkout, environment, "tests/data", "-k", "a b")
    assert told.startswith("-m pytest ")
    assert told.endswith(" tests/data -k a b")
    assert "--cov" not in told


def test_check_runs_format_style_types_and_imports_and_no_test(checkout: Path, environment: Path) -> None:
    call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    imports = environment / "bin" / "lint-imports"
    imports.write_text("#!/bin/bash\necho lint-imports\n")
    imports.chmod(0o755)
    result = call(checkout / "scripts" / "check", VIRTUAL_ENV=str(environment))
    assert calls(environment)[1:] == ["-m ruff format --check .", "-m ruff check .", "-m mypy"]
    assert (result.returncode, result.stdout) == (0, "lint-imports\n")


def test_check_goes_on_where_one_of_them_fails_and_names_it_at_the_end(checkout: Path, environment: Path) -> None:
    call(checkout / "scripts" / "setup", "dev", VIRTUAL_ENV=str(environment))
    imports = environment / "bin" / "lint-imports"
    imports.write_text("#!/bin/bash\nexit 4\n")
    imports.chmod(0o755)
    (environment / "bin" / "no_mypy").touch()
    result = call(checkout / "scripts" / "check", VIRTUAL_ENV=str(environment))
    assert (result.returncode, result.stderr) == (1, "check: failed: mypy, lint-imports\n")
    assert calls(environment)[1:] == ["-m ruff format --check .", "-m ruff check .", "-m mypy"]


def test_continuous_integration_checks_before_it_tests_and_stops_where_one_fails(checkout: Path) -> None:
    for name in ("check", "test"):
        (checkout / "scripts" / name).write_text(f"#!/bin/bash\necho {name}\n")
    assert call(checkout / ".ci" / "run").stdout.splitlines() == ["check", "test"]
    (checkout / "scripts" / "check").write_text("#!/bin/bash\necho check; exit 3\n")
    result = call(checkout / ".ci" / "run")
    assert (result.returncode, result.stdout.splitlines()) == (3, ["check"])
