"""How maps of normal pictures vary together: alignment, components, the robust fit, the file, and the command."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from us_anomaly.commands import calibrate, infer
from us_anomaly.errors import ArtifactError, SettingsError, StaleArtifactError
from us_anomaly.loading import load
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_tensors
from us_anomaly.scoring import map_components
from us_anomaly.scoring.calibration_file import read_calibration
from us_anomaly.scoring.map_components import (
    DOUBTED_ABOVE,
    MAD_OF_A_NORMAL_DISTRIBUTION,
    MAPS_PER_COMPONENT,
    MAX_CELLS,
    MAX_STRETCH,
    NUM_FITS,
    alignment,
    explained_variance,
    find_components,
    to_cells,
)
from us_anomaly.scoring.position_statistics import (
    MIN_UNEXPLAINED,
    PRIOR_PICTURES,
    PositionGatherer,
    load_position_statistics,
    save_position_statistics,
)
from us_anomaly.scoring.raw_maps import Grid, RawMaps

ROWS, COLS = 16, 24
NUM_MAPS = 40


def waves():
    """Return two directions (2, ROWS, COLS), orthonormal."""
    rows, cols = torch.meshgrid(torch.linspace(0, 3, ROWS), torch.linspace(0, 3, COLS), indexing="ij")
    both = torch.stack([torch.sin(rows), torch.cos(2 * cols)]).double().flatten(1)
    return torch.linalg.qr((both - both.mean(dim=1, keepdim=True)).T)[0].T.reshape(2, ROWS, COLS)


def normal_logs(count=NUM_MAPS, *, seed=0, noise=0.05, aligned=True):
    """Return logarithms (N, ROWS, COLS) of maps with a pattern of their own that vary along the two waves."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.linspace(-2, 2, COLS, dtype=torch.float64).expand(ROWS, COLS) if aligned else torch.zeros(())
    along = torch.randn(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([9.0, 4.0]).double()
    noises = torch.randn(count, ROWS, COLS, generator=generator, dtype=torch.float64) * noise
    return (pattern + torch.einsum("nj,jrs->nrs", along, waves()) + noises).float()


def share_of(direction, directions):
    """Return how much of a direction lies in the space of others, from 0 to 1."""
    return float(((directions.double().flatten(1) @ direction.flatten()) ** 2).sum())


def test_they_are_the_principal_components_the_largest_first():
    logs = normal_logs()
    components = find_components(logs, max_components=2)
    flat = logs.double().flatten(1).numpy()
    _, sizes, expected = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    found = components.directions.double().flatten(1).numpy()
    assert np.abs(found @ expected[:2].T) == pytest.approx(np.eye(2), abs=1e-4)
    assert sizes[0] > sizes[1]
    assert [share_of(wave, components.directions) for wave in waves()] == pytest.approx([1, 1], abs=0.01)
    coefficients = (flat - flat.mean(axis=0)) @ found.T
    assert components.low.numpy() == pytest.approx(coefficients.min(axis=0) - coefficients.std(axis=0), rel=1e-4)
    assert components.high.numpy() == pytest.approx(coefficients.max(axis=0) + coefficients.std(axis=0), rel=1e-4)


def test_what_normal_maps_have_in_common_is_taken_off_a_new_one():
    components = find_components(normal_logs(), max_components=2)
    for logs in normal_logs(5, seed=1):
        left = logs - components.center - components.explained(logs)
        assert float(left.std()) == pytest.approx(0.05, rel=0.15)
        assert float((logs - components.center).std()) > 2 * float(left.std())


def test_the_fit_is_that_of_the_weights_of_a_cauchy_distribution_above_what_is_explained():
    logs = normal_logs()
    components = find_components(logs, max_components=2)
    flat = (logs - components.center).double().flatten(1).numpy()
    directions = components.directions.double().flatten(1).numpy()
    left = ((flat - flat @ directions.T @ directions) ** 2).mean(axis=0)
    deviation = np.sqrt(np.maximum(left, left.mean() / MAX_STRETCH**2))
    np.testing.assert_allclose(components.deviation.numpy().ravel(), deviation, rtol=1e-4)

    faulty = normal_logs(1, seed=2)[0]
    faulty[3:8, 4:9] += 1.5
    cells = (faulty - components.center).double().flatten().numpy()
    fitted = directions @ cells
    for _ in range(NUM_FITS):
        residual = (cells - fitted @ directions) / deviation
        middle = (len(residual) - 1) // 2
        spread = np.sort(np.abs(residual - np.sort(residual)[middle]))[middle] / MAD_OF_A_NORMAL_DISTRIBUTION
        doubt = np.maximum(residual, 0) / (DOUBTED_ABOVE * max(spread, 1))
        roots = 1 / np.sqrt(1 + doubt**2) / deviation
        fitted = np.linalg.lstsq((directions * roots).T, roots * cells, rcond=None)[0]
    expected = (fitted @ directions).reshape(ROWS, COLS)
    np.testing.assert_allclose(components.explained(faulty).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("ground_noise", [0.0, 0.01, 0.2])
def test_a_ground_that_is_always_the_same_does_not_rule_the_fit(ground_noise):
    generator = torch.Generator().manual_seed(0)
    is_part = torch.zeros(ROWS, COLS)
    is_part[4:13, 5:17] = 1  # less than a third

    def maps(count):
        noise = torch.where(is_part > 0, 0.2, ground_noise) * torch.randn(count, ROWS, COLS, generator=generator)
        along = torch.randn(count, 2, generator=generator) * torch.tensor([9.0, 4.0])
        return is_part * (2 + torch.einsum("nj,jrs->nrs", along, waves().float())) + noise

    components = find_components(maps(100), max_components=4)
    for logs in maps(10):
        left = (logs - components.center - components.explained(logs))[is_part > 0]
        assert float(left.std()) == pytest.approx(0.2, rel=0.25)
        assert float(left.mean()) < 0.2  # the fit lies a little low


def test_a_large_and_strong_defect_is_hardly_explained():
    components = find_components(normal_logs(), max_components=2)
    logs = normal_logs(1, seed=3)[0]
    faulty = logs.clone()
    defect = (slice(0, 16), slice(0, 7))  # more than a quarter of the map
    faulty[defect] += 1.0
    change = faulty - components.explained(faulty) - (logs - components.explained(logs))
    assert float(change[defect].mean()) > 0.95
    cells = (faulty - logs).double().flatten()
    directions = components.directions.double().flatten(1)
    plain = (cells - (directions @ cells) @ directions).reshape(ROWS, COLS)
    assert float(plain[defect].mean()) < 0.85  # a plain projection would take off this much


def test_a_map_that_lies_far_beyond_normal_ones_keeps_what_sets_it_apart():
    components = find_components(normal_logs(), max_components=2)
    reach = (
        float(components.high[0])
        if float(components.directions[0].flatten() @ waves()[0].flatten().float()) > 0
        else -float(components.low[0])
    )
    foreign = components.center + 40 * waves()[0].float()
    left = foreign - components.center - components.explained(foreign)
    assert float(left.norm()) == pytest.approx(40 - reach, rel=0.05)
    assert reach < 35


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_alignment_is_a_share_and_that_of_equal_maps_is_one(count, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, 6, 5, generator=generator)
    assert 0 <= alignment(maps) <= 1
    assert alignment(maps[:1].expand(count, 6, 5)) == pytest.approx(1)
    level = torch.randn(count, 1, 1, generator=generator)
    assert alignment(maps + 9 * level) == pytest.approx(alignment(maps), abs=1e-4)  # levels do not count


def test_alignment_is_the_share_of_variance_that_the_mean_map_has():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(30, 30, generator=generator)
    for share in (0.0, 0.2, 0.7):
        noises = torch.randn(10, 30, 30, generator=generator)
        maps = share**0.5 * pattern + (1 - share) ** 0.5 * noises
        assert alignment(maps) == pytest.approx(share, abs=0.04)  # without what chance gives 0.1 more where share is 0


@pytest.mark.parametrize("value", [0.0, 3.0, np.log(1e-12)])
def test_maps_of_one_value_are_not_aligned(value):
    assert alignment(torch.full((20, 32, 32), value)) == 0


@pytest.mark.parametrize(("share", "has_components"), [(0.1, False), (0.3, True)])
def test_components_are_looked_for_where_a_fifth_of_the_maps_is_the_same(share, has_components):
    generator = torch.Generator().manual_seed(1)
    pattern = torch.randn(30, 30, generator=generator)
    noises = torch.randn(200, 30, 30, generator=generator)
    maps = share**0.5 * pattern + (1 - share) ** 0.5 * noises
    assert (find_components(maps, max_components=4) is not None) == has_components


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 1), 0), ((1, 9), 0), ((1, 40), 3), ((40, 1), 3), ((4, 4), 1), ((2, 33), 6), ((33, 40), 7)],
)
def test_small_and_narrow_maps_have_few_components(shape, expected):
    generator = torch.Generator().manual_seed(0)
    pattern = 3 * torch.randn(shape, generator=generator)
    logs = [pattern + torch.randn(shape, generator=generator) for _ in range(75)]
    components = find_components(torch.stack([to_cells(one) for one in logs]), max_components=16)
    assert (0 if components is None else len(components.directions)) == expected
    if components is not None:
        explained = components.explained(logs[0])
        assert explained.shape == shape
        assert torch.isfinite(explained).all()


def test_maps_that_are_not_aligned_too_few_or_all_the_same_have_no_components():
    assert find_components(normal_logs(aligned=False), max_components=2) is None
    assert find_components(normal_logs(MAPS_PER_COMPONENT - 1), max_components=2) is None
    assert find_components(normal_logs(), max_components=0) is None
    assert find_components(normal_logs(1).expand(NUM_MAPS, ROWS, COLS), max_components=2) is None


@pytest.mark.parametrize(("count", "expected"), [(10, 1), (29, 2), (40, 3), (400, 3)])
def test_there_is_one_component_for_ten_maps_and_no_more_than_allowed(count, expected):
    assert len(find_components(normal_logs(count), max_components=3).directions) == expected


def test_directions_along_which_nothing_varies_are_left_out():
    assert len(find_components(normal_logs(100, noise=0.0), max_components=9).directions) == 2


def test_large_maps_are_seen_in_cells_and_explained_everywhere():
    shape = (100, 150)
    logs = torch.nn.functional.interpolate(normal_logs()[None], size=shape, mode="bilinear")[0]
    cells = torch.stack([to_cells(one) for one in logs])
    assert cells.shape == (NUM_MAPS, MAX_CELLS, MAX_CELLS)
    torch.testing.assert_close(cells.mean(dim=(1, 2)), logs.mean(dim=(1, 2)), atol=0.02, rtol=0)
    components = find_components(cells, max_components=2)
    new = torch.nn.functional.interpolate(normal_logs(1, seed=4)[None], size=shape, mode="bilinear")[0, 0]
    explained = components.explained(new)
    assert explained.shape == shape
    difference = new - logs.mean(dim=0)
    assert float((difference - explained).std()) < 0.3 * float(difference.std())
    assert to_cells(normal_logs()[0]).shape == (ROWS, COLS)


def test_the_explained_variance_of_large_maps_is_that_of_interpolated_components():
    shape = torch.Size((100, 150))
    cells = torch.stack([to_cells(one) for one in normal_logs()])
    components = find_components(cells, max_components=2)
    directions = components.directions.flatten(1)
    coefficients = (cells - components.center).flatten(1) @ directions.T
    maps = torch.einsum("nj,jrs->nrs", coefficients, components.directions)
    at_every_position = torch.nn.functional.interpolate(maps[None], size=shape, mode="bilinear")[0]
    expected = at_every_position.double().var(dim=0, correction=0)
    torch.testing.assert_close(explained_variance(components, cells, shape), expected, rtol=1e-3, atol=1e-9)


def test_the_explained_variance_is_that_of_what_is_explained():
    logs = normal_logs()
    components = find_components(logs, max_components=2)
    directions = components.directions.double().flatten(1)
    projected = ((logs - components.center).double().flatten(1) @ directions.T) @ directions
    expected = projected.var(dim=0, correction=0).reshape(ROWS, COLS)
    torch.testing.assert_close(explained_variance(components, logs, logs[0].shape), expected, rtol=1e-4, atol=1e-9)


@given(st.lists(st.floats(-30, 30, width=32), min_size=ROWS * COLS, max_size=ROWS * COLS))
@settings(max_examples=10, deadline=None)
def test_absurd_maps_have_a_finite_explanation(values):
    components = find_components(normal_logs(), max_components=2)
    assert torch.isfinite(components.explained(torch.tensor(values).reshape(ROWS, COLS))).all()


@pytest.mark.parametrize("value", [-27.6, 0.0, 80.0])
def test_maps_of_one_value_have_a_finite_explanation(value):
    components = find_components(normal_logs(), max_components=2)
    assert torch.isfinite(components.explained(torch.full((ROWS, COLS), value))).all()


# --- maps in relation to their positions -------------------------------------------------------------------------

GRID = Grid(ROWS, COLS, 1)


def gathered(logs, *, max_components):
    gatherer = PositionGatherer(max_components=max_components)
    for one in logs:
        gatherer.add(RawMaps(one.exp(), torch.ones(ROWS, COLS), GRID))
    return gatherer.statistics()


def test_maps_are_related_to_what_is_left_after_the_components():
    logs = normal_logs()
    positions = gathered(logs, max_components=2).error
    components = find_components(logs, max_components=2)
    mean, variance = logs.double().mean(dim=0), logs.double().var(dim=0, correction=0)
    left = torch.maximum(variance - explained_variance(components, logs, mean.shape), MIN_UNEXPLAINED * variance)
    weight = NUM_MAPS / (NUM_MAPS + PRIOR_PICTURES)
    std = (weight * left + (1 - weight) * left.mean()).clamp(min=left.mean() / MAX_STRETCH**2).sqrt()
    mean = weight * mean + (1 - weight) * mean.mean()
    new = normal_logs(1, seed=5)[0]
    expected = torch.exp(left.mean().sqrt() * (new - mean - components.explained(new)) / std)
    torch.testing.assert_close(positions.relate(new.exp()), expected.float(), rtol=1e-3, atol=1e-4)
    assert positions.alignment == pytest.approx(alignment(logs), abs=1e-5)


def test_a_defect_under_a_ground_that_changes_stands_out_with_components_only():
    def scores(max_components):
        positions = gathered(normal_logs(300, noise=0.1), max_components=max_components).error
        normals = [float(positions.relate(one.exp()).max()) for one in normal_logs(50, seed=6, noise=0.1)]
        return np.array(normals), positions

    for max_components, is_found in ((0, False), (4, True)):
        normals, positions = scores(max_components)
        faulty = []
        for one in normal_logs(20, seed=7, noise=0.1):
            one[5, 5] += 0.8
            faulty.append(float(positions.relate(one.exp()).max()))
        found = np.mean(np.array(faulty)[:, None] > normals)
        assert (found > 0.97) == is_found


def test_textures_stay_as_they_are_without_components():
    logs = normal_logs(aligned=False)
    with_them, without = (gathered(logs, max_components=count).error for count in (16, 0))
    assert with_them.components is None
    assert torch.equal(with_them.relate(logs[0].exp()), without.relate(logs[0].exp()))


def test_they_are_written_and_read(tmp_path):
    positions = gathered(normal_logs(), max_components=3)
    path = tmp_path / "position_statistics.pt"
    save_position_statistics(path, positions, num_images=NUM_MAPS, precision="float32")
    again = load_position_statistics(path)
    assert again.uncertainty.components is None
    assert again.error.alignment == positions.error.alignment
    new = normal_logs(1, seed=8)[0].exp()
    assert torch.equal(again.error.relate(new), positions.error.relate(new))


def content(tmp_path, **changes):
    """Return what a file with components holds, parts of them exchanged; a change to None leaves the part out."""
    path = tmp_path / "whole.pt"
    save_position_statistics(path, gathered(normal_logs(), max_components=3), num_images=3, precision="float32")
    state = torch.load(path, weights_only=True)
    components = state["error"]["components"] | changes
    state["error"]["components"] = {name: value for name, value in components.items() if value is not None}
    return state


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"center": None}, "it lacks 'center'"),
        ({"center": torch.zeros(4, 4)}, "of the shape of mean"),
        ({"directions": torch.zeros(3, 4, 4)}, "of the shape of mean"),
        ({"directions": torch.full((3, ROWS, COLS), float("nan"))}, "not finite"),
        ({"deviation": torch.zeros(ROWS, COLS)}, "every deviation above 0"),
        ({"directions": torch.full((3, ROWS, COLS), 1e30)}, "directions must be orthonormal"),
        ({"low": torch.zeros(2)}, "a lowest and a highest coefficient"),
        ({"low": torch.full((3,), 1e6)}, "a lowest and a highest coefficient"),
        ({"high": "far"}, "high is not a tensor"),
    ],
)
def test_damaged_components_are_refused_with_the_reason(tmp_path, changes, reason):
    path = tmp_path / "position_statistics.pt"
    torch.save(content(tmp_path, **changes), path)
    with pytest.raises(ArtifactError, match=reason):
        load_position_statistics(path)


@pytest.mark.parametrize("value", ["much", 1.5, float("nan")])
def test_an_alignment_that_is_no_share_is_refused(tmp_path, value):
    state = content(tmp_path)
    state["error"]["alignment"] = value
    torch.save(state, tmp_path / "position_statistics.pt")
    with pytest.raises(ArtifactError, match="does not hold position statistics"):
        load_position_statistics(tmp_path / "position_statistics.pt")


def test_a_file_of_before_there_were_components_relates_maps_as_it_did(tmp_path):
    state = content(tmp_path)
    for kind in ("error", "uncertainty"):
        del state[kind]["components"], state[kind]["alignment"]
    path = tmp_path / "position_statistics.pt"
    write_tensors(path, state)
    positions = load_position_statistics(path).error
    assert positions.alignment is None
    new = normal_logs(1, seed=9)[0].exp()
    expected = torch.exp(positions.typical_std * (new.log() - positions.mean) / positions.std)
    torch.testing.assert_close(positions.relate(new), expected)


# --- the command -------------------------------------------------------------------------------------------------

PER_POSITION = "scoring.per_position=true"


@pytest.fixture
def few_are_enough(monkeypatch):
    monkeypatch.setattr(map_components, "MAPS_PER_COMPONENT", 2)
    monkeypatch.setattr(map_components, "MIN_ALIGNMENT", 0.0)


@pytest.mark.usefixtures("few_are_enough")
def test_calibrate_finds_at_most_as_many_as_wanted_says_so_and_measures_anew_for_another_number(
    compose, tiny, trained_copy, capsys
):
    run_dir = RunDir(trained_copy)
    calibrate.run(compose("calibrate", *tiny(trained_copy, PER_POSITION, "scoring.position_components=2")))
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"agreement of normal maps . p=33: \d+%, 2 components", shown)
    path = run_dir.position_statistics(33)
    assert len(load_position_statistics(path).error.components.directions) == 2
    with_two = load(trained_copy, device="cpu", precision="float32", num_threads=1)
    calibrate.run(compose("calibrate", *tiny(trained_copy, PER_POSITION, "scoring.position_components=0")))
    assert re.search(r"p=33: \d+%, no components", capsys.readouterr().out)
    assert load_position_statistics(path).error.components is None
    without = load(trained_copy, device="cpu", precision="float32", num_threads=1)
    assert with_two.scoring.position_components == 2
    picture = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(with_two.raw_maps(picture)[33].error, without.raw_maps(picture)[33].error)


def test_other_commands_refuse_another_number_and_calibrate_measures_anew(compose, tiny, trained_copy):
    calibrate.run(compose("calibrate", *tiny(trained_copy, PER_POSITION)))
    changed = tiny(trained_copy, PER_POSITION, "scoring.position_components=3")
    with pytest.raises(StaleArtifactError, match=r"scoring\.position_components=16, now .*=3"):
        infer.run(compose("infer", *changed))
    calibrate.run(compose("calibrate", *changed))
    infer.run(compose("infer", *changed))


def test_positions_of_before_there_were_components_are_those_of_none(compose, tiny, trained_copy):
    without = tiny(trained_copy, PER_POSITION, "scoring.position_components=0")
    calibrate.run(compose("calibrate", *without))
    path = RunDir(trained_copy).position_statistics(33)
    assert "position_components" not in RunDir(trained_copy).provenance(path).read_text()
    with pytest.raises(StaleArtifactError, match=r"scoring\.position_components=0, now .*=16"):
        infer.run(compose("infer", *tiny(trained_copy, PER_POSITION)))
    infer.run(compose("infer", *without))


def test_more_components_than_pictures_can_tell_are_refused(compose, tiny, tmp_path):
    with pytest.raises(SettingsError, match=r"scoring\.position_components"):
        compose("calibrate", *tiny(tmp_path, "scoring.position_components=31"))


def test_without_positions_the_number_of_components_makes_nothing_stale(compose, tiny, trained_copy):
    path = RunDir(trained_copy).calibration
    before = path.stat().st_mtime_ns
    calibrate.run(compose("calibrate", *tiny(trained_copy, "scoring.position_components=5")))
    assert path.stat().st_mtime_ns == before


def test_a_calibration_of_before_there_were_components_is_read(trained_copy):
    path = RunDir(trained_copy).calibration
    content = read_json(path)
    del content["scoring"]["position_components"]
    assert read_calibration(content, path=path)[1].position_components == 0
