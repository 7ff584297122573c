"""What is normal at each position: the formula, its limits, the file, and the command and detector that use it."""

import numpy as np
import pytest
import torch
from PIL import Image
from plain_scores import scoring

from us_anomaly.commands import calibrate, distill_teacher, infer, normalize, train_students
from us_anomaly.commands import positions as positions_command
from us_anomaly.data import augmentation
from us_anomaly.errors import ArtifactError, DataError, MissingArtifactError, StaleArtifactError
from us_anomaly.loading import load
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_tensors
from us_anomaly.scoring.anomaly_map import combine, image_score
from us_anomaly.scoring.map_components import MAX_STRETCH
from us_anomaly.scoring.position_statistics import (
    PRIOR_PICTURES,
    PositionGatherer,
    load_position_statistics,
    save_position_statistics,
)
from us_anomaly.scoring.raw_maps import Grid, RawMaps
from us_anomaly.settings import ImageScore

GRID = Grid(12, 16, 2)


def raw(error, uncertainty=None):
    return RawMaps(error, torch.ones(6, 8) if uncertainty is None else uncertainty, GRID)


def gathered(maps, *, max_components=16):
    gatherer = PositionGatherer(max_components=max_components)
    for one in maps:
        gatherer.add(one)
    return gatherer.statistics()


def normal_maps(count, pattern):
    generator = torch.Generator().manual_seed(3)
    return [raw(pattern * torch.randn(6, 8, generator=generator).mul(0.3).exp()) for _ in range(count)]


def test_a_map_is_related_to_mean_and_deviation_of_the_logarithm_at_each_position():
    torch.manual_seed(0)
    maps = [raw(torch.rand(6, 8) * 9 + 0.1, torch.rand(6, 8) + 0.01) for _ in range(7)]
    positions = gathered(maps)
    for kind in ("error", "uncertainty"):
        logs = np.log(np.stack([getattr(one, kind).double().numpy() for one in maps]))
        mean, variance = logs.mean(axis=0), logs.var(axis=0)
        share = 7 / (7 + PRIOR_PICTURES)
        mean = share * mean + (1 - share) * mean.mean()
        std = np.sqrt(np.maximum(share * variance + (1 - share) * variance.mean(), variance.mean() / MAX_STRETCH**2))
        new = torch.rand(6, 8) * 5
        related = getattr(positions, kind).relate(new)
        expected = np.exp(np.sqrt(variance.mean()) * (np.log(new.double().numpy()) - mean) / std)
        np.testing.assert_allclose(related, expected, rtol=1e-4)


def test_what_is_high_on_every_normal_picture_is_no_longer_high():
    pattern = torch.ones(6, 8)
    pattern[0] = 50  # a frame
    positions = gathered(normal_maps(200, pattern))
    related = positions.relate(normal_maps(1, pattern)[0]).error
    assert float(related[0].mean()) < 2 * float(related[1:].mean())
    defect = normal_maps(1, pattern)[0].error
    defect[3, 4] *= 20
    assert positions.error.relate(defect).argmax() == 3 * 8 + 4


def test_where_positions_are_alike_only_the_unit_changes():
    maps = normal_maps(4000, torch.full((6, 8), 3.0))
    related = gathered(maps).error.relate(maps[0].error)
    assert torch.corrcoef(torch.stack([related.log().flatten(), maps[0].error.log().flatten()]))[0, 1] > 0.995
    assert float(related.median()) == pytest.approx(1, abs=0.2)


def test_pictures_that_are_all_the_same_leave_the_ratio():
    same = raw(torch.linspace(1, 5, 48).reshape(6, 8))
    positions = gathered([same, same])
    share = 2 / (2 + PRIOR_PICTURES)
    mean = same.error.log()
    expected = (3 * same.error) / (share * mean + (1 - share) * mean.mean()).exp()
    torch.testing.assert_close(positions.error.relate(3 * same.error), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_the_uncertainty_of_one_student_and_absurd_values_stay_finite(value):
    positions = gathered([raw(torch.rand(6, 8) + 1, torch.zeros(6, 8)) for _ in range(5)])
    related = positions.relate(raw(torch.full((6, 8), value), torch.zeros(6, 8)))
    assert torch.equal(related.uncertainty, torch.ones(6, 8))
    settings = scoring(image_score=ImageScore.top_mean, image_score_fraction=1.0)
    anomaly_map, _ = combine({33: related}, statistics={}, settings=settings)
    assert torch.isfinite(anomaly_map).all()
    assert np.isfinite(image_score(anomaly_map, settings=settings))


def test_a_speck_of_dust_on_a_quiet_background_does_not_hide_a_defect():
    generator = torch.Generator().manual_seed(5)
    spread = torch.cat([torch.full((6, 4), 0.02), torch.full((6, 4), 0.6)], dim=1)

    def normal():
        return raw((spread * torch.randn(6, 8, generator=generator)).exp())

    positions = gathered([normal() for _ in range(300)])
    validation = [normal() for _ in range(50)]
    validation[7].error[2, 1] = 20  # dust, where normal pictures hardly differ
    related = [positions.error.relate(one.error) for one in validation]
    everything = torch.stack(related)
    defect = normal()
    defect.error[3, 6] *= 50
    score = float(positions.error.relate(defect.error).max())
    assert sum(float(one.max()) >= score for one in related) <= 1
    assert (score - float(everything.mean())) / float(everything.std()) > 10


def test_what_was_written_is_read(tmp_path):
    positions = gathered(normal_maps(5, torch.ones(6, 8)))
    save_position_statistics(tmp_path / "position_statistics.pt", positions, num_images=5, precision="float32")
    again = load_position_statistics(tmp_path / "position_statistics.pt")
    assert again.shape == (6, 8)
    for kind in ("error", "uncertainty"):
        assert torch.equal(getattr(again, kind).mean, getattr(positions, kind).mean)
        assert torch.equal(getattr(again, kind).std, getattr(positions, kind).std)
        assert getattr(again, kind).typical_std == getattr(positions, kind).typical_std


def content(**changes):
    known = {"mean": torch.zeros(6, 8), "std": torch.ones(6, 8), "typical_std": 1.0}
    return {"format_version": 1, "num_images": 5, "error": known | changes, "uncertainty": known}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"format_version": 1, "num_images": 5}, "it lacks 'error'"),
        (content(std=torch.zeros(6, 8)), "every std above 0"),
        (content(std=torch.ones(6, 7)), "maps of one shape"),
        (content(mean=torch.zeros(8), std=torch.ones(8)), "maps of one shape"),
        (content(mean=torch.zeros(6, 7), std=torch.ones(6, 7)), "both maps must have one shape"),
        (content(mean="zero"), "mean is not a tensor"),
        (content(typical_std=0.0), "typical_std must be a number above 0"),
        (content(typical_std=float("nan")), "typical_std must be a number above 0"),
        ({**content(), "format_version": 2}, "a newer us_anomaly"),
    ],
)
def test_a_file_of_something_else_is_refused_with_the_reason(tmp_path, state, reason):
    path = tmp_path / "position_statistics.pt"
    write_tensors(path, state)
    with pytest.raises(ArtifactError, match=reason):
        load_position_statistics(path)


# --- the command and the detector --------------------------------------------------------------------------------

PER_POSITION = "scoring.per_position=true"


@pytest.fixture
def calibrated(compose, tiny, trained_copy):
    settings = compose("calibrate", *tiny(trained_copy, PER_POSITION))
    calibrate.run(settings)
    return trained_copy


def test_calibrate_measures_positions_and_the_detector_relates_maps_to_them(calibrated, trained, parts):
    path = RunDir(calibrated).position_statistics(33)
    positions = load_position_statistics(path)
    assert positions.shape == (12, 12)
    runtime = {"device": "cpu", "precision": "float32", "num_threads": 1}
    plain, related = load(trained, **runtime), load(calibrated, **runtime)
    pixels = np.asarray(Image.open(parts / "images/hole/000.png"))
    prepared = plain.pipeline.prefix(pixels)
    before, after = (detector.raw_maps(prepared)[33] for detector in (plain, related))
    torch.testing.assert_close(after.error, positions.error.relate(before.error))
    torch.testing.assert_close(after.uncertainty, positions.uncertainty.relate(before.uncertainty))


def test_they_are_measured_once_for_all_rules_of_the_threshold(compose, tiny, calibrated):
    path = RunDir(calibrated).position_statistics(33)
    before = path.stat().st_mtime_ns
    calibrate.run(compose("calibrate", *tiny(calibrated, PER_POSITION, "calibration.quantile=0.9")))
    assert path.stat().st_mtime_ns == before
    calibrate.run(compose("calibrate", *tiny(calibrated, PER_POSITION, "scoring.border_px=0")))
    assert path.stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        (["students.steps=7", "overwrite=true"], "float32"),
        (["scoring.stride_px=2"], "float32"),
        (["overwrite=true"], "bfloat16"),
    ],
)
def test_positions_are_measured_anew_when_something_they_rest_on_has_changed(
    compose, tiny, calibrated, changes, precision
):
    path = RunDir(calibrated).position_statistics(33)
    before = load_position_statistics(path).error.mean
    overrides = tiny(calibrated, PER_POSITION, f"runtime.precision={precision}", *changes)
    train_students.run(compose("train-students", *overrides))
    calibrate.run(compose("calibrate", *overrides))
    after = load_position_statistics(path).error.mean
    assert after.shape != before.shape or not torch.equal(after, before)


def test_another_number_format_is_told_and_makes_nothing_anew(compose, tiny, calibrated, caplog):
    path = RunDir(calibrated).position_statistics(33)
    before = path.read_bytes()
    calibrate.run(compose("calibrate", *tiny(calibrated, PER_POSITION, "runtime.precision=bfloat16")))
    assert path.read_bytes() == before
    assert "was measured in float32, and this computes in bfloat16" in caplog.text


def test_positions_can_be_switched_off_and_on_again(compose, tiny, calibrated, trained):
    path = RunDir(calibrated).position_statistics(33)
    with_positions, made = RunDir(calibrated).calibration.read_bytes(), path.stat().st_mtime_ns
    calibrate.run(compose("calibrate", *tiny(calibrated)))
    assert RunDir(calibrated).calibration.read_bytes() == RunDir(trained).calibration.read_bytes()
    load(calibrated)
    calibrate.run(compose("calibrate", *tiny(calibrated, PER_POSITION)))
    assert RunDir(calibrated).calibration.read_bytes() == with_positions
    assert path.stat().st_mtime_ns == made


def test_pictures_are_decoded_once_for_all_patch_sizes(compose, tiny, trained_copy, monkeypatch):
    seen = []
    for module in (positions_command, calibrate):
        genuine = module.cached_images
        monkeypatch.setattr(
            module,
            "cached_images",
            lambda *given, genuine=genuine, **named: (seen.append(named), genuine(*given, **named))[1],
        )
    overrides = tiny(trained_copy, PER_POSITION, "scales=[17,33]", "scoring.normalization=zscore")
    for stage in (distill_teacher, normalize, train_students, calibrate):
        stage.run(compose("run", *overrides))
    assert [named["description"] for named in seen] == ["decoding", "decoding validation"]
    assert load_position_statistics(RunDir(trained_copy).position_statistics(17)).shape == (12, 12)


def test_a_damaged_file_is_refused_by_the_detector_and_made_again_by_calibrate(compose, tiny, calibrated):
    path = RunDir(calibrated).position_statistics(33)
    genuine = path.read_bytes()
    path.write_bytes(genuine[:-100])
    with pytest.raises(StaleArtifactError, match=r"position_statistics\.pt is not the file it was made from"):
        load(calibrated)
    calibrate.run(compose("calibrate", *tiny(calibrated, PER_POSITION)))
    assert path.read_bytes() == genuine
    path.unlink()
    with pytest.raises(MissingArtifactError, match=r"position_statistics\.pt does not exist: run `usad calibrate`"):
        load(calibrated)


def test_positions_of_something_else_are_noticed(calibrated, compose, tiny):
    path = RunDir(calibrated).position_statistics(33)
    positions = load_position_statistics(path)
    save_position_statistics(path, positions, num_images=99, precision="float32")
    with pytest.raises(StaleArtifactError, match=r"position_statistics\.pt is not the file it was made from"):
        load(calibrated)
    with pytest.raises(StaleArtifactError, match=r"position_statistics\.pt was made from something else"):
        infer.run(compose("infer", *tiny(calibrated, PER_POSITION)))


def test_a_picture_of_another_size_is_refused_with_the_ways_out(calibrated):
    detector = load(calibrated, device="cpu", precision="float32", num_threads=1)
    with pytest.raises(
        DataError, match=r"40x48 pixels for the networks.*measured on .* about 48x48: calibrate again with"
    ):
        detector.raw_maps(torch.zeros(3, 40, 48, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"uint8 \(3, h, w\), not of torch\.float32"):
        detector.raw_maps(torch.zeros(3, 48, 48))


def test_the_picture_of_another_size_is_named(calibrated, compose, tiny, tmp_path, monkeypatch):
    Image.new("RGB", (30, 50)).save(tmp_path / "odd.png")
    genuine = augmentation.Pipeline.prefix
    monkeypatch.setattr(augmentation.Pipeline, "prefix", lambda self, image: genuine(self, image)[:, 8:])
    with pytest.raises(DataError, match=r"odd\.png: the picture has 40x48 pixels for the networks"):
        infer.run(compose("infer", *tiny(calibrated, PER_POSITION, f"inference.input={tmp_path / 'odd.png'}")))


def test_training_pictures_of_several_sizes_are_refused_by_name(compose, tiny, trained_copy, monkeypatch):
    genuine = positions_command.cached_images

    def of_two_sizes(settings, samples, pipeline, *, description):
        cache = genuine(settings, samples, pipeline, description=description)
        pictures = [cache[index] for index in range(len(cache))]
        return [*pictures[:-1], pictures[-1][:, 1:]]

    monkeypatch.setattr(positions_command, "cached_images", of_two_sizes)
    with pytest.raises(DataError, match=r"good/.*png has 48x48 pixels and images/good/.*png 47x48: set it to false"):
        calibrate.run(compose("calibrate", *tiny(trained_copy, PER_POSITION)))
    assert not RunDir(trained_copy).position_statistics(33).exists()


def test_one_training_picture_is_too_few(compose, tiny, trained_copy, monkeypatch):
    genuine = positions_command.read_split
    monkeypatch.setattr(positions_command, "read_split", lambda *given: genuine(*given)[:1])
    with pytest.raises(DataError, match=r"needs at least 2 training pictures, and there are 1: set it to false"):
        calibrate.run(compose("calibrate", *tiny(trained_copy, PER_POSITION)))


def test_of_many_training_pictures_some_are_taken_evenly(compose, tiny, trained_copy, monkeypatch):
    monkeypatch.setattr(positions_command, "MAX_POSITION_PICTURES", 3)
    seen = []
    genuine = positions_command.cached_images

    def watched(settings, samples, pipeline, *, description):
        seen.append(samples)
        return genuine(settings, samples, pipeline, description=description)

    monkeypatch.setattr(positions_command, "cached_images", watched)
    calibrate.run(compose("calibrate", *tiny(trained_copy, PER_POSITION)))
    everything = positions_command.read_split(RunDir(trained_copy), "train")
    assert seen[0] == [everything[number * len(everything) // 3] for number in range(3)]
