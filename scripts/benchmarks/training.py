"""Single steps of both trainings, taken by their own loops."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from composed_settings import composed
from torch import Tensor

from benchmarks.drawn_backbone import drawn_resnet18
from benchmarks.measure import Plan, Row, timed
from benchmarks.networks import networks_of, require_equal
from benchmarks.plain import plain_dense, plain_student_step
from us_anomaly.models.backbones import load_backbone
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import Precision, Settings
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.distillation import Distillation, distil
from us_anomaly.training.regression import regress

PATCH_SIZE = 33


class _EnoughError(Exception):
    """Leave a training after its step."""


class _OneStep:
    """Stands for the checkpoint of a training that has done all steps but one."""

    def resume(self) -> int:
        return 1

    def after_step(self, step: int, losses: dict[str, float], *, total: int, is_noted: bool = False) -> None:
        pass

    @contextmanager
    def guard(self) -> Iterator[None]:
        yield


def _training(plan: Plan, *overrides: str) -> Settings:
    small = ("teacher.width=0.1", "teacher.descriptor_dim=16", "teacher.batch_size=2") if plan.quick else ()
    return composed("data.root=unused", *overrides, *small)


def student_step(plan: Plan, positions: str, *, is_full_width: bool = False) -> Row:
    """Time one step of all students on one picture, with networks as they are configured by default, or of the paper's width."""
    settings = _training(plan, f"students.positions={positions}")
    compute = plan.compute()
    width, dim = plan.width if is_full_width else settings.teacher.width, settings.teacher.descriptor_dim
    teacher, ensemble, statistics = networks_of(plan, PATCH_SIZE, dim, width=width)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=settings.students.learning_rate)
    images = torch.randn(1, 3, plan.side_px, plan.side_px)

    def work() -> None:
        regress(
            ensemble,
            teacher,
            statistics,
            lambda step: images,
            penalty_batches=None,
            settings=settings.students,
            steps=2,
            seed=0,
            compute=compute,
            optimizer=optimizer,
            checkpoint=cast(TrainingCheckpoint, _OneStep()),
            on_step=lambda done, values: None,
        )

    return timed("", work, plan=plan, compute=compute)


def plain_students(plan: Plan) -> Row:
    """Time one step of all students in the plain way, after comparing the gradient."""
    settings = _training(plan)
    compute = plan.compute(Precision.float32)
    width, dim = settings.teacher.width, settings.teacher.descriptor_dim
    teacher, ensemble, statistics = networks_of(plan, PATCH_SIZE, dim, width=width)
    for network in (teacher, ensemble):
        network.to(compute.device)
    _require_equal_gradients(ensemble.networks[0], compute.device)
    optimizers = [
        torch.optim.Adam(student.parameters(), lr=settings.students.learning_rate) for student in ensemble.networks
    ]
    images = torch.randn(1, 3, plan.side_px, plan.side_px, device=compute.device)

    def work() -> None:
        plain_student_step(
            images, teacher=teacher, students=ensemble.networks, statistics=statistics, optimizers=optimizers
        )

    return timed("", work, plan=plan, compute=compute)


def _require_equal_gradients(student: PatchNetwork, device: torch.device) -> None:
    images = torch.randn(1, 3, 20, 24, device=device)
    gradients = []
    for dense in (dense_descriptors, plain_dense):
        student.zero_grad()
        dense(student, images).square().mean().backward()  # type: ignore[no-untyped-call]
        gradients.append([cast(Tensor, weight.grad).clone() for weight in student.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        require_equal(ours, plain)
    student.zero_grad()


def teacher_step(plan: Plan, positions: str, *, plain: bool = False) -> Row:
    """Time one step of the distillation.

    Args:
        plan: How thoroughly to measure.
        positions: `patches`, or `dense` as in experiment=generic_teacher.
        plain: float32 and contiguous instead of the format and layout that the package chooses.
    """
    overrides = ["experiment=generic_teacher"] if positions == "dense" else []
    compute = plan.compute(Precision.float32 if plain else Precision.auto)
    with tempfile.TemporaryDirectory() as folder:
        weights = drawn_resnet18(Path(folder))
        settings = _training(plan, *overrides, f"teacher.positions={positions}", f"scales=[{PATCH_SIZE}]")
        backbone = load_backbone(
            composed(
                "data.root=unused",
                "backbone=resnet18",
                f"backbone.weights={weights}",
                f"backbone.layers=[{'' if positions == 'patches' else '2,3'}]",
            ).backbone
        )
    teacher = PatchNetwork(PATCH_SIZE, descriptor_dim=settings.teacher.descriptor_dim, width=settings.teacher.width)
    distillation = Distillation(teacher, backbone, settings.teacher)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=settings.teacher.learning_rate)
    side = PATCH_SIZE if positions == "patches" else settings.teacher.crop_size_px
    images = torch.randn(settings.teacher.batch_size, 3, side, side)
    work = (
        _plain_distillation(distillation, optimizer, images.to(compute.device))
        if plain
        else _distillation(distillation, optimizer, images, compute=compute)
    )
    if positions == "dense":
        work()  # the first step measures once where the cells of the feature maps look
    return timed("", work, plan=plan, compute=compute)


def _distillation(
    distillation: Distillation, optimizer: torch.optim.Optimizer, images: Tensor, *, compute: Any
) -> Callable[[], None]:
    def stop(done: int, values: dict[str, float]) -> None:
        raise _EnoughError

    def work() -> None:
        with suppress(_EnoughError):
            distil(
                distillation,
                lambda step: images,
                steps=2,
                seed=0,
                compute=compute,
                optimizer=optimizer,
                checkpoint=cast(TrainingCheckpoint, _OneStep()),
                on_step=stop,
            )

    return work


def _plain_distillation(
    distillation: Distillation, optimizer: torch.optim.Optimizer, images: Tensor
) -> Callable[[], None]:
    distillation.to(images.device)

    def work() -> None:
        optimizer.zero_grad()
        loss = torch.stack(list(distillation.losses(images, generator=torch.Generator()).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return work
