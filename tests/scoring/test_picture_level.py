"""The level of a picture: how it is measured, how far it is evened out, and that scores and files know about it."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plain_scores import scoring
from scipy import stats

from us_anomaly.commands import calibrate as calibrate_command
from us_anomaly.commands import infer, train_students
from us_anomaly.errors import ArtifactError, StaleArtifactError
from us_anomaly.loading import load
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring import picture_level
from us_anomaly.scoring.anomaly_map import combine, image_score
from us_anomaly.scoring.calibration import calibrate
from us_anomaly.scoring.calibration_file import read_calibration, read_numbers
from us_anomaly.scoring.picture_level import LevelGatherer, PictureLevel
from us_anomaly.scoring.raw_maps import Grid, RawMaps
from us_anomaly.scoring.sampling import evenly_drawn
from us_anomaly.settings import CalibrationSettings, ImageScore, Normalization

GRID = Grid(40, 40, 2)
FILE = Path("run/calibration.json")
RULE = CalibrationSettings(
    threshold="quantile", max_false_positive_rate=0.01, min_recall=0.99, quantile=0.99, pixel_quantile=0.995
)


def texture(seed, *, level=0.0, high=0.0):
    """A map (20, 20) of log-normal noise; its quiet places raised by `level`, its highest tenth by `high` more."""
    values = torch.randn(20, 20, generator=torch.Generator().manual_seed(seed)).mul_(0.5)
    return (values + level + high * (values > values.flatten().kthvalue(360).values)).exp()


def gathered(maps):
    gatherer = LevelGatherer()
    for values in maps:
        gatherer.add(values)
    return gatherer.level()


LEVELS = np.random.default_rng(0).normal(0, 0.3, 30).tolist()


def test_where_all_of_a_map_follows_the_level_all_of_it_is_taken_away():
    known = gathered([texture(0, level=level) for level in LEVELS])
    assert known.slope == pytest.approx(1, abs=1e-6)
    evened = [known.even_out(texture(0, level=level)) for level in LEVELS]
    for values in evened[1:]:
        torch.testing.assert_close(values, evened[0])


def test_a_picture_of_typical_level_keeps_its_values():
    known = gathered([texture(0, level=level) for level in LEVELS])
    torch.testing.assert_close(
        known.even_out(texture(0, level=float(np.mean(LEVELS)))), texture(0, level=float(np.mean(LEVELS)))
    )


def test_half_a_slope_takes_half_of_the_logarithm_away():
    known = PictureLevel(typical=0.0, low=-9.0, high=9.0, slope=0.5)
    torch.testing.assert_close(known.even_out(torch.full((20, 20), 4.0)), torch.full((20, 20), 2.0))
    torch.testing.assert_close(known.even_out(torch.full((20, 20), 1 / 4)), torch.full((20, 20), 1 / 2))


def test_where_high_values_do_not_follow_the_level_nothing_is_taken_away():
    """A part before a background: the quiet background moves, the part does not."""
    known = gathered([texture(number, level=level, high=-level) for number, level in enumerate(LEVELS)])
    assert known.slope < 0.05


def test_high_values_that_fall_where_the_level_rises_are_no_reason_to_raise_them():
    assert gathered([texture(0, level=level, high=-3 * level) for level in LEVELS]).slope == 0


def test_high_values_that_rise_faster_than_the_level_are_divided_by_no_more_than_it():
    assert gathered([texture(0, level=level, high=2 * level) for level in LEVELS]).slope == 1


def test_the_slope_is_that_of_the_regression_made_smaller_by_its_standard_error():
    maps = [texture(number, level=level, high=-0.4 * level) for number, level in enumerate(LEVELS)]
    logs = [np.log(np.sort(values.flatten().numpy())) for values in maps]
    line = stats.linregress([log[round(0.1 * 399)] for log in logs], [log[round(0.99 * 399)] for log in logs])
    expected = line.slope * (1 - 28 / 26 * (line.stderr / line.slope) ** 2)
    assert 0.2 < expected < 0.95
    assert gathered(maps).slope == pytest.approx(expected, rel=1e-4)


def test_slopes_of_noise_are_mostly_nothing():
    slopes = [
        gathered(
            [
                texture(
                    100 * trial + number,
                    level=0.3 * math.sin(trial + 7 * number),
                    high=-0.3 * math.sin(trial + 7 * number),
                )
                for number in range(6)
            ]
        ).slope
        for trial in range(40)
    ]
    assert np.mean(slopes) < 0.15
    assert np.mean(np.array(slopes) == 0) > 0.5


@pytest.mark.parametrize(
    "maps",
    [
        [texture(0)],
        [texture(0, level=0.1 * number) for number in range(4)],
        [texture(0)] * 6,
        [texture(0) * (1 + 1e-7 * number) for number in range(6)],
        [torch.full((20, 20), 1.0 + number) for number in range(6)],
        [torch.tensor([[1.0 + number]]) for number in range(6)],
    ],
)
def test_too_few_pictures_equal_ones_and_maps_of_one_value_leave_maps_as_they_are(maps):
    known = gathered(maps)
    assert known.slope == 0
    torch.testing.assert_close(known.even_out(texture(3)), texture(3))


def test_a_level_counts_no_farther_than_normal_pictures_reach():
    known = gathered([texture(0, level=level) for level in LEVELS])
    far = known.even_out(texture(0, level=10.0))
    torch.testing.assert_close(far, texture(0, level=10.0 - (max(LEVELS) + np.std(LEVELS) - np.mean(LEVELS))))
    dark = known.even_out(texture(0, level=-10.0))
    torch.testing.assert_close(dark, texture(0, level=-10.0 - (min(LEVELS) - np.std(LEVELS) - np.mean(LEVELS))))


def test_zero_maps_stay_zero():
    known = gathered([torch.zeros(20, 20) for _ in range(6)] + [texture(0), texture(1)])
    assert torch.equal(known.even_out(torch.zeros(20, 20)), torch.zeros(20, 20))
    assert all(math.isfinite(value) for value in (known.typical, known.low, known.high, known.slope))


def test_falling_maps_take_no_longer_than_others():
    """Some ways to find a quantile take the square of the number of values, here two minutes."""
    falling = torch.linspace(9, 1, 2**20).reshape(1024, 1024)
    assert gathered([falling]).typical == pytest.approx(math.log(1.8), rel=1e-3)


def test_all_columns_of_a_map_take_part():
    columns = torch.arange(64).float().expand(64, 64)
    assert set(evenly_drawn(columns, limit=256).tolist()) == set(range(64))
    assert len(evenly_drawn(columns, limit=256)) <= 256
    assert len(evenly_drawn(columns, limit=4096)) == 4096


def test_a_picture_may_be_left_out():
    gatherer = LevelGatherer()
    for level in LEVELS:
        gatherer.add(texture(0, level=level))
    assert gatherer.level(without=3) == gathered([texture(0, level=level) for level in LEVELS[:3] + LEVELS[4:]])
    single = LevelGatherer()
    single.add(texture(0))
    assert single.level(without=0) == single.level()


@pytest.mark.parametrize(("num", "has_slope"), [(5, False), (6, True)])
def test_a_picture_that_is_left_out_is_evened_out_like_a_new_one_or_both_are_not(num, has_slope):
    gatherer = LevelGatherer()
    for level in LEVELS[:num]:
        gatherer.add(texture(0, level=level))
    known = [gatherer.level(), *(gatherer.level(without=number) for number in range(num))]
    assert [level.slope > 0.9 for level in known] == [has_slope] * (num + 1)
    assert has_slope or not any(level.slope for level in known)


def test_of_a_large_map_evenly_drawn_values_stand_for_all(monkeypatch):
    whole = gathered([texture(0)])
    monkeypatch.setattr(picture_level, "MAX_SAMPLED_VALUES", 100)
    assert gathered([texture(0)]).typical == pytest.approx(whole.typical, abs=0.2)
    assert gathered([texture(0)]).typical != whole.typical


# --- scores ------------------------------------------------------------------------------------------------------


def picture(seed, *, level, defect=0.0):
    error = texture(seed, level=level)
    error[4:7, 4:7] += defect
    return {33: RawMaps(error, texture(seed + 1000), GRID)}


def calibrated(settings):
    normals = [lambda number=number, level=level: picture(number, level=level) for number, level in enumerate(LEVELS)]
    return calibrate(normals, [], reference="val", scoring=settings, settings=RULE)


@pytest.mark.parametrize("normalization", list(Normalization))
def test_a_defect_in_a_calm_picture_is_told_from_a_restless_good_one(normalization):
    """Without it the good picture scores higher."""
    marks = {}
    for per_picture in (False, True):
        settings = scoring(
            per_picture=per_picture,
            normalization=normalization,
            uncertainty_weight=0.0,
            image_score=ImageScore.top_mean,
            image_score_fraction=0.03,
        )
        result = calibrated(settings)
        assert result.statistics[33]["error"].level is None or per_picture
        restless, faulty = (
            image_score(combine(maps, statistics=result.statistics, settings=settings)[0], settings=settings)
            for maps in (picture(77, level=0.5), picture(78, level=-0.4, defect=2.5))
        )
        marks[per_picture] = faulty - restless
    assert marks[False] < 0 < marks[True]


def test_statistics_are_those_of_evened_maps():
    settings = scoring(per_picture=True, normalization=Normalization.zscore, uncertainty_weight=0.0)  # error alone
    result = calibrated(settings)
    maps = [
        combine(picture(n, level=level), statistics=result.statistics, settings=settings)[0]
        for n, level in enumerate(LEVELS)
    ]
    assert float(torch.stack(maps).mean()) == pytest.approx(0, abs=1e-4)
    assert float(torch.stack(maps).std()) == pytest.approx(1, abs=1e-2)


def test_levels_of_error_and_uncertainty_are_kept_apart():
    known = calibrated(scoring(per_picture=True)).statistics[33]
    assert known["error"].level.slope > 0.8 > 0.5 > known["uncertainty"].level.slope
    assert known["error"].level.typical != known["uncertainty"].level.typical


def test_the_threshold_is_that_of_pictures_whose_level_is_new():
    """It is the highest score of the reference normals, each evened out by what the others say."""
    settings = scoring(per_picture=True, uncertainty_weight=0.0, image_score=ImageScore.top_mean)
    maps = [picture(number, level=level) for number, level in enumerate(LEVELS[:7])]
    result = calibrate(
        [lambda one=one: one for one in maps],
        [],
        reference="val",
        scoring=settings,
        settings=dataclasses.replace(RULE, quantile=1.0),
    )
    scores = []
    for number, one in enumerate(maps):
        others = gathered([other[33].error for other in maps[:number] + maps[number + 1 :]])
        evened = GRID.at_every_pixel(others.even_out(one[33].error))
        scores.append(image_score(evened, settings=settings))
    assert result.image_threshold == pytest.approx(max(scores), rel=1e-5)


def test_pictures_are_not_changed_by_being_scored():
    settings = scoring(per_picture=True)
    result, maps = calibrated(settings), picture(3, level=0.4)
    before = maps[33].error.clone()
    combine(maps, statistics=result.statistics, settings=settings)
    assert torch.equal(maps[33].error, before)


# --- file --------------------------------------------------------------------------------------------------------


def test_levels_survive_json():
    result = calibrated(scoring(per_picture=True))
    again = read_numbers(json.loads(json.dumps(result.to_json(), allow_nan=False)), path=FILE)
    assert again == result
    assert isinstance(again.statistics[33]["error"].level, PictureLevel)


@pytest.mark.parametrize(
    "damage",
    [
        {"slope": None},
        {"slope": float("nan")},
        {"slope": -3.0},
        {"slope": 1.5},
        {"low": 9.0},
        {"typical": 1e3},
        {"unknown": 1},
        "high",
    ],
)
def test_a_damaged_level_is_refused(damage):
    content = calibrated(scoring(per_picture=True)).to_json()
    level = content["statistics"][33]["error"]["level"]
    if isinstance(damage, str):
        del level[damage]
    else:
        level |= damage
    with pytest.raises(ArtifactError, match=r"calibration.json does not follow its schema .*run `usad calibrate`"):
        read_numbers(content, path=FILE)


def test_settings_that_want_levels_and_numbers_without_them_do_not_go_together():
    plain = json.loads(json.dumps(calibrated(scoring()).to_json()))
    for numbers in plain["statistics"]["33"].values():
        del numbers["level"]
    values = {
        "normalization": "none",
        "error_weight": 1.0,
        "uncertainty_weight": 1.0,
        "stride_px": 4,
        "smoothing_sigma_px": 0.0,
        "image_score": "max",
        "image_score_fraction": 0.1,
    }
    read_calibration(
        {"calibration": plain, "scoring": values, "transforms": []}, path=FILE
    )  # as it was before the setting
    with pytest.raises(ArtifactError, match=r"^run/calibration\.json does not .*no level was measured"):
        read_calibration({"calibration": plain, "scoring": values | {"per_picture": True}, "transforms": []}, path=FILE)


# --- the command and the detector --------------------------------------------------------------------------------

PER_PICTURE = "scoring.per_picture=true"


@pytest.fixture
def restless(compose, tiny, trained_copy, monkeypatch):
    """A calibrated run; of its two validation normals nothing could be learnt, so here two are enough to give a slope."""
    monkeypatch.setattr(picture_level, "_sure_slope", lambda levels, highs: 0.5)
    monkeypatch.setattr(picture_level, "MIN_PICTURES", 2)
    monkeypatch.setattr(calibrate_command, "MIN_PICTURES", 2)
    calibrate_command.run(compose("calibrate", *tiny(trained_copy, PER_PICTURE)))
    return trained_copy


def test_the_command_measures_levels_and_detector_and_infer_use_them(compose, tiny, restless, trained, capsys):
    infer.run(compose("infer", *tiny(restless, PER_PICTURE, "inference.splits=[test]")))
    lines = [json.loads(line) for line in RunDir(restless).predictions.read_text().splitlines()]
    runtime = {"device": "cpu", "precision": "float32", "num_threads": 1}
    plain, evened = load(trained, **runtime), load(restless, **runtime)
    known = evened.calibration.statistics[33]
    assert known["error"].level.slope == 0.5
    root = Path(read_json(RunDir(trained).provenance(RunDir(trained).split))["settings"]["data.root"])
    for line in lines[:4]:
        picture_path = root / line["filename"]
        raw = plain.raw_maps(plain.pipeline.prefix(np.asarray(Image.open(picture_path).convert("RGB"))))[33]
        total = known["error"].level.even_out(raw.error) + known["uncertainty"].level.even_out(raw.uncertainty)
        expected = image_score(raw.grid.at_every_pixel(total), settings=evened.scoring)
        assert line["prediction"]["anomaly_score"] == evened.predict(picture_path)[0].anomaly_score
        assert line["prediction"]["anomaly_score"] == pytest.approx(expected, rel=1e-5)
        assert line["prediction"]["anomaly_score"] != plain.predict(picture_path)[0].anomaly_score


def test_only_the_calibration_rests_on_it_and_its_summary_tells_the_slope(compose, tiny, restless, capsys):
    run_dir = RunDir(restless)
    before = run_dir.students(33).stat().st_mtime_ns
    calibrate_command.run(compose("calibrate", *tiny(restless, PER_PICTURE)))
    assert "errors follow the picture's level" in capsys.readouterr().out
    with pytest.raises(
        StaleArtifactError, match=r"calibration\.json was made from something else .*scoring\.per_picture"
    ):
        infer.run(compose("infer", *tiny(restless)))
    train_students.run(compose("train-students", *tiny(restless)))
    assert run_dir.students(33).stat().st_mtime_ns == before


def test_too_few_normal_pictures_are_told(compose, tiny, trained_copy, caplog):
    calibrate_command.run(compose("calibrate", *tiny(trained_copy, PER_PICTURE)))
    assert "scoring.per_picture=true leaves maps as they are: it takes 6 normal pictures" in caplog.text
    assert "and there are 2" in caplog.text
