import itertools

import numpy as np
import pytest
import torch
from torch import nn

from us_anomaly.errors import TrainingError
from us_anomaly.models.compute import Compute
from us_anomaly.models.frozen_backbone import Backbone
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import (
    CheckpointSettings,
    OptimizerName,
    Schedule,
    StudentPositions,
    TeacherPositions,
    TeacherSettings,
    TorchvisionBackbone,
)
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.distillation import NUM_STATISTICS_BATCHES, Distillation, distil, explained_variance
from us_anomaly.training.distillation_losses import compactness_loss, distillation_loss, metric_loss
from us_anomaly.training.optimizers import build_optimizer
from us_anomaly.training.target_scale import whitening_matrices

CPU = Compute(torch.device("cpu"), torch.float32)
LAYER_DIMS = {1: 4, 2: 12}


def teacher_settings(**changed):
    values = {
        "images": "generic",
        "checkpoint": None,
        "start_from": None,
        "cache": False,
        "whiten_targets": False,
        "descriptor_dim": 6,
        "width": 0.1,
        "positions": TeacherPositions.dense,
        "epochs": 1,
        "steps": None,
        "patches_per_image": 1,
        "batch_size": 2,
        "crop_size_px": 48,
        "optimizer": OptimizerName.adam,
        "learning_rate": 0.003,
        "weight_decay": 0.0,
        "schedule": Schedule.constant,
        "max_gradient_norm": None,
        "compactness_weight": 0.1,
        "metric_weight": 0.0,
        "metric_margin": 1.0,
        "statistics_positions": StudentPositions.grid,
        "whitening_floor": None,
        "min_explained_variance": 0.1,
    }
    return TeacherSettings(**(values | changed))


class TwoStages(nn.Module):
    """Averages of 2 x 2 pixels, then random channels, twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, LAYER_DIMS[1], 1)
        self.second = nn.Conv2d(LAYER_DIMS[1], LAYER_DIMS[2], 1)

    def stages(self, images, deepest):
        one = self.first(nn.functional.avg_pool2d(images, 2)).tanh()
        return {1: one, 2: self.second(nn.functional.avg_pool2d(one, 2)).tanh()}

    def final(self, images):
        return self.stages(images, 2)[2]

    def pooled(self, images):
        return self.final(images).mean(dim=(2, 3))


def small_backbone(layers=(1, 2)):
    torch.manual_seed(3)
    network = TwoStages()
    settings = TorchvisionBackbone(name="two stages", weights="default", input_size_px=32, layers=list(layers))
    return Backbone(
        stages=network.stages, final=network.final, pooled=network.pooled, network=network, settings=settings
    )


def distillation_of(settings, *, layers=(1, 2), patch_size=33):
    torch.manual_seed(4)
    teacher = PatchNetwork(patch_size, descriptor_dim=settings.descriptor_dim, width=settings.width)
    return Distillation(teacher, small_backbone(layers), settings)


def smooth_pictures(step, *, count=2, side=48):
    """Coloured gradients of random direction, different in every step."""
    generator = torch.Generator().manual_seed(1000 + step)
    slopes = torch.randn(count, 3, 2, generator=generator)
    level = torch.randn(count, 3, generator=generator)
    axis = torch.linspace(-1, 1, side)
    return level[..., None, None] + slopes[..., :1, None] * axis[:, None] + slopes[..., 1:, None] * axis


# --- what one step computes --------------------------------------------------------------------------------------


def test_the_decoder_is_the_identity_where_dimensions_agree_and_linear_elsewhere():
    assert isinstance(distillation_of(teacher_settings(descriptor_dim=16)).decoder, nn.Identity)
    decoder = distillation_of(teacher_settings(descriptor_dim=6)).decoder
    assert (decoder.in_features, decoder.out_features) == (6, 16)


@pytest.mark.parametrize("patch_size", [17, 33])
@pytest.mark.parametrize("metric_weight", [0.0, 1.0])
def test_dense_descriptors_are_those_of_the_patches_around_the_grid(patch_size, metric_weight):
    distillation = distillation_of(teacher_settings(metric_weight=metric_weight), patch_size=patch_size)
    images = torch.randn(2, 3, 60, 57)
    rows, cols = distillation.grid(images)
    half = patch_size // 2
    assert int(rows.min()) >= half
    assert int(rows.max()) + half < 60
    assert int(cols.max()) + half < 57
    with torch.inference_mode():
        described = distillation.descriptors(images)
        crops = [
            image[None, :, row - half : row + half + 1, col - half : col + half + 1]
            for image, row, col in itertools.product(images, rows, cols)
        ]
        expected = distillation.teacher(torch.cat(crops))
    torch.testing.assert_close(described, expected, atol=1e-5, rtol=0)


def test_the_grid_of_patches_at_half_the_resolution_is_twice_as_wide():
    distillation = distillation_of(teacher_settings(), patch_size=66)
    images = torch.randn(2, 3, 90, 83)
    rows, cols = distillation.grid(images)
    assert rows.diff().unique().tolist() == cols.diff().unique().tolist() == [8]
    assert distillation_of(teacher_settings(), patch_size=33).grid(images)[0].diff().unique().tolist() == [4]
    with torch.inference_mode():
        described = distillation.descriptors(images)
        crops = [
            image[None, :, row - 33 : row + 33, col - 33 : col + 33]
            for image, row, col in itertools.product(images, rows, cols)
        ]
        expected = distillation.teacher(torch.cat(crops))
    torch.testing.assert_close(described, expected, atol=1e-5, rtol=0)


def test_shifted_dense_descriptors_are_those_of_the_shifted_patches():
    distillation = distillation_of(teacher_settings(metric_weight=1.0))
    images = torch.randn(1, 3, 61, 60)
    rows, cols = distillation.grid(images)
    assert distillation.largest_shift == 8
    with torch.inference_mode():
        for shift in ((8, -8), (-8, 8), (3, 0)):
            described = distillation.descriptors(images, shift=shift)
            crops = [
                images[:, :, row + shift[0] - 16 : row + shift[0] + 17, col + shift[1] - 16 : col + shift[1] + 17]
                for row, col in itertools.product(rows, cols)
            ]
            torch.testing.assert_close(described, distillation.teacher(torch.cat(crops)), atol=1e-5, rtol=0)


def test_shifted_patches_show_what_lies_beside_reflected_at_the_border():
    settings = teacher_settings(positions=TeacherPositions.patches, batch_size=4)
    distillation = distillation_of(settings)
    patches = torch.randn(4, 3, 33, 33)
    padded = np.pad(patches.numpy(), [(0, 0), (0, 0), (8, 8), (8, 8)], mode="reflect")
    with torch.inference_mode():
        for row, col in ((8, -3), (-5, 0), (0, 0)):
            shifted = torch.from_numpy(padded[..., 8 + row : 41 + row, 8 + col : 41 + col].copy())
            described = distillation.descriptors(patches, shift=(row, col))
            torch.testing.assert_close(described, distillation.teacher(shifted))


def test_targets_of_patches_are_their_standardised_backbone_descriptors():
    settings = teacher_settings(positions=TeacherPositions.patches, batch_size=4)
    distillation = distillation_of(settings)
    distillation.scale.mean.fill_(0.5)
    distillation.scale.std.fill_(2.0)
    patches = torch.randn(4, 3, 33, 33)
    expected = (distillation.backbone.describe(patches) - 0.5) / 2
    torch.testing.assert_close(distillation.targets(patches), expected)


def test_dense_targets_lie_at_the_positions_of_the_descriptors():
    distillation = distillation_of(teacher_settings())
    images = torch.randn(2, 3, 52, 48)
    rows, cols = distillation.grid(images)
    maps = distillation.backbone.describe_positions(images, rows=rows, cols=cols)
    targets = distillation.targets(images)
    assert len(targets) == len(distillation.descriptors(images)) == 2 * len(rows) * len(cols)
    for number, (image, row, col) in enumerate(itertools.product(range(2), range(len(rows)), range(len(cols)))):
        assert torch.equal(targets[number], maps[image, :, row, col])


def test_every_layer_has_the_same_total_variance_in_the_target():
    distillation = distillation_of(teacher_settings())
    weights = distillation.layer_weights(torch.ones(16))
    assert float(weights[:4].square().sum()) == pytest.approx(float(weights[4:].square().sum()))
    assert float(weights.square().sum()) == pytest.approx(16)
    assert torch.equal(distillation_of(teacher_settings(), layers=()).layer_weights(torch.ones(12)), torch.ones(12))


def test_terms_of_weight_zero_are_left_out_and_others_are_multiplied_by_their_weight():
    images = torch.randn(2, 3, 60, 60)
    generator = torch.Generator().manual_seed(0)
    terms = distillation_of(teacher_settings(compactness_weight=0.0)).losses(images, generator=generator)
    assert list(terms) == ["distillation"]
    distillation = distillation_of(teacher_settings(compactness_weight=0.25, metric_weight=2.0))
    terms = distillation.losses(images, generator=generator)
    assert list(terms) == ["distillation", "compactness", "metric"]
    expected = 0.25 * compactness_loss(distillation.descriptors(images))
    torch.testing.assert_close(terms["compactness"], expected)


def test_negatives_are_the_same_positions_of_another_picture():
    distillation = distillation_of(teacher_settings(metric_weight=1.0, metric_margin=2.0, compactness_weight=0.0))
    images = torch.randn(3, 3, 60, 60)
    term = distillation.losses(images, generator=torch.Generator().manual_seed(0))["metric"]
    again = torch.Generator().manual_seed(0)
    row, col = torch.randint(-8, 9, (2,), generator=again).tolist()
    noise = torch.randn(images.shape, generator=again)
    with torch.no_grad():
        anchors = distillation.descriptors(images).unflatten(0, (3, -1))  # pictures, positions, dimensions
        positives = distillation.descriptors(images + 0.1 * noise, shift=(row, col)).unflatten(0, (3, -1))
        terms = [metric_loss(anchors[n], positives[n], anchors[n - 1], margin=2.0) for n in range(3)]
    assert term.item() == pytest.approx(float(sum(terms) / 3), rel=1e-4)


# --- training ----------------------------------------------------------------------------------------------------


def run_distil(distillation, batches, folder, *, steps, seed=0):
    losses = []
    trained = [*distillation.teacher.parameters(), *distillation.decoder.parameters()]
    optimizer = build_optimizer(distillation.settings.optimizer, trained, learning_rate=1.0, weight_decay=0.0)
    checkpoint = TrainingCheckpoint(
        folder / "teacher.resume.pt",
        folder / "teacher.losses.jsonl",
        key="test",
        parts={"distillation": distillation.trained, "optimizer": optimizer},
        settings=CheckpointSettings(every_seconds=1000.0, every_steps=None),
    )
    explained = distil(
        distillation,
        batches,
        steps=steps,
        seed=seed,
        compute=CPU,
        optimizer=optimizer,
        checkpoint=checkpoint,
        on_step=lambda done, values: losses.append(values["loss"]),
    )
    return explained, losses


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_distillation_reduces_the_loss_and_explains_most_of_a_simple_backbone(tmp_path, optimizer):
    settings = teacher_settings(compactness_weight=0.0, descriptor_dim=16, optimizer=optimizer)
    distillation = distillation_of(settings)
    explained, losses = run_distil(distillation, smooth_pictures, tmp_path, steps=60)
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    assert explained > 0.6


def test_a_teacher_that_knows_something_gets_the_decoder_that_fits_it(tmp_path):
    settings = teacher_settings(start_from="builtin", learning_rate=1e-12, compactness_weight=0.0)
    known = distillation_of(settings)
    explained, losses = run_distil(known, smooth_pictures, tmp_path / "known", steps=1)
    fresh = distillation_of(teacher_settings(learning_rate=1e-12, compactness_weight=0.0))
    assert run_distil(fresh, smooth_pictures, tmp_path / "fresh", steps=1)[0] < 0.1
    assert explained > 0.3
    with torch.no_grad():
        described = torch.cat([known.descriptors(smooth_pictures(-1 - n)) for n in range(NUM_STATISTICS_BATCHES)])
        targets = torch.cat([known.targets(smooth_pictures(-1 - n)) for n in range(NUM_STATISTICS_BATCHES)])
        found = np.linalg.lstsq(np.c_[described, np.ones(len(described))], targets.numpy(), rcond=None)[0]
        best = np.mean((np.c_[described, np.ones(len(described))] @ found - targets.numpy()) ** 2)
        error = float(distillation_loss(known.decoder(described), targets))
    assert best <= error < 1.02 * best
    assert losses[0] < 1


def test_a_decoder_that_is_fitted_to_few_patches_is_no_worse_than_one_drawn_at_random(tmp_path):
    def patches(step):
        return smooth_pictures(step, count=4, side=33)

    explained = {}
    for start in ("builtin", None):
        settings = teacher_settings(
            start_from=start,
            learning_rate=1e-12,
            compactness_weight=0.0,
            positions=TeacherPositions.patches,
            descriptor_dim=60,  # of 64 patches
        )
        explained[start], _ = run_distil(distillation_of(settings), patches, tmp_path / str(start), steps=1)
    assert explained["builtin"] > max(0, explained[None])


def test_where_no_decoder_is_needed_none_is_fitted(tmp_path):
    same = distillation_of(teacher_settings(start_from="builtin", descriptor_dim=16, learning_rate=1e-12))
    run_distil(same, smooth_pictures, tmp_path, steps=1)
    assert isinstance(same.decoder, nn.Identity)


def test_gradients_are_no_longer_than_their_limit(tmp_path, monkeypatch):
    norms = []

    def step(optimizer):
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norms.append(float(torch.cat([each.grad.flatten() for each in parameters]).norm()))

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    for limit in (None, 0.01):
        distillation = distillation_of(teacher_settings(max_gradient_norm=limit))
        run_distil(distillation, smooth_pictures, tmp_path / str(limit), steps=1)
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_targets_are_standardised_by_batches_that_no_step_sees(tmp_path):
    seen = []

    def batches(step):
        seen.append(step)
        return smooth_pictures(step)

    distillation = distillation_of(teacher_settings())
    run_distil(distillation, batches, tmp_path, steps=2)
    measured = [step for step in seen if step < 0]
    assert sorted(measured) == list(range(-24, 0))  # 16 for the statistics, 8 to measure what was learned
    targets = torch.cat([distillation.targets(smooth_pictures(step)) for step in range(-16, 0)])
    torch.testing.assert_close(targets.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    weights = distillation.layer_weights(torch.ones(16))
    torch.testing.assert_close(targets.std(dim=0), weights, atol=1e-3, rtol=0)


def correlated(num_dims=6, *, count=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(count, num_dims, generator=generator) @ torch.randn(num_dims, num_dims, generator=generator)
    return (targets - targets.mean(dim=0)) / targets.std(dim=0)


def test_whitened_targets_are_uncorrelated_and_each_dimension_stays_nearest_to_what_it_was():
    targets, ones = correlated().double(), torch.ones(6)
    whitening, unwhitening = whitening_matrices(targets, ones)
    covariance = np.cov((targets @ whitening).numpy(), rowvar=False)
    correlation = np.corrcoef(targets.numpy(), rowvar=False)
    values, vectors = np.linalg.eigh(correlation)
    assert values.min() > 0.01 * values.mean()  # the floor is out of play
    np.testing.assert_allclose(covariance, np.eye(6), atol=1e-8)
    np.testing.assert_allclose(whitening.numpy(), vectors @ np.diag(values**-0.5) @ vectors.T, atol=1e-8)
    np.testing.assert_allclose((whitening @ unwhitening).numpy(), np.eye(6), atol=1e-8)


def test_a_direction_in_which_targets_hardly_vary_is_not_blown_up():
    """Two copies of one dimension differ in nothing but noise, which whitening must not make as large as everything else."""
    targets = correlated(3).double()
    noise = 1e-3 * torch.randn(4000, generator=torch.Generator().manual_seed(1)).double()
    targets = torch.cat([targets, (targets[:, 0] + noise)[:, None]], dim=1)
    targets = (targets - targets.mean(dim=0)) / targets.std(dim=0)
    whitening, unwhitening = whitening_matrices(targets, torch.ones(4))
    values = np.linalg.eigvalsh(np.corrcoef(targets.numpy(), rowvar=False))
    expected = values / np.maximum(values, 0.01 * values.mean())
    found = np.linalg.eigvalsh(np.cov((targets @ whitening).numpy(), rowvar=False))
    np.testing.assert_allclose(found, np.sort(expected), atol=1e-8)
    assert found[0] < 1e-3
    np.testing.assert_allclose((whitening @ unwhitening).numpy(), np.eye(4), atol=1e-8)


def test_whitened_dimensions_keep_the_weight_of_their_layer(tmp_path):
    distillation = distillation_of(teacher_settings(whiten_targets=True))
    run_distil(distillation, smooth_pictures, tmp_path, steps=1)
    targets = torch.cat([distillation.targets(smooth_pictures(step)) for step in range(-16, 0)]).double()
    weights = distillation.layer_weights(torch.ones(16))
    unweighted = np.cov((targets / weights).numpy(), rowvar=False)
    assert np.linalg.eigvalsh(unweighted).max() == pytest.approx(1, abs=1e-3)
    assert np.trace(unweighted) < 16
    raw = distillation.scale.standardised(targets.float())
    torch.testing.assert_close(raw.std(dim=0), weights, atol=1e-2, rtol=0)


def test_what_whitens_is_in_the_state_from_which_a_training_resumes():
    names = distillation_of(teacher_settings(whiten_targets=True)).trained.state_dict().keys()
    assert names - distillation_of(teacher_settings()).trained.state_dict().keys() == {
        "scale.whitening",
        "scale.unwhitening",
    }


def test_explained_variance_is_that_of_the_standardised_targets_with_whitening_too(tmp_path, monkeypatch):
    plain, whitened = (distillation_of(teacher_settings(descriptor_dim=16, whiten_targets=on)) for on in (False, True))
    for name, distillation in (("plain", plain), ("whitened", whitened)):
        run_distil(distillation, smooth_pictures, tmp_path / name, steps=1)
    monkeypatch.setattr(Distillation, "descriptors", lambda self, images: self.scale(0.8 * raw_of(self, images)))
    explained = explained_variance(plain, smooth_pictures, compute=CPU)
    assert 0.3 < explained < 0.97
    assert explained_variance(whitened, smooth_pictures, compute=CPU) == pytest.approx(explained, abs=1e-3)


def raw_of(distillation, images):
    rows, cols = distillation.grid(images)
    return distillation.backbone.describe_positions(images, rows=rows, cols=cols).permute(0, 2, 3, 1).flatten(0, 2)


def test_whitening_has_full_precision_where_networks_compute_in_bfloat16(tmp_path):
    distillation = distillation_of(teacher_settings(whiten_targets=True))
    run_distil(distillation, smooth_pictures, tmp_path, steps=1)
    raw = torch.randn(50, 16)
    expected = distillation.scale(raw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distillation.scale(raw), expected)


def test_the_same_seed_gives_the_same_teacher(tmp_path):
    results = []
    for folder in ("one", "two"):
        distillation = distillation_of(teacher_settings(metric_weight=0.5))
        results.append(
            run_distil(distillation, lambda step: smooth_pictures(step, side=60), tmp_path / folder, steps=3)
        )
    assert results[0] == results[1]


def test_a_loss_that_is_not_a_number_stops_and_leaves_the_weights_as_they_were(tmp_path):
    weights = []

    def batches(step):
        images = smooth_pictures(step)
        if step == 2:
            weights.extend(parameter.clone() for parameter in distillation.teacher.parameters())
            images[0, 0, 20, 20] = float("nan")
        return images

    distillation = distillation_of(teacher_settings())
    with pytest.raises(
        TrainingError, match=r"loss became nan at step 3: lower the learning rate, or use runtime.precis"
    ):
        run_distil(distillation, batches, tmp_path, steps=5)
    assert all(map(torch.equal, distillation.teacher.parameters(), weights))


def test_a_perfect_teacher_explains_everything_and_one_that_answers_the_mean_nothing(monkeypatch):
    distillation = distillation_of(teacher_settings(descriptor_dim=16))
    monkeypatch.setattr(Distillation, "descriptors", Distillation.targets)
    assert explained_variance(distillation, smooth_pictures, compute=CPU) == pytest.approx(1)
    held_out = torch.cat([distillation.targets(smooth_pictures(step)) for step in range(-24, -16)])
    mean = held_out.mean(dim=0)
    monkeypatch.setattr(Distillation, "descriptors", lambda self, images: mean.expand(len(self.targets(images)), -1))
    assert explained_variance(distillation, smooth_pictures, compute=CPU) == pytest.approx(0, abs=1e-5)
    monkeypatch.setattr(Distillation, "descriptors", lambda self, images: 2 * mean - self.targets(images))
    assert explained_variance(distillation, smooth_pictures, compute=CPU) == pytest.approx(-3, abs=1e-4)


def test_a_target_dimension_that_hardly_ever_fires_does_not_drown_the_others():
    from us_anomaly.training.distillation import _floored

    std = torch.tensor([1.0, 3.0, 0.0, 1e-4])
    assert torch.allclose(_floored(std, []), torch.tensor([1.0, 3.0, 0.1, 0.1]), rtol=1e-3)
    by_layer = _floored(std, [2, 2])
    assert torch.allclose(by_layer, torch.tensor([1.0, 3.0, 1e-3, 1e-3]))
