import numpy as np
import pytest
import torch

from us_anomaly.training.distillation_losses import compactness_loss, distillation_loss, metric_loss


def test_the_distillation_loss_is_the_mean_squared_difference():
    decoded, target = torch.randn(5, 7), torch.randn(5, 7)
    expected = np.mean((decoded.numpy() - target.numpy()) ** 2)
    assert float(distillation_loss(decoded, target)) == pytest.approx(float(expected), rel=1e-5)


def test_compactness_is_the_mean_absolute_correlation_between_different_dimensions():
    descriptors = torch.randn(40, 5) @ torch.randn(5, 5) + 3
    correlation = np.corrcoef(descriptors.numpy(), rowvar=False)  # (D, D)
    assert correlation.shape == (5, 5)
    expected = np.mean([abs(correlation[i, j]) for i in range(5) for j in range(5) if i != j])
    assert float(compactness_loss(descriptors)) == pytest.approx(expected, abs=1e-5)


def test_compactness_is_one_for_copies_and_zero_for_orthogonal_dimensions():
    column = torch.randn(64, 1)
    assert float(compactness_loss(torch.cat([column, 3 * column + 1, -column], dim=1))) == pytest.approx(1, abs=1e-4)
    waves = torch.stack([torch.cos(torch.arange(64) * 2 * torch.pi * k / 64) for k in (1, 2, 3, 4)], dim=1)
    assert float(compactness_loss(waves)) == pytest.approx(0, abs=1e-5)


def test_a_constant_dimension_correlates_with_nothing_and_has_a_finite_gradient():
    descriptors = torch.cat([torch.randn(16, 2), torch.full((16, 1), 5.0)], dim=1).requires_grad_()
    loss = compactness_loss(descriptors)
    loss.backward()
    pair = abs(np.corrcoef(descriptors.detach().numpy()[:, :2], rowvar=False)[0, 1])
    assert loss.item() == pytest.approx(2 * pair / 6, abs=1e-5)
    assert torch.isfinite(descriptors.grad).all()


def test_compactness_has_full_precision_where_networks_compute_in_bfloat16():
    descriptors = torch.randn(200, 8)
    expected = compactness_loss(descriptors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compactness_loss(descriptors), expected)


def test_the_metric_loss_is_the_triplet_loss_with_the_nearer_of_both_distances():
    anchor, positive, negative = torch.randn(3, 12, 4).double().numpy()
    total = 0.0
    for a, p, n in zip(anchor, positive, negative, strict=True):
        near = np.sum((a - p) ** 2)
        far = min(np.sum((a - n) ** 2), np.sum((p - n) ** 2))
        total += max(0.0, 1.5 + near - far)
    loss = metric_loss(*map(torch.tensor, (anchor, positive, negative)), margin=1.5)
    assert float(loss) == pytest.approx(total / 12)


def test_the_metric_loss_of_far_negatives_is_zero_and_of_equal_descriptors_the_margin():
    near, far = torch.zeros(3, 2), torch.full((3, 2), 10.0)
    assert float(metric_loss(near, near, far, margin=1.0)) == 0
    assert float(metric_loss(near, near, near, margin=1.0)) == 1
