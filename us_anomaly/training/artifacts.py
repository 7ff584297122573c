"""What is trained as files: what each holds, as plain tensors and numbers that are checked before anything is built from them.

Networks are built without memory first, so that a file which claims to hold a network of a billion channels costs nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from us_anomaly.errors import ArtifactError, SettingsError
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.frozen_backbone import Backbone
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.run_dir.atomic import read_tensors
from us_anomaly.run_dir.faults import in_one_line
from us_anomaly.run_dir.format_version import check_format
from us_anomaly.training.normalization import TeacherStatistics

FORMAT_VERSION = 1
"""Of all files of tensors in a run directory, and of the loss curves beside them."""

N = TypeVar("N", bound=nn.Module)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights of a network as they are stored: on the CPU, in plain layout.

    So the same weights give the same file wherever they come from: kernels of 1 x 1 are contiguous in either memory format, with
    other strides, and a file holds strides.
    """
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def backbone_state(
    weights: dict[str, Tensor], *, held_out: dict[str, float | int], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of a fine-tuned backbone: its weights, how well they told held-out pictures, what made them."""
    return {"format_version": FORMAT_VERSION, "network": weights, "held_out": held_out, "settings": settings}


def load_finetuned(path: Path, backbone: Backbone) -> None:
    """Give a backbone its fine-tuned weights.

    Raises:
        ArtifactError: The file is damaged, of another format version, or holds weights of another network.
    """
    state = read_state(path, "finetune-backbone")

    def fill() -> None:
        weights = {name: _whole_or_finite(name, tensor) for name, tensor in state["network"].items()}
        backbone.network.load_state_dict(weights)

    built_from(path, "weights of this backbone", "finetune-backbone", fill)


def teacher_state(teacher: PatchNetwork) -> dict[str, Any]:
    """Return what every file of a teacher holds."""
    return {
        "format_version": FORMAT_VERSION,
        "patch_size": teacher.patch_size,
        "descriptor_dim": teacher.descriptor_dim,
        "width": teacher.width,
        "network": weights_of(teacher),
    }


def load_teacher(path: Path) -> PatchNetwork:
    """Read a teacher.

    Raises:
        ArtifactError: The file is damaged, of another format version, or no teacher.
    """
    state = read_state(path, "distill-teacher")
    return built_from(path, "teacher", "distill-teacher", lambda: build_teacher(state, state["network"]))


def build_teacher(numbers: dict[str, Any], network: dict[str, Tensor]) -> PatchNetwork:
    """Build a teacher from its numbers `patch_size`, `descriptor_dim` and `width`, and its weights.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError, SettingsError: They do not describe a patch network.
    """
    patch_size, width = int(numbers["patch_size"]), float(numbers["width"])
    descriptor_dim = int(numbers["descriptor_dim"])
    return _filled(lambda: PatchNetwork(patch_size, descriptor_dim=descriptor_dim, width=width), network)


def statistics_state(statistics: TeacherStatistics, *, num_images: int) -> dict[str, Any]:
    """Return the content of teacher statistics, which were measured on so many pictures."""
    whitening = {} if statistics.whitening is None else {"whitening": statistics.whitening}
    return {
        "format_version": FORMAT_VERSION,
        "num_images": num_images,
        "mean": statistics.mean,
        "std": statistics.std,
        **whitening,
    }


def load_statistics(path: Path) -> TeacherStatistics:
    """Read teacher statistics.

    Raises:
        ArtifactError: The file is damaged, of another format version, or holds no teacher statistics.
    """
    state = read_state(path, "normalize")

    def build() -> TeacherStatistics:
        mean, std = finite("mean", state["mean"]), finite("std", state["std"])
        if mean.ndim != 1 or mean.shape != std.shape or not bool((std > 0).all()):
            raise ValueError("mean and std must be vectors of one length, and every std above 0")
        whitening = finite("whitening", state["whitening"]) if "whitening" in state else None
        if whitening is not None and whitening.shape != (len(mean), len(mean)):
            raise ValueError("whitening must be a square matrix of the length of mean")
        return TeacherStatistics(mean=mean, std=std, whitening=whitening)

    return built_from(path, "teacher statistics", "normalize", build)


def students_state(ensemble: StudentEnsemble, *, disagreement: dict[str, float | None]) -> dict[str, Any]:
    """Return the content of a file of students, with their mean uncertainty per dimension by kind of pictures."""
    first = ensemble.networks[0]
    return {
        "format_version": FORMAT_VERSION,
        "num_students": len(ensemble.networks),
        "patch_size": first.patch_size,
        "descriptor_dim": first.descriptor_dim,
        "width": first.width,
        "extra_layers": first.extra_layers,
        "uncertainty_per_dimension": disagreement,
        "networks": weights_of(ensemble),
    }


def load_students(path: Path) -> StudentEnsemble:
    """Read an ensemble of students.

    Raises:
        ArtifactError: The file is damaged, of another format version, or holds no students.
    """
    state = read_state(path, "train-students")

    def build() -> StudentEnsemble:
        num_students, weights = int(state["num_students"]), state["networks"]
        if not 1 <= num_students <= len(weights):
            raise ValueError(f"it claims to hold {num_students} students in {len(weights)} tensors")
        return _filled(
            lambda: StudentEnsemble(
                num_students,
                patch_size=int(state["patch_size"]),
                descriptor_dim=int(state["descriptor_dim"]),
                width=float(state["width"]),
                extra_layers=int(state.get("extra_layers", 0)),  # students of before have none
                seed=0,
            ),
            weights,
        )

    return built_from(path, "students", "train-students", build)


T = TypeVar("T")


def read_state(path: Path, command: str) -> dict[str, Any]:
    """Read the content of a file that `command` makes.

    Raises:
        ArtifactError: The file is damaged, or of another format version.
    """
    state = read_tensors(path)
    check_format(path, state.get("format_version"), reads=FORMAT_VERSION, command=command)
    return state


def built_from(path: Path, what: str, command: str, build: Callable[[], T]) -> T:
    """Build something from the content of a file and say in one line why that fails.

    Raises:
        ArtifactError: The content is not `what`.
    """
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, SettingsError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else in_one_line(error)
        raise ArtifactError(f"{path} does not hold {what} ({reason}); delete it and run `usad {command}`") from error


def _filled(build: Callable[[], N], weights: dict[str, Tensor]) -> N:
    """Build a network without memory and give it its weights, whose names and shapes must fit."""
    with torch.device("meta"):
        network = build()
    checked = {name: finite(name, tensor) for name, tensor in weights.items()}
    network.load_state_dict(checked, assign=True)
    return network


def _whole_or_finite(name: str, tensor: Any) -> Tensor:
    """Return a tensor of whole numbers, such as the counters of batch norms, or one of finite numbers."""
    if isinstance(tensor, Tensor) and tensor.dtype is torch.int64 and tensor.layout is torch.strided:
        return tensor
    return finite(name, tensor)


def finite(name: str, tensor: Any) -> Tensor:
    """Return a tensor of finite numbers as float32.

    Raises:
        ValueError: It is something else; `name` says which.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout is not torch.strided:
        raise ValueError(f"{name} is not a tensor of floating-point numbers")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds values that are not finite numbers")
    return tensor.float()
