import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from composition import composed
from drawn_run import THRESHOLD, draw_run, save

from us_anomaly.cli import register_schemas, to_settings
from us_anomaly.commands import evaluate
from us_anomaly.data.sample import Sample, dump_labels
from us_anomaly.run_dir.provenance import Recipe
from us_anomaly.scoring.anomaly_map import MapStatistics
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.settings import Settings
from us_anomaly.settings.plain import plain


def settings_of(*overrides: str) -> Settings:
    register_schemas()
    settings = to_settings(composed("evaluate", *overrides))
    assert isinstance(settings, Settings)
    return settings


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, list[Sample]]:
    """A run directory as `usad infer` leaves it; what its inputs were made from is not looked at here."""
    root, run_dir, samples = draw_run(tmp_path)
    settings = settings_of(f"data.root={root}")
    numbers = MapStatistics(mean=0.0, std=1.0, quantile_90=1.0, quantile_995=2.0)
    calibration = Calibration(
        statistics={33: {"error": numbers, "uncertainty": numbers}},
        reference="val",
        num_normal=3,
        num_anomalous=0,
        image_threshold=THRESHOLD,
        threshold_rule="quantile",
        threshold_reason="validation has no anomalous image for the rule f1",
        score_scale=1.0,
        pixel_threshold=1.0,
        color_range=(0.0, 1.0),
        uncertainty_color_range=(0.0, 1.0),
    )
    content = {
        "calibration": calibration.to_json(),
        "scoring": plain(settings.scoring),
        "transforms": plain(settings.augmentation.evaluation),
    }
    (run_dir / "calibration.json").write_text(json.dumps(content))
    recipe = Recipe(command="evaluate", settings={"seed": 0})
    monkeypatch.setattr(evaluate, "Recipes", lambda settings: SimpleNamespace(evaluation=recipe))
    return root, run_dir, samples


def evaluated(drawn: tuple[Path, Path, list[Sample]], *overrides: str) -> dict:
    root, run_dir, _ = drawn
    evaluate.run(settings_of(f"data.root={root}", f"run_dir={run_dir}", "evaluation.bootstrap_samples=20", *overrides))
    return json.loads((run_dir / "evaluation.json").read_text())


def test_exactly_the_evaluation_in_two_formats_is_left(drawn):
    run_dir = drawn[1]
    before = {path for path in run_dir.rglob("*") if path.is_file()}
    evaluated(drawn)
    left = {path for path in run_dir.rglob("*") if path.is_file()} - before
    names = {path.relative_to(run_dir).as_posix() for path in left}
    assert names == {"evaluation.json", "evaluation.csv", "provenance/evaluation.json.json"}


def test_the_table_the_reason_of_the_threshold_and_a_heatmap_are_printed(drawn, capsys):
    evaluated(drawn)
    printed = capsys.readouterr().out
    assert "10 test images (4 normal, 6 anomalous)" in printed
    assert "validation has no anomalous image for the rule f1" in printed
    assert f"Most anomalous image that was found: {drawn[1] / 'heatmaps/test/hole/2.png'}" in printed


def test_rates_are_printed_with_what_so_few_pictures_leave_open(drawn, capsys):
    """One of four good pictures is a false alarm, four of six defects are found."""
    evaluated(drawn)
    rows = [line.strip("│\n").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    printed = {row[0].strip(): row[1].strip() + ": " + row[2].strip() for row in rows if len(row) == 3}
    assert printed["false-positive rate at deployed threshold"] == "0.250: 0.046 to 0.699"
    assert printed["false positives at deployed threshold"] == "1: 0 to 3"
    assert printed["recall at deployed threshold"] == "0.667: 0.300 to 0.903"
    assert printed["precision at deployed threshold"] == "0.800: 0.376 to 0.964"


def test_what_is_up_to_date_is_printed_and_not_computed_again(drawn, capsys, monkeypatch):
    evaluated(drawn)
    first = capsys.readouterr().out
    monkeypatch.setattr(evaluate, "measure", lambda settings: pytest.fail("computed again"))
    evaluated(drawn)
    assert capsys.readouterr().out == first


def test_figures_thresholds_and_resolution_come_from_the_files(drawn):
    evaluation = evaluated(drawn)
    assert evaluation["metrics"]["misses"] == 2
    assert evaluation["threshold"]["rule"] == "quantile"
    assert evaluation["threshold"]["requested"] == "f1"
    assert evaluation["resolution_px"]["largest"] == [24, 24]
    assert evaluation["data_set"] == {"name": "folder", "category": None}


def test_the_seed_decides_the_intervals_and_nothing_else(drawn):
    root, run_dir, _ = drawn
    first, again, other = (
        evaluate.measure(settings_of(f"data.root={root}", f"run_dir={run_dir}", f"seed={seed}")) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["intervals"] != other["intervals"]
    assert first["metrics"] == other["metrics"]


def test_the_resolution_of_the_network_is_used_when_asked_for(drawn):
    evaluation = evaluated(drawn, "evaluation.resolution=network", "image_size=16")
    assert evaluation["resolution_px"]["largest"] == [16, 16]


def test_the_resolution_of_the_network_is_what_the_transforms_make_of_a_picture(drawn):
    size = "augmentation.evaluation.0.params.size"
    evaluation = evaluated(drawn, "evaluation.resolution=network", f"{size}=[12,20]")
    assert evaluation["resolution_px"]["largest"] == [20, 12]


def test_a_test_image_that_was_also_trained_on_is_counted_and_named(drawn):
    root = drawn[0]
    (root / "test/good/2.png").write_bytes((root / "train/good/1.png").read_bytes())
    evaluation = evaluated(drawn)
    assert evaluation["warnings"]["duplicates_across_splits"] == 1
    assert evaluation["warning_examples"]["duplicates_across_splits"] == ["test/good/2.png"]


def test_a_data_set_that_defines_saturation_gets_the_saturated_overlap(drawn):
    root, run_dir, samples = drawn
    config = [{"defect_name": "a", "pixel_value": 255, "saturation_threshold": 5, "relative_saturation": False}]
    (root / "defects_config.json").write_text(json.dumps(config))
    masked = [
        sample if sample.mask_path is None else Sample(**{**plain_fields(sample), "mask_path": sample.mask_path[:-4]})
        for sample in samples
    ]
    for sample in masked:
        if sample.mask_path:
            mask = np.zeros((24, 24), dtype=np.uint8)
            mask[4:9, 5:12] = 255
            save(root / sample.mask_path / "000.png", mask)
    (run_dir / "split.jsonl").write_text(dump_labels(masked))
    metrics = evaluated(drawn)["metrics"]
    assert "auspro_0.05" in metrics
    assert "aupro_0.05" not in metrics


def plain_fields(sample: Sample) -> dict:
    return {name: getattr(sample, name) for name in sample.__slots__}


def test_a_missing_result_is_counted_where_bad_images_are_skipped(drawn):
    path = drawn[1] / "predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    evaluation = evaluated(drawn, "data.on_bad_image=skip")
    assert evaluation["warnings"]["images_without_prediction"] == 1
    assert evaluation["counts"]["images"] == 9


def test_a_tracker_is_told_the_figures_once_and_not_whenever_they_are_shown(drawn, monkeypatch):
    told: list[dict] = []
    monkeypatch.setattr(evaluate, "track_evaluation", lambda settings, evaluation: told.append(evaluation))
    for _ in range(2):
        evaluated(drawn)
    assert len(told) == 1
    evaluated(drawn, "overwrite=true")
    assert len(told) == 2
