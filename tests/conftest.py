"""What many tests share: composed settings, a drawn data set, random backbone weights, one trained run directory."""

import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from composition import composed
from PIL import Image

from us_anomaly.settings import Settings

SIDE_PX = 48
NUM_NORMAL = 12
DEFECTS = ("cut", "hole")
NUM_PER_DEFECT = 3

Compose = Callable[..., Settings]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in background jobs of shells; tests of Ctrl-C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Write out half characters, which names of files may hold: a worker cannot send them, and all tests would stop."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True, scope="session")
def _caches(tmp_path_factory):
    """Keep caches of the user out of the tests, and what tests draw out of the caches of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USAD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture
def as_a_new_process():
    """Undo what a command leaves behind in its process: the log that Hydra has set up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Compose settings as the command line does: `compose("split", "data.root=DIR", ...)`."""
    from us_anomaly import cli

    cli.register_schemas()

    def compose(command: str, *overrides: str) -> Settings:
        return cli.to_settings(composed(command, *overrides))

    return compose


def draw_parts(root: Path, *, num_normal: int = NUM_NORMAL, side_px: int = SIDE_PX, masks: bool = True) -> Path:
    """Draw a data set in the layout *folder*: smooth noise, and two kinds of defects with masks."""
    rng = np.random.default_rng(11)
    for number in range(num_normal):
        _save(root / f"images/good/{number:03}.png", _texture(rng, side_px))
    for kind, value in zip(DEFECTS, (0, 255), strict=True):
        for number in range(NUM_PER_DEFECT):
            picture, mask = _texture(rng, side_px), np.zeros((side_px, side_px), dtype=np.uint8)
            top, left = rng.integers(4, side_px - 16, size=2)
            mask[top : top + 12, left : left + 12] = 255
            picture[mask > 0] = value
            _save(root / f"images/{kind}/{number:03}.png", picture)
            if masks:
                _save(root / f"masks/{kind}/{number:03}.png", mask)
    return root


def _texture(rng: np.random.Generator, side_px: int) -> np.ndarray:
    coarse = rng.integers(60, 196, size=(-(-side_px // 6), -(-side_px // 6), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)).copy()


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    """Return the root of a drawn data set, which no test may change."""
    return draw_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def resnet18_weights(tmp_path_factory) -> Path:
    """Return the file of a ResNet-18 with random weights."""
    import torch
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny(parts, resnet18_weights) -> Callable[..., list[str]]:
    """Return a function from a run directory to the overrides of a detector that is trained in seconds."""

    def overrides(run_dir: Path, *more: str) -> list[str]:
        return [
            f"run_dir={run_dir}",
            "data=folder",
            f"data.root={parts}",
            f"image_size={SIDE_PX}",
            f"backbone.weights={resnet18_weights}",
            "backbone.layers=[1,2]",
            "teacher.positions=dense",
            "teacher.steps=6",
            "teacher.batch_size=2",
            "teacher.crop_size_px=48",
            "teacher.descriptor_dim=8",
            "teacher.width=0.1",
            "teacher.learning_rate=0.003",
            "teacher.min_explained_variance=-1",
            "students.num_students=2",
            "students.steps=6",
            "students.learning_rate=0.001",
            "evaluation.bootstrap_samples=20",
            "runtime.device=cpu",
            "runtime.precision=float32",
            "runtime.num_threads=1",
            "runtime.num_workers=1",
            "runtime.progress=false",
            *more,
        ]

    return overrides


@pytest.fixture(scope="session")
def stages(tmp_path_factory, compose, tiny) -> tuple[Path, dict[str, set[str]]]:
    """Run every stage once; return the run directory and the files that were there after each."""
    from us_anomaly.commands.run import STAGES

    run_dir = tmp_path_factory.mktemp("trained") / "run"
    settings = compose("run", *tiny(run_dir))
    after = {}
    for name, stage in STAGES:
        stage(settings)
        after[name] = files_below(run_dir)
    return run_dir, after


@pytest.fixture(scope="session")
def trained(stages) -> Path:
    """Return a complete run directory, which no test may change."""
    return stages[0]


def files_below(folder: Path) -> set[str]:
    """Return the relative names of all files in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trained_copy(trained, tmp_path) -> Path:
    """Return a copy of the complete run directory, to do with as one likes."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
