import csv
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from compared_runs import write_run
from drawn_run import THRESHOLD, draw_run
from rich.console import Console
from sklearn.metrics import roc_auc_score

from us_anomaly.data.sample import of_split
from us_anomaly.reporting.comparison import compare
from us_anomaly.reporting.comparison_cells import comparison_notes
from us_anomaly.reporting.comparison_formats import comparison_csv, comparison_json, comparison_markdown
from us_anomaly.reporting.comparison_origin import Origin
from us_anomaly.reporting.comparison_rows import reference_of
from us_anomaly.reporting.comparison_tables import comparison_tables
from us_anomaly.reporting.run_collection import collect_runs
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.evaluation import evaluate
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.scored_images import parse_predictions, scored_images
from us_anomaly.scoring.thresholds import Threshold
from us_anomaly.settings import EvaluationSettings, MapResolution, MetricAlgorithm


def evaluated_run(folder, *, category, shift=0.0, resolution="original"):
    """Draw a run directory, add `shift` to the scores of anomalous images, and evaluate it."""
    root, run_dir, samples = draw_run(folder)
    path = run_dir / "predictions.jsonl"
    results = parse_predictions(path.read_text())
    for result in results:
        prediction = result["prediction"]
        prediction["anomaly_score"] += shift * result["ground_truth"]["is_anomalous"]
        prediction["is_anomalous"] = prediction["anomaly_score"] >= THRESHOLD
    path.write_text("".join(json.dumps(result) + "\n" for result in results))
    images = scored_images(results, of_split(samples, "test"), deployed_threshold=THRESHOLD)
    settings = EvaluationSettings(
        algorithm=MetricAlgorithm.exact, resolution=MapResolution(resolution), bootstrap_samples=100
    )
    source = PixelSource(
        images=images,
        run_dir=run_dir,
        data_root=root,
        max_image_pixels=10_000,
        network_size=None,
        saturation=None,
        problems=DataProblems(),
    )
    evaluation = evaluate(
        images,
        source=source,
        threshold=Threshold(value=THRESHOLD, rule="f1", requested="f1"),
        settings=settings,
        seed=0,
        data_set={"name": "drawn", "category": category},
    )
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))
    return run_dir


@pytest.fixture
def runs(tmp_path):
    return [
        evaluated_run(tmp_path / "cable", category="cable"),
        evaluated_run(tmp_path / "bottle", category="bottle", shift=0.5),
    ]


def compared(folders, *, baseline=None):
    references = collect_runs([baseline])[0] if baseline else []
    return compare(*collect_runs(folders), baseline=references)


def change(run_dir, **changes):
    path = run_dir / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_there_is_a_row_per_category_and_the_mean_of_each_figure(runs):
    comparison = compared(runs)
    assert [row.name for row in comparison.rows] == ["cable", "bottle"]
    figures = [row.figures["image_auroc"] for row in comparison.rows]
    assert [mean.called("mean") for mean in comparison.means] == ["mean"]
    assert comparison.means[0].figures["image_auroc"] == pytest.approx(np.mean(figures))
    assert {"image_auroc", "deployed_recall", "aupro_0.3"} <= set(comparison.columns)
    assert "auspro_0.3" not in comparison.columns


def test_the_best_of_a_data_set_is_known_and_nobody_is_best_where_all_are_equal(runs, tmp_path):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    comparison = compared([*runs, better])
    assert comparison.best["image_auroc"] == ["cable (better/run)"]
    assert comparison.best["pixel_auroc"] == []


def test_categories_are_not_told_which_of_them_is_the_easiest(runs):
    assert not any(compared(runs).best.values())


def test_fewer_false_alarms_are_better(runs, tmp_path):
    better = evaluated_run(tmp_path / "better", category="cable")
    path = runs[0] / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["metrics"]["deployed_false_positive_rate"] = 0.9
    path.write_text(json.dumps(evaluation))
    assert compared([runs[0], better]).best["deployed_false_positive_rate"] == ["cable (better/run)"]


def test_a_sweep_folder_gives_its_runs_in_the_order_of_their_numbers(tmp_path, runs):
    sweep = tmp_path / "sweep"
    for job, category in [("seed-10", "ten"), ("seed-2", "two")]:
        shutil.copytree(runs[0], sweep / job)
        change(sweep / job, data_set={"name": "drawn", "category": category})
    assert [row.name for row in compared([sweep]).rows] == ["two", "ten"]
    assert [row.name for row in compared([tmp_path / "sweep", sweep / "seed-2"]).rows] == ["two", "ten"]


UNKNOWN = (
    "it has no evaluation.json and no note of a failure: it is at work or was killed; type its whole command again"
)


def test_an_unfinished_run_is_listed_with_its_reason_and_does_not_stop_the_others(tmp_path, runs):
    sweep = tmp_path / "sweep"
    shutil.copytree(runs[0], sweep / "0")
    shutil.copytree(runs[0], sweep / "1")
    (sweep / "1" / "evaluation.json").unlink()
    (sweep / "2" / ".hydra" / "run").mkdir(parents=True)
    (sweep / "2" / ".hydra" / "run" / "log.txt").touch()
    (sweep / "of another program" / ".hydra").mkdir(parents=True)
    comparison = compared([sweep, tmp_path / "nowhere"])
    assert [row.name for row in comparison.rows] == ["cable"]
    assert [(one.folder.name, one.reason) for one in comparison.unusable] == [
        ("1", UNKNOWN),
        ("2", UNKNOWN),
        ("nowhere", "there is no such folder"),
    ]
    assert f"not in the table: {tmp_path / 'nowhere'}: there is no such folder" in comparison_notes(comparison)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not an evaluation"),
        ('{"format_version": 1}', "is not an evaluation"),
        ('{"format_version": 99}', "has format version 99, which a newer us_anomaly writes"),
        ('{"format_version": 0}', "make it again with `usad evaluate overwrite=true`"),
    ],
)
def test_an_evaluation_that_cannot_be_read_is_listed_with_its_reason(runs, text, reason):
    (runs[1] / "evaluation.json").write_text(text)
    (unusable,) = compared(runs).unusable
    assert reason in unusable.reason


@pytest.mark.parametrize("damage", [{"metrics": []}, {"metrics": {"f1": "1"}}, {"bootstrap": 3}, {"threshold": {}}])
def test_a_damaged_evaluation_is_listed_and_the_others_are_compared(runs, damage):
    change(runs[1], **damage)
    comparison = compared(runs)
    assert [row.name for row in comparison.rows] == ["cable"]
    assert [
        f"it lacks {next(iter(damage))}" in one.reason or "a number for" in one.reason for one in comparison.unusable
    ]


def test_runs_of_one_name_are_told_apart_by_their_folder(tmp_path, runs):
    shutil.copytree(runs[0], tmp_path / "again")
    names = [row.name for row in compared([runs[0], tmp_path / "again"]).rows]
    assert names == ["cable (cable/run)", "cable (again)"]


def test_differences_to_a_baseline_of_the_same_images_have_paired_intervals(tmp_path, runs):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    comparison = compared([better], baseline=runs[0])
    (row,) = comparison.rows
    said = "An interval is over resampled test images: what another seed would change is not in it."
    assert said in comparison_notes(comparison)
    difference = row.differences["image_auroc"]
    base, ours = (json.loads((run / "evaluation.json").read_text())["metrics"] for run in (runs[0], better))
    assert difference.value == pytest.approx(ours["image_auroc"] - base["image_auroc"])
    assert 0 <= difference.interval[0] < difference.interval[1]
    assert row.differences["aupro_0.3"].value == 0
    assert row.differences["aupro_0.3"].interval is None


def test_all_runs_of_a_data_set_are_resampled_alike_whatever_their_seed(tmp_path, runs):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    before = compared([better], baseline=runs[0]).rows[0].differences
    change(better, bootstrap={"num_resamples": 100, "seed": 5})
    assert compared([better], baseline=runs[0]).rows[0].differences == before


def test_validation_images_take_no_part_in_the_pairing(tmp_path, runs):
    path = runs[0] / "predictions.jsonl"
    val = json.loads(path.read_text().splitlines()[0]) | {"filename": "train/good/0.png"}
    path.write_text(json.dumps(val) + "\n" + path.read_text())
    (run,), _ = collect_runs([runs[0]])
    scores = run.test_scores()
    assert "train/good/0.png" not in scores
    labels, values = zip(*scores.values(), strict=True)
    assert roc_auc_score(labels, values) == pytest.approx(run.figure("image_auroc"))


def test_a_baseline_folder_serves_each_row_with_its_own_category(tmp_path, runs):
    new = tmp_path / "new"
    for name, shift in (("cable", 0.5), ("bottle", 0.5)):
        evaluated_run(new / name, category=name, shift=shift)
    old = tmp_path / "old"
    for run in runs:
        shutil.copytree(run, old / run.parent.name)
    comparison = compared([new / "cable" / "run", new / "bottle" / "run"], baseline=old)
    gains = [row.differences["image_auroc"].value for row in comparison.rows]
    assert gains[0] > gains[1] == 0  # the old bottle was perfect already
    mean = comparison.means[0].differences["image_auroc"]
    assert mean.value == pytest.approx(np.mean(gains))
    assert mean.interval[0] <= mean.value <= mean.interval[1]


def test_a_category_that_the_baseline_lacks_has_no_difference_and_is_noted(tmp_path, runs):
    old = tmp_path / "old"
    shutil.copytree(runs[0], old / "a")
    shutil.copytree(runs[0], old / "b")
    comparison = compared([runs[1]], baseline=old)
    assert comparison.rows[0].differences == {}
    assert comparison.notes == ["bottle: the baseline has no run of this data set and category, so no difference."]


def test_other_test_images_cannot_be_paired(tmp_path, runs):
    text = (runs[0] / "predictions.jsonl").read_text().splitlines()
    (runs[0] / "predictions.jsonl").write_text("\n".join(text[1:]) + "\n")
    other = evaluated_run(tmp_path / "other", category="cable", shift=0.5)
    (row,) = compared([other], baseline=runs[0]).rows
    assert row.differences["image_auroc"].interval is None


def seen_by(folder, **hashes):
    """Return a run whose notes tell these hashes of what it saw."""
    unknown = {"pictures": "list", "contents": None, "scored": None, "test_masks": None}
    ((run,), _) = collect_runs([folder])
    return dataclasses.replace(run, origin=Origin(settings={}, files={}, saturation=None, **(unknown | hashes)))


@pytest.mark.parametrize(
    ("ours", "base", "is_paired"),
    [
        ({"contents": "one"}, {"contents": "one"}, True),
        ({"contents": None}, {"contents": "one"}, True),
        ({"contents": "one"}, {"contents": "other"}, False),
        ({"contents": "one", "scored": "same"}, {"contents": "other", "scored": "same"}, True),
        ({"contents": "one", "scored": "same", "test_masks": "m"}, {"contents": "other", "scored": "same"}, False),
        ({"contents": "one", "scored": "new"}, {"contents": "other", "scored": "old"}, False),
        ({"contents": "one", "scored": "new"}, {"contents": "other", "scored": "old", "pictures": "more"}, True),
    ],
)
def test_test_images_that_were_replaced_cannot_be_paired_which_is_noted(tmp_path, runs, ours, base, is_paired):
    """Training pictures that were replaced, and pictures that were added, leave test images as they are, or may."""
    better = seen_by(evaluated_run(tmp_path / "better", category="cable", shift=0.5), **ours)
    comparison = compare([better], [], baseline=[seen_by(runs[0], **base)])
    (row,) = comparison.rows
    assert (row.differences["image_auroc"].interval is not None) == is_paired
    note = f"{row.name}: the baseline saw other pictures or masks of the same names, so the difference says little."
    assert comparison.notes == ([] if is_paired else [note])


def test_a_baseline_that_saw_the_same_files_comes_before_others(tmp_path, runs):
    run = seen_by(runs[0], contents="new", scored="new")
    old, new = (
        seen_by(evaluated_run(tmp_path / name, category="cable"), contents=name, scored=name) for name in ("old", "new")
    )
    assert reference_of(run, [old, new]) is new
    assert reference_of(run, [new, old]) is new


def test_the_baseline_itself_has_no_difference(runs):
    comparison = compared(runs, baseline=runs[0])
    assert comparison.rows[0].differences == {}
    assert comparison.rows[1].differences["image_auroc"].value > 0
    assert comparison.baseline == runs[0].as_posix()


def test_a_baseline_of_other_images_is_noted(runs):
    assert compared([runs[1]], baseline=runs[0]).notes == [
        "bottle: the baseline was evaluated on other images, so the difference says little."
    ]


def test_names_with_brackets_are_printed_as_they_are(runs):
    change(runs[1], data_set={"name": "drawn", "category": "[red]bottle"})
    console = Console(file=io.StringIO(), width=300)
    for table in comparison_tables(compared(runs, baseline=runs[0]), width=300):
        console.print(table)
    assert console.file.getvalue().count("[red]bottle") == 2


def test_different_resolutions_are_warned_of(runs):
    change(runs[1], resolution="network")
    assert compared(runs).notes == ["Pixel figures at different resolutions (network, original) cannot be compared."]


def test_a_figure_that_a_run_lacks_is_left_out_of_the_mean_and_said(runs):
    path = runs[1] / "evaluation.json"
    evaluation = json.loads(path.read_text())
    del evaluation["metrics"]["aupro_0.3"]
    path.write_text(json.dumps(evaluation))
    comparison = compared(runs)
    assert comparison.means[0].num_averaged["aupro_0.3"] == 1
    assert comparison_notes(comparison) == ["mean: only 1 of 2 runs have AU-PRO 0.3."]
    assert next(csv.DictReader(io.StringIO(comparison_csv(comparison))))["aupro_0.3"] != ""
    assert list(csv.DictReader(io.StringIO(comparison_csv(comparison))))[1]["aupro_0.3"] == ""


def test_the_printed_table_has_resolution_mean_and_differences(runs, tmp_path):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    console = Console(file=io.StringIO(), width=300, force_terminal=True)
    for table in comparison_tables(compared([*runs, better], baseline=runs[0]), width=300):
        console.print(table)
    text = console.file.getvalue()
    assert "figures per run, best of each data set in bold" in text
    assert "resolution of pixel figures: original" in text
    assert f"difference to {runs[0].as_posix()}" in text
    assert "+0.083 (+0.000 to +0." in text
    assert "\x1b[1m1.000\x1b[0m" in text  # the best is bold


def test_markdown_marks_the_best_and_escapes_bars(runs, tmp_path):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    for run in (runs[0], better):
        change(run, data_set={"name": "drawn", "category": "a|b"})
    text = comparison_markdown(compared([runs[0], better], baseline=runs[0]))
    lines = text.splitlines()
    assert lines[0].startswith("| run | image AUROC | image average precision | F1 (oracle) | F1 (deployed) |")
    assert lines[3].startswith("| a\\|b (better/run) | **1.000** |")
    assert f"Difference to {runs[0].as_posix()}, with 95% interval where test images can be paired:" in lines
    assert any(line.startswith("| a\\|b (better/run) | +0.083 (") for line in lines)


def test_the_sizes_in_which_networks_see_one_data_set_are_warned_of_and_those_of_several_are_not(runs, tmp_path):
    again = evaluated_run(tmp_path / "again", category="cable")
    for run, side in zip((*runs, again), (24, 64, 32), strict=True):
        change(run, resolution="network", resolution_px={"smallest": [side, side], "largest": [side, side]})
    assert compared(runs).notes == []
    assert (
        "cable: pixel figures at different resolutions (network, 24x24; network, 32x32) cannot be compared."
        in compared([*runs, again]).notes
    )
    change(again, resolution_px=None)
    assert not any("resolutions" in note for note in compared([*runs, again]).notes)


def test_markdown_states_the_resolution_in_the_words_of_the_terminal(runs):
    comparison = compared(runs)
    caption = comparison_tables(comparison, width=500)[-1].caption
    assert caption == "resolution of pixel figures: original"
    assert f"- {caption}" in comparison_markdown(comparison).splitlines()


def test_markdown_has_the_mean_of_all_categories_and_no_settings_where_none_differ(runs):
    lines = comparison_markdown(compared(runs)).splitlines()
    assert lines[0].endswith("| AU-PRO 0.05 |")
    assert lines[4].startswith("| mean | 0.958 |")


@pytest.fixture
def sweep(tmp_path):
    """Write a sweep over seeds that grew and so has one run twice."""
    return [
        write_run(tmp_path / str(n), metrics={"image_auroc": auroc}, settings={"seed": seed, "students.steps": 5})
        for n, (seed, auroc) in enumerate([(0, 0.5), (1, 0.75), (1, 0.75)])
    ] + [write_run(tmp_path / "3", category="leather", metrics={"image_auroc": 0.25})]


def test_markdown_has_all_settings_in_which_the_runs_differ_in_its_last_column(sweep):
    lines = comparison_markdown(compared(sweep)).splitlines()
    assert lines[:3] == [
        "| run | image AUROC | settings |",
        "| --- | ---: | --- |",
        "| tile: seed=0, steps=5 | 0.500 | seed=0, students.steps=5 |",
    ]
    assert "| smallest of 2 seeds, tile: steps=5 | 0.500 | students.steps=5 |" in lines


def test_csv_has_a_row_for_the_mean_and_columns_for_differences(runs):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(compared(runs, baseline=runs[0])))))
    assert [row["run"] for row in rows] == ["cable", "bottle", "mean", "best"]
    assert rows[0]["image_auroc_difference"] == ""
    assert float(rows[1]["image_auroc_difference"]) > 0
    assert float(rows[2]["image_auroc"]) == pytest.approx(0.958, abs=0.001)


def test_csv_has_the_interval_of_a_difference_and_names_the_best(runs, tmp_path):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    rows = list(csv.DictReader(io.StringIO(comparison_csv(compared([runs[0], better], baseline=runs[0])))))
    assert [row["run"] for row in rows] == ["cable (cable/run)", "cable (better/run)", "best"]
    assert rows[2]["image_auroc"] == rows[1]["run"]
    assert float(rows[1]["image_auroc_low"]) <= float(rows[1]["image_auroc_high"])


def test_the_csv_calls_the_figure_that_peeks_at_the_test_labels_so_and_the_json_as_ever(runs, tmp_path):
    better = evaluated_run(tmp_path / "better", category="cable", shift=0.5)
    comparison = compared([runs[0], better], baseline=runs[0])
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert not {"f1", "f1_difference", "f1_low", "f1_high"} & rows[0].keys()
    figures = [row.figures["f1"] for row in comparison.rows]
    assert [float(row["oracle_f1"]) for row in rows[:2]] == figures
    assert float(rows[1]["oracle_f1_difference"]) == pytest.approx(figures[1] - figures[0])
    assert rows[2]["oracle_f1"] == rows[1]["run"]  # the best
    assert float(rows[1]["oracle_f1_low"]) <= float(rows[1]["oracle_f1_high"])
    assert comparison_json(comparison)["rows"][0]["figures"]["f1"] == figures[0]


def test_csv_has_folders_repeats_and_settings_in_its_last_columns(sweep):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(compared(sweep)))))
    assert list(rows[0]) == ["run", "resolution", "image_auroc", "run_dir", "repeats", "seed", "students.steps"]
    assert [(row["run_dir"], row["repeats"], row["seed"], row["students.steps"]) for row in rows[:4]] == [
        (sweep[0].as_posix(), "", "0", "5"),
        (sweep[1].as_posix(), "", "1", "5"),
        (sweep[2].as_posix(), sweep[1].as_posix(), "1", "5"),
        (sweep[3].as_posix(), "", "0", "10"),
    ]
    assert [(row["run"], row["image_auroc"], row["seed"], row["students.steps"]) for row in rows[4:-1]] == [
        ("mean of 2 seeds, tile: steps=5", "0.625", "", "5"),
        ("smallest of 2 seeds, tile: steps=5", "0.5", "", "5"),
        ("largest of 2 seeds, tile: steps=5", "0.75", "", "5"),
        ("standard deviation of 2 seeds, tile: steps=5", str(np.std([0.5, 0.75], ddof=1)), "", "5"),
    ]


def test_the_json_holds_the_whole_comparison(runs, tmp_path):
    comparison = compared([*runs, tmp_path / "nowhere"], baseline=runs[0])
    content = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert content["rows"][1]["differences"]["image_auroc"] == {"value": pytest.approx(2 / 24), "interval": None}
    assert content["unusable"][0]["reason"] == "there is no such folder"
    assert content["mean"]["image_auroc"] == pytest.approx(23 / 24)
    assert content["num_averaged"]["image_auroc"] == 2
    assert content["mean_differences"]["image_auroc"]["value"] == pytest.approx(2 / 24)


def test_the_json_holds_settings_as_values_and_the_means_over_seeds(sweep):
    content = json.loads(json.dumps(comparison_json(compared(sweep)), allow_nan=False))
    assert content["settings"] == ["seed", "students.steps"]
    assert content["rows"][1]["settings"] == {"seed": 1, "students.steps": 5}
    assert content["rows"][2]["repeats"] == sweep[1].as_posix()
    assert content["seed_means"][0]["smallest"] == {"image_auroc": 0.5}
    assert content["mean"] == {}
