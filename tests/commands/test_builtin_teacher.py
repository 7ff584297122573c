"""The generic teachers that ship with the package: they load, they are what their header says, and they know pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import us_anomaly
from us_anomaly.commands import distill_teacher
from us_anomaly.commands.distill_teacher import reuse
from us_anomaly.commands.run import run as run_all
from us_anomaly.errors import ArtifactError, DataError, SettingsError, StaleArtifactError
from us_anomaly.models.patch_network import PatchNetwork, at_reduced_resolution
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors, write_tensors
from us_anomaly.scoring.evaluation_file import read_evaluation
from us_anomaly.training.artifacts import load_teacher

FOLDER = Path(us_anomaly.__file__).parent / "teachers"
TEACHERS = sorted(FOLDER.glob("p*.safetensors"))


def test_the_teachers_of_the_default_and_of_larger_patches_ship() -> None:
    assert {FOLDER / f"p{patch_size}.safetensors" for patch_size in (17, 33, 65, 66)} <= set(TEACHERS)
    assert sum(path.stat().st_size for path in TEACHERS) < 12e6


@pytest.mark.parametrize("path", TEACHERS, ids=lambda path: path.stem)
def test_a_teacher_is_what_its_header_says_and_answers_pictures_differently(path: Path, tmp_path: Path) -> None:
    patch_size = int(path.stem.removeprefix("p"))
    reuse("builtin", patch_size, tmp_path / "teacher.pt")
    teacher = load_teacher(tmp_path / "teacher.pt")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert (teacher.patch_size, teacher.descriptor_dim) == (patch_size, int(header["descriptor_dim"]))
    assert json.loads(header["settings"])["teacher"]["images"] == "generic"
    assert float(header["explained_variance"]) > 0.3
    patches = torch.randn(16, 3, patch_size, patch_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        described = teacher(patches)
    assert described.isfinite().all()
    assert float(described.std(dim=0).mean()) > 0.01


def test_the_same_weights_give_the_same_file_in_whatever_layout_they_come(tmp_path: Path) -> None:
    given = {name: tmp_path / f"{name}.pt" for name in ("plain", "strided")}
    reuse("builtin", 65, given["plain"])
    state = read_tensors(given["plain"])
    kernel = state["network"]["layers.7.weight"]
    state["network"]["layers.7.weight"] = kernel.to(memory_format=torch.channels_last)  # 1 x 1: contiguous all the same
    write_tensors(given["strided"], state)
    assert given["plain"].read_bytes() != given["strided"].read_bytes()
    for name, path in given.items():
        reuse(str(path), 65, tmp_path / f"{name}_reused.pt")
    assert (tmp_path / "plain_reused.pt").read_bytes() == (tmp_path / "strided_reused.pt").read_bytes()


def test_a_teacher_of_another_patch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"for patches of 33 pixels, scales asks for 17"):
        reuse(str(FOLDER / "p33.safetensors"), 17, tmp_path / "teacher.pt")


def test_a_file_for_every_patch_size_is_preferred_to_the_small_teacher_at_reduced_resolution(tmp_path: Path) -> None:
    pattern = str(tmp_path / "p{patch_size}.pt")
    for patch_size in (33, 66):
        reuse("builtin", patch_size, tmp_path / f"p{patch_size}.pt")
    own, small = (load_teacher(tmp_path / f"p{patch_size}.pt") for patch_size in (66, 33))
    for expected, delete in ((own, False), (at_reduced_resolution(small, 66), True)):
        if delete:
            (tmp_path / "p66.pt").unlink()
        reuse(pattern, 66, tmp_path / "reused.pt")
        reused = load_teacher(tmp_path / "reused.pt").state_dict()
        assert all(torch.equal(tensor, reused[name]) for name, tensor in expected.state_dict().items())


def test_larger_patches_take_the_small_teacher_at_reduced_resolution(tmp_path: Path) -> None:
    for patch_size in (33, 132):
        reuse("builtin", patch_size, tmp_path / f"{patch_size}.pt")
    small, large = (load_teacher(tmp_path / f"{patch_size}.pt") for patch_size in (33, 132))
    patches = torch.randn(4, 3, 132, 132, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            large(patches), small(torch.nn.functional.avg_pool2d(patches, 4)), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("side_px", "said"),
    [
        ("64", "patches of 65 and 66 pixels are larger than the whole picture (image_size=64)"),
        ("[65,128]", "patches of 66 pixels are larger than the whole picture (image_size=[65,128])"),
        ("66", None),
    ],
)
def test_patches_larger_than_the_picture_are_told(compose, tiny, tmp_path, caplog, side_px, said):
    overrides = ("scales=[33,65,66]", "teacher.checkpoint=builtin", "scoring.normalization=zscore")
    distill_teacher.run(compose("distill-teacher", *tiny(tmp_path), *overrides, f"image_size={side_px}"))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.partition(", so")[0] for message in warnings] == ([] if said is None else [said])


# --- a detector that finds something -----------------------------------------------------------------------------


def draw_blocks(root: Path) -> Path:
    """Draw large black and white blocks, and on some of them a square of soft stripes.

    What the teacher says of the stripes is nothing extreme: only who knows the blocks can tell that they do not belong there.
    """
    rng, side_px = np.random.default_rng(0), 64
    wave = 128 + 60 * np.sin(np.arange(side_px) * 2 * np.pi / 12)
    for kind, count in (("good", 24), ("stripes", 6)):
        for number in range(count):
            pixels = np.kron(rng.integers(0, 2, (4, 4)) * 200 + 27, np.ones((16, 16)))
            mask = np.zeros((side_px, side_px), dtype=np.bool_)
            if kind == "stripes":
                top, left = rng.integers(12, side_px - 32, size=2)
                mask[top : top + 20, left : left + 20] = True
            pixels = np.where(mask, wave, pixels)
            for folder, picture in (("images", pixels), *([("masks", mask * 255)] if mask.any() else [])):
                path = root / folder / kind / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).convert("RGB").save(path)
    return root


def test_students_find_what_they_never_saw_because_they_learned(compose, tiny, tmp_path: Path) -> None:
    root, run_dir = draw_blocks(tmp_path / "blocks"), RunDir(tmp_path / "run")
    students = ("students.width=0.1", "students.learning_rate=0.003", "scoring.border_px=8")
    losses, figures = [], []
    for steps in (1, 150):
        more = (f"data.root={root}", "image_size=64", "teacher.checkpoint=builtin", f"students.steps={steps}")
        run_all(compose("run", *tiny(run_dir.root), *students, *more, "overwrite=true"))
        lines = run_dir.loss_curve(run_dir.students(33)).read_text().splitlines()
        losses.append(np.mean([json.loads(line)["loss"] for line in lines[-10:]]))
        figures.append(read_evaluation(run_dir.evaluation_json)["metrics"])
    before, after = figures
    assert losses[1] < 0.2 * losses[0]
    assert max(before["image_auroc"], before["pixel_auroc"]) < 0.7
    assert after["image_auroc"] > 0.9
    assert after["pixel_auroc"] > 0.85


# --- a teacher to start from -------------------------------------------------------------------------------------


def started(compose, tiny, folder: Path, *overrides: str) -> PatchNetwork:
    """Return the teacher of one step so small that it changes nothing, begun as `overrides` say."""
    still = ("teacher.images=procedural", "teacher.steps=1", "teacher.learning_rate=1e-12", "teacher.cache=false")
    settings = compose("distill-teacher", *tiny(folder), *still, "teacher.width=0.5", *overrides)
    distill_teacher.run(settings)
    return load_teacher(RunDir(settings.run_dir).teacher(settings.scales[0]))


@pytest.mark.parametrize("patch_size", [33, 66])
def test_a_teacher_starts_from_the_weights_of_another(compose, tiny, tmp_path: Path, patch_size: int) -> None:
    overrides = ("teacher.descriptor_dim=128", f"scales=[{patch_size}]", "teacher.crop_size_px=80")
    teacher = started(compose, tiny, tmp_path / "run", *overrides, f"teacher.start_from={FOLDER / 'p33.safetensors'}")
    fresh = started(compose, tiny, tmp_path / "fresh", *overrides)
    known = load_file(FOLDER / "p33.safetensors")
    in_order = [
        [weights[name] for name in sorted(weights)] for weights in (known, teacher.state_dict(), fresh.state_dict())
    ]
    for given, weights, other in zip(*in_order, strict=True):
        torch.testing.assert_close(weights, given, rtol=0, atol=1e-9)
        assert not torch.allclose(other, given)


def test_layers_of_another_shape_stay_fresh(compose, tiny, tmp_path: Path) -> None:
    overrides = ("teacher.descriptor_dim=32",)
    teacher = started(compose, tiny, tmp_path / "run", *overrides, "teacher.start_from=builtin").state_dict()
    fresh = started(compose, tiny, tmp_path / "fresh", *overrides).state_dict()
    known = load_file(FOLDER / "p33.safetensors")
    *hidden, weight, bias = teacher
    assert len(hidden) == 6
    for name in hidden:
        torch.testing.assert_close(teacher[name], known[name], rtol=0, atol=1e-9)
    for name in (weight, bias):
        torch.testing.assert_close(teacher[name], fresh[name], rtol=0, atol=1e-9)


def test_a_teacher_of_another_width_is_no_start(compose, tiny, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"`teacher.start_from` is a teacher of width 0.5: give teacher.width=0.5, got 1$"
    ):
        started(compose, tiny, tmp_path, "teacher.start_from=builtin", "teacher.width=1")


def test_a_start_that_does_not_exist_is_named(compose, tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^`teacher.start_from`: there is no file .*nowhere/p33.pt$"):
        started(compose, tiny, tmp_path, "teacher.start_from=nowhere/p33.pt")


def test_a_start_for_a_teacher_that_is_reused_is_refused(compose, tiny, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"`teacher.start_from` .* `teacher.checkpoint`"):
        compose("distill-teacher", *tiny(tmp_path), "teacher.checkpoint=builtin", "teacher.start_from=builtin")


def test_another_start_makes_the_teacher_stale(compose, tiny, tmp_path: Path) -> None:
    shutil.copy(FOLDER / "p33.safetensors", tmp_path / "start.safetensors")
    named = ("teacher.descriptor_dim=128", f"teacher.start_from={tmp_path / 'start.safetensors'}")
    started(compose, tiny, tmp_path / "run", *named)
    shutil.copy(FOLDER / "p65.safetensors", tmp_path / "start.safetensors")
    with pytest.raises(StaleArtifactError, match=r"teacher.start_from"):
        started(compose, tiny, tmp_path / "run", *named)
