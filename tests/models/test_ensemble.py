import itertools

import torch

from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork


def ensemble_of(seed, num_students=3):
    return StudentEnsemble(num_students, patch_size=33, descriptor_dim=8, width=0.1, seed=seed)


def first_weights(ensemble):
    return [network.layers[0].weight for network in ensemble.networks]


def test_students_start_with_weights_of_their_own():
    for one, other in itertools.combinations(first_weights(ensemble_of(0)), 2):
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 0.15  # 1200 weights: independent draws correlate by 0.03


def test_the_seed_decides_the_weights_and_more_students_leave_the_first_ones_alone():
    few, again, more = ensemble_of(5), ensemble_of(5), ensemble_of(5, num_students=4)
    assert all(map(torch.equal, first_weights(few), first_weights(again)))
    assert all(map(torch.equal, first_weights(few), first_weights(more)[:3]))
    assert not any(map(torch.equal, first_weights(few), first_weights(ensemble_of(6))))


def test_building_students_leaves_the_global_generators_alone(monkeypatch):
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    ensemble_of(3)
    assert torch.equal(torch.rand(4), expected)
    assert not seeded


def test_the_weights_of_a_seed_are_always_the_same():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5 * 1_000_003 + 1)
        expected = PatchNetwork(33, descriptor_dim=8, width=0.1).layers[0].weight
    assert torch.equal(first_weights(ensemble_of(5))[1], expected)


def test_an_ensemble_knows_its_patch_size_and_all_students_are_trained():
    ensemble = ensemble_of(0)
    assert ensemble.patch_size == 33
    per_student = sum(parameter.numel() for parameter in ensemble.networks[0].parameters())
    assert sum(parameter.numel() for parameter in ensemble.parameters()) == 3 * per_student
