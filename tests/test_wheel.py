"""What is given to users: a wheel, built from the source distribution, that needs nothing from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from forked import unmeasured

CHECKOUT = Path(__file__).parents[1]

TINY = [
    "data.image_side_px=48",
    "data.num_train=6",
    "data.num_test_normal=2",
    "data.num_test_anomalous=4",
    "image_size=48",
    "teacher.checkpoint=null",
    "teacher.steps=2",
    "teacher.batch_size=1",
    "teacher.crop_size_px=48",
    "teacher.descriptor_dim=4",
    "teacher.width=0.1",
    "students.steps=2",
    "students.batch_size=1",
    "scoring.stride_px=4",
    "evaluation.bootstrap_samples=10",
]


def run(*command: str, cwd: Path, **variables: str) -> str:
    result = subprocess.run(
        command, cwd=cwd, env=unmeasured(**variables), capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from the source distribution, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT), cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed package and nothing else; what it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target")
    run(*pip, str(folder), str(wheel), cwd=folder)
    return folder


def tracked(*patterns: str) -> set[str]:
    """Return the files below the checkout that match, as they are called there."""
    return {
        path.relative_to(CHECKOUT).as_posix()
        for pattern in patterns
        for path in CHECKOUT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_module_configuration_page_and_teacher(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = tracked("us_anomaly/**/*") | {f"us_anomaly/{name}" for name in tracked("configs/**/*")}
    assert names == expected
    assert "us_anomaly/py.typed" in names
    assert "us_anomaly/configs/config.yaml" in names


def test_the_wheel_brings_readme_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
        assert (CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()[0] in metadata
        assert archive.read(f"{info}/licenses/LICENSE") == (CHECKOUT / "LICENSE").read_bytes()
        assert "usad = us_anomaly.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_installed_package_runs_the_demo_with_nothing_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    usad = (sys.executable, "-c", "from us_anomaly.cli import main; main()")
    variables = {"PYTHONPATH": str(installed), "USAD_CACHE_DIR": str(tmp_path / "cache")}
    where = run(sys.executable, "-c", "import us_anomaly; print(us_anomaly.__file__)", cwd=tmp_path, **variables)
    assert Path(where.strip()) == installed / "us_anomaly" / "__init__.py"
    table = run(*usad, "run", "data=demo", *TINY, cwd=tmp_path, **variables)
    assert "image AUROC" in table
    assert (tmp_path / "runs" / "demo" / "evaluation.json").is_file()
