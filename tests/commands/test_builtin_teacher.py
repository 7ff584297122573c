"""The generic teachers that ship with the package: they load, they are what their header says, and they know pictures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import us_anomaly
from us_anomaly.commands.distill_teacher import reuse
from us_anomaly.detector import load_teacher
from us_anomaly.errors import ArtifactError

FOLDER = Path(us_anomaly.__file__).parent / "teachers"
TEACHERS = sorted(FOLDER.glob("p*.safetensors"))


def test_the_teachers_of_the_default_and_of_larger_patches_ship() -> None:
    assert {FOLDER / "p33.safetensors", FOLDER / "p65.safetensors"} <= set(TEACHERS)
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


def test_a_teacher_of_another_patch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"for patches of 33 pixels, scales asks for 17"):
        reuse(str(FOLDER / "p33.safetensors"), 17, tmp_path / "teacher.pt")


def test_larger_patches_take_the_small_teacher_at_reduced_resolution(tmp_path: Path) -> None:
    for patch_size in (33, 66):
        reuse("builtin", patch_size, tmp_path / f"{patch_size}.pt")
    small, large = (load_teacher(tmp_path / f"{patch_size}.pt") for patch_size in (33, 66))
    patches = torch.randn(4, 3, 66, 66, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            large(patches), small(torch.nn.functional.avg_pool2d(patches, 2)), rtol=1e-4, atol=1e-4
        )
