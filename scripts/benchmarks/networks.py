"""Single networks, and a whole picture through teacher, students and scoring."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from composed_settings import composed
from torch import Tensor

from benchmarks.measure import Plan, Row, timed
from benchmarks.plain import plain_dense, plain_maps
from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.scoring.anomaly_map import combine, image_score
from us_anomaly.scoring.raw_maps import Grid, RawMaps, raw_maps
from us_anomaly.settings import Precision, ScoringSettings
from us_anomaly.training.normalization import TeacherStatistics

NUM_STUDENTS = 3
CHECKED_SIDE_PX = 40
TOLERANCE = 1e-4


def networks_of(
    plan: Plan, patch_size: int, dim: int, *, width: float | None = None
) -> tuple[PatchNetwork, StudentEnsemble, TeacherStatistics]:
    """Return teacher, students and statistics with drawn weights, float32 and contiguous."""
    torch.manual_seed(0)
    width = plan.width if width is None else width
    teacher = PatchNetwork(patch_size, descriptor_dim=dim, width=width).requires_grad_(False)
    ensemble = StudentEnsemble(NUM_STUDENTS, patch_size=patch_size, descriptor_dim=dim, width=width, seed=0)
    return teacher, ensemble, TeacherStatistics(torch.randn(dim) / 10, torch.rand(dim) + 0.5)


def for_inference(network: torch.nn.Module, compute: Compute) -> None:
    """Put a network into the layout and number format in which the detector uses it."""
    network.requires_grad_(False).to(compute.device, compute.dtype).to(memory_format=torch.channels_last)


def single_map(plan: Plan, patch_size: int, dim: int, stride: int, *, is_compiled: bool = False) -> Row:
    """Time the descriptors of one network, at every position or on a grid."""
    compute = plan.compute(is_compiled=is_compiled)
    network = networks_of(plan, patch_size, dim)[0]
    image = torch.randn(1, 3, plan.side_px, plan.side_px)
    for_inference(network, compute)
    image = compute.to_device(image, dtype=compute.dtype)

    def work(compute: Compute = compute) -> None:
        with torch.inference_mode():
            compute.compiled(dense_descriptors)(network, image, stride=stride)

    return timed("", work, plan=plan, compute=compute, counted=_uncompiled(work, compute))


def plain_single_map(plan: Plan, patch_size: int, dim: int) -> Row:
    """Time the descriptors of one network at every position in the plain way, after comparing values."""
    compute = plan.compute(Precision.float32)
    network = networks_of(plan, patch_size, dim)[0].to(compute.device)
    small = torch.randn(1, 3, CHECKED_SIDE_PX, CHECKED_SIDE_PX, device=compute.device)
    require_equal(dense_descriptors(network, small), plain_dense(network, small))
    image = torch.randn(1, 3, plan.side_px, plan.side_px, device=compute.device)

    def work() -> None:
        with torch.no_grad():
            plain_dense(network, image)

    return timed("", work, plan=plan, compute=compute)


def whole_image(plan: Plan, patch_size: int, stride: int, precision: Precision, *, is_compiled: bool = False) -> Row:
    """Time teacher, students and scoring of one picture, from the network's input to the image score."""
    compute = plan.compute(precision, is_compiled=is_compiled)
    teacher, ensemble, statistics = networks_of(plan, patch_size, plan.dims[-1])
    models: Any = {"teacher": teacher, "ensemble": ensemble, "statistics": statistics.to(compute.device)}
    for network in (teacher, ensemble):
        for_inference(network, compute)
    image = torch.randn(3, plan.side_px, plan.side_px)
    scoring = composed("data.root=unused").scoring

    def work(compute: Compute = compute) -> None:
        maps = raw_maps(image, **models, stride=stride, border_px=0, compute=compute)
        _score(maps, patch_size, scoring)

    return timed("", work, plan=plan, compute=compute, counted=_uncompiled(work, compute))


def _uncompiled(work: Callable[[Compute], None], compute: Compute) -> Callable[[], None] | None:
    """Return the work without compilation, which hides its operations from those who count them; None if there is none."""
    return partial(work, replace(compute, compile=False)) if compute.compile else None


def plain_whole_image(plan: Plan, patch_size: int) -> Row:
    """Time the same in the plain way, after comparing values."""
    compute = plan.compute(Precision.float32)
    teacher, ensemble, statistics = networks_of(plan, patch_size, plan.dims[-1])
    for network in (teacher, ensemble):
        network.requires_grad_(False).to(compute.device)
    plain = partial(plain_maps, teacher=teacher, students=ensemble.networks, statistics=statistics)
    models: Any = {"teacher": teacher, "ensemble": ensemble, "statistics": statistics}
    small = torch.randn(3, CHECKED_SIDE_PX, CHECKED_SIDE_PX)
    ours = raw_maps(small, **models, stride=1, border_px=0, compute=compute)
    for one, other in zip((ours.error, ours.uncertainty), plain(small.to(compute.device)), strict=True):
        require_equal(one, other.cpu())
    image = torch.randn(3, plan.side_px, plan.side_px, device=compute.device)
    scoring = composed("data.root=unused").scoring

    def work() -> None:
        error, uncertainty = plain(image)
        _score(RawMaps(error.cpu(), uncertainty.cpu(), Grid(plan.side_px, plan.side_px, 1)), patch_size, scoring)

    row = timed("", work, plan=plan, compute=compute)
    if compute.device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        row.note = f"{timed('', work, plan=plan, compute=compute, flops=False).seconds:.4f} s in TF32"
    return row


def _score(maps: RawMaps, patch_size: int, scoring: ScoringSettings) -> None:
    with torch.inference_mode():
        image_score(combine({patch_size: maps}, statistics={}, settings=scoring)[0], settings=scoring)


def require_equal(ours: Tensor, plain: Tensor) -> None:
    """Stop unless both ways give the same values, up to rounding of float32."""
    scale = float(plain.abs().max())
    difference = float((ours - plain).abs().max())
    if not difference <= TOLERANCE * scale:
        raise SystemExit(f"the plain way gives other values: they differ by {difference:.3g} of {scale:.3g}")
