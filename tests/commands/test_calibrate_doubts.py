"""What `usad calibrate` says of a threshold that rests on few normal pictures: here two."""

import logging

import pytest

from us_anomaly.commands import calibrate
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring import threshold_support
from us_anomaly.scoring.calibration_file import read_numbers

WAYS_OUT = (
    "give validation more (split.ratios, or split.validation_fraction where the data set has its own split), or set a number: "
    "calibration.threshold=NUMBER"
)


@pytest.fixture
def calibrated(compose, tiny, trained_copy, caplog):
    """Return a function from overrides to the threshold and what the command logged, with the levels."""

    def run(*overrides: str) -> tuple[float, list[tuple[int, str]]]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            calibrate.run(compose("calibrate", *tiny(trained_copy, *overrides)))
        said = [(record.levelno, record.message) for record in caplog.records if record.name == calibrate.__name__]
        return read_json(trained_copy / "calibration.json")["calibration"]["image_threshold"], said

    return run


@pytest.fixture
def two_are_enough(monkeypatch):
    monkeypatch.setattr(threshold_support, "MIN_NORMAL", 2)


def test_two_normal_validation_pictures_are_too_few_and_that_is_one_warning_each_time(calibrated):
    said = "2 normal validation pictures are too few for a threshold that can be trusted: take at least 5, better many more; "
    for _ in range(2):  # the second time, the file is up to date
        assert calibrated("calibration.threshold=quantile")[1] == [(logging.WARNING, said + WAYS_OUT)]


@pytest.mark.usefixtures("two_are_enough")
def test_a_rate_that_changes_nothing_is_one_warning_and_one_that_is_coarse_a_remark(calibrated):
    rule = "calibration.threshold=max_false_positive_rate"
    coarse, remark = calibrated(rule, "calibration.max_false_positive_rate=0.01")
    strict, warning = calibrated(rule, "calibration.max_false_positive_rate=0.001")
    assert strict == coarse
    assert remark == [
        (
            logging.INFO,
            "the threshold lies just above the highest of 2 normal validation pictures: on average 1 in 3 new good pictures will "
            "reach it (for calibration.max_false_positive_rate=0.01 it takes 100)",
        )
    ]
    assert warning == [
        (
            logging.WARNING,
            "2 normal validation pictures cannot support calibration.max_false_positive_rate=0.001: they resolve 1 in 2 at best, "
            "so the threshold lies just above the highest of them, and on average 1 in 3 new good pictures will reach it; it "
            f"takes 1000: {WAYS_OUT}",
        )
    ]


def test_the_number_that_the_warning_advises_is_taken_without_one(calibrated):
    assert calibrated("calibration.threshold=3.5") == (3.5, [])


@pytest.mark.parametrize(("threshold", "said"), [("5.5", "5.5, as given"), ("123456.75", "123456.75, as given")])
def test_a_number_is_not_said_to_come_from_pictures(calibrated, capsys, threshold, said):
    calibrated(f"calibration.threshold={threshold}")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "threshold" in line]
    assert line.strip("│ ").rpartition("│ ")[2] == said
    calibrated("calibration.threshold=quantile")
    assert " by quantile, from 2 normal and " in capsys.readouterr().out


def test_a_number_format_that_changes_nothing_any_more_is_told(calibrated, caplog):
    calibrated("runtime.precision=bfloat16")
    assert "was calibrated in float32 and now computes in bfloat16" in caplog.text


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ("-1000", "2 of 2 normal ones would be called anomalous, 3 of 3 anomalous ones found"),
        ("1e9", "0 of 2 normal ones would be called anomalous, 0 of 3 anomalous ones found"),
    ],
)
def test_what_the_threshold_makes_of_validation_is_told(calibrated, trained_copy, capsys, threshold, said):
    calibrated(f"calibration.threshold={threshold}")
    numbers = read_json(trained_copy / "calibration.json")["calibration"]
    assert f"{numbers['num_false_positives']} of 2 normal" in said
    assert f"{numbers['num_found']} of 3 anomalous" in said
    assert said in " ".join(capsys.readouterr().out.split())


def test_of_a_file_that_did_not_count_nothing_is_told(trained_copy):
    content = read_json(trained_copy / "calibration.json")
    del content["calibration"]["num_false_positives"], content["calibration"]["num_found"]
    numbers = read_numbers(content["calibration"], path=trained_copy / "calibration.json")
    assert numbers.num_found is None
    assert calibrate._decided(numbers) == ""
