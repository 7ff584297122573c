"""Each command end to end: the files it leaves, what it refuses, what it skips."""

import copy
import csv
import itertools
import json
import logging
import shutil
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_below
from PIL import Image
from sklearn.metrics import roc_auc_score

import us_anomaly
from us_anomaly.cli import COMMANDS
from us_anomaly.commands import data_inputs, distill_teacher, recipes
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.run import STAGES
from us_anomaly.commands.run import run as run_all
from us_anomaly.data.images import read_mask
from us_anomaly.data.sample import parse_labels
from us_anomaly.errors import (
    ArtifactError,
    DataError,
    MissingArtifactError,
    SettingsError,
    StaleArtifactError,
    WeightsError,
)
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import content_hash, record
from us_anomaly.run_dir.staleness import state
from us_anomaly.scoring.map_files import read_map
from us_anomaly.training import distillation
from us_anomaly.training.artifacts import load_statistics


def run(command, settings):
    import_module(f"us_anomaly.commands.{COMMANDS[command].module}").run(settings)


def lines_of(run_dir):
    return [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]


def without_inside_of_report(names):
    return {"report/**" if name.startswith("report/") else name for name in names}


# --- what is written ---------------------------------------------------------------------------------------------


def new_files(stages, command):
    """The files that a stage added."""
    _, after = stages
    names = [name for name, _ in STAGES]
    before = after[names[names.index(command) - 1]] if command != names[0] else set()
    return after[command] - before


def scored_names(run_dir):
    """Names without suffix of the pictures in val and test."""
    samples = parse_labels((run_dir / "split.jsonl").read_text())
    return [sample.filename.removesuffix(".png") for sample in samples if sample.split != "train"]


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("split", {"split.jsonl", "provenance/split.jsonl.json", ".hydra/contents.json"}),
        ("distill-teacher", {"p33/teacher.pt", "p33/teacher.losses.jsonl", "provenance/p33/teacher.pt.json"}),
        ("normalize", {"p33/teacher_statistics.pt", "provenance/p33/teacher_statistics.pt.json"}),
        ("train-students", {"p33/students.pt", "p33/students.losses.jsonl", "provenance/p33/students.pt.json"}),
        ("calibrate", {"calibration.json", "provenance/calibration.json.json"}),
        ("evaluate", {"evaluation.json", "evaluation.csv", "provenance/evaluation.json.json"}),
        ("report", {"report/**", "provenance/report/index.html.json"}),
    ],
)
def test_a_command_leaves_exactly_its_files(stages, command, files):
    assert without_inside_of_report(new_files(stages, command)) == files


def test_infer_leaves_map_heatmap_and_uncertainty_of_every_picture_and_the_lists(stages):
    names = scored_names(stages[0])
    assert len(names) == 10  # 2 + 2 normal, 3 + 3 anomalous
    expected = {"predictions.jsonl", "provenance/predictions.jsonl.json"}
    expected |= {"exports/predictions.csv", "exports/regions.json"}
    for name in names:
        expected |= {f"maps/{name}.tiff", f"heatmaps/{name}.png", f"uncertainty/{name}.png"}
    assert new_files(stages, "infer") == expected


def test_no_stage_removes_or_renames_what_another_made(stages):
    names = [name for name, _ in STAGES]
    for earlier, later in itertools.pairwise(names):
        assert stages[1][earlier] < stages[1][later]


def test_the_split_is_written_in_the_schema_of_labels(trained, parts):
    lines = [json.loads(line) for line in (trained / "split.jsonl").read_text().splitlines()]
    assert len(lines) == 18
    cut = next(line for line in lines if line["filename"] == "images/cut/001.png")
    assert cut == {
        "filename": "images/cut/001.png",
        "split": cut["split"],
        "label": {"type": "anomaly", "is_anomalous": True},
        "defect_type": "cut",
        "mask_path": "masks/cut/001.png",
        "group": None,
    }
    assert cut["split"] in ("val", "test")
    counts = {split: sum(line["split"] == split for line in lines) for split in ("train", "val", "test")}
    assert counts == {"train": 8, "val": 5, "test": 5}
    assert not any(line["label"]["is_anomalous"] for line in lines if line["split"] == "train")


def test_the_teacher_is_a_checkpoint_of_tensors_and_plain_values_with_the_settings_that_made_it(trained):
    state = torch.load(trained / "p33/teacher.pt", weights_only=True)
    assert (state["patch_size"], state["descriptor_dim"], state["width"]) == (33, 8, 0.1)
    assert state["settings"]["teacher"]["steps"] == 6
    assert state["settings"]["backbone"]["layers"] == [1, 2]
    assert state["explained_variance"] < 1


def test_the_losses_of_every_step_are_written_down(trained):
    for name, terms in (("teacher", {"distillation", "compactness"}), ("students", set())):
        lines = [json.loads(line) for line in (trained / f"p33/{name}.losses.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert all(line.keys() == {"step", "loss"} | terms for line in lines)


def test_statistics_and_students_are_those_of_the_settings(trained):
    statistics = torch.load(trained / "p33/teacher_statistics.pt", weights_only=True)
    assert statistics["num_images"] == 8
    assert statistics["mean"].shape == statistics["std"].shape == (8,)
    students = torch.load(trained / "p33/students.pt", weights_only=True)
    assert (students["num_students"], students["patch_size"], students["width"]) == (2, 33, 0.1)


def test_students_learn_the_whitened_teacher_and_the_detector_scores_it(compose, tiny, trained_copy):
    settings = [*tiny(trained_copy), "teacher.whitening_floor=0.01", "overwrite=true"]
    teacher = (trained_copy / "p33/teacher.pt").stat().st_mtime_ns
    scores = {line["filename"]: line["prediction"]["anomaly_score"] for line in lines_of(trained_copy)}
    run_all(compose("run", *settings))
    statistics = us_anomaly.load(trained_copy).scales[33].statistics
    assert statistics.whitening.shape == (8, 8)
    assert (trained_copy / "p33/teacher.pt").stat().st_mtime_ns == teacher
    assert all(scores[line["filename"]] != line["prediction"]["anomaly_score"] for line in lines_of(trained_copy))


def test_a_whitening_matrix_of_another_size_is_refused(trained_copy):
    path = trained_copy / "p33/teacher_statistics.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "whitening": torch.eye(7)}, path)
    with pytest.raises(ArtifactError, match=r"whitening must be a square matrix of the length of mean"):
        load_statistics(path)


def test_the_calibration_says_on_what_it_rests(trained):
    content = json.loads((trained / "calibration.json").read_text())
    calibration = content["calibration"]
    assert (calibration["reference"], calibration["num_normal"], calibration["num_anomalous"]) == ("val", 2, 3)
    assert calibration["threshold_rule"] == "f1"
    assert [entry["name"] for entry in content["transforms"]] == ["Resize", "ToImage", "ToDtype", "Normalize"]
    assert content["scoring"]["normalization"] == "none"


def test_a_prediction_is_written_in_the_schema_of_results(trained):
    lines = [json.loads(line) for line in (trained / "predictions.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines] == [f"{name}.png" for name in scored_names(trained)]
    for line in lines:
        assert line.keys() == {"filename", "ground_truth", "prediction", "correct"}
        assert line["ground_truth"] == {"type": "anomaly", "is_anomalous": "/good/" not in line["filename"]}
        prediction = line["prediction"]
        assert prediction.keys() >= {
            "is_anomalous",
            "anomaly_score",
            "normalized_score",
            "heatmap_path",
            "uncertainty_path",
            "map_path",
        }
        assert prediction["is_anomalous"] == (prediction["normalized_score"] >= 0.5)
        assert line["correct"] == (prediction["is_anomalous"] == line["ground_truth"]["is_anomalous"])
        stem = line["filename"].removesuffix(".png")
        assert (prediction["map_path"], prediction["heatmap_path"]) == (f"maps/{stem}.tiff", f"heatmaps/{stem}.png")


def test_maps_are_float32_of_the_size_of_the_picture_and_heatmaps_are_transparent_where_it_is_normal(trained):
    most = []
    for name in scored_names(trained):
        with Image.open(trained / f"maps/{name}.tiff") as picture:
            assert (picture.mode, picture.size) == ("F", (48, 48))
        with Image.open(trained / f"heatmaps/{name}.png") as picture:
            alpha = np.array(picture.convert("RGBA"))[..., 3]
            assert picture.size == (48, 48)
            assert alpha.min() < 40
            most.append(alpha.max())
    assert max(most) > 200


def test_the_score_of_a_picture_is_the_maximum_of_its_map(trained):
    for line in (trained / "predictions.jsonl").read_text().splitlines():
        prediction = json.loads(line)["prediction"]
        with Image.open(trained / prediction["map_path"]) as picture:
            values = np.array(picture)
        assert prediction["anomaly_score"] == pytest.approx(float(values.max()), rel=1e-6)


def test_the_evaluation_holds_image_and_pixel_figures_of_the_test_pictures(trained, parts):
    evaluation = json.loads((trained / "evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN
    predictions = {line["filename"]: line["prediction"] for line in lines_of(trained)}
    samples = [sample for sample in parse_labels((trained / "split.jsonl").read_text()) if sample.split == "test"]
    found = [predictions[sample.filename] for sample in samples]
    masks = [
        read_mask(parts / sample.mask_path, max_pixels=48 * 48) if sample.mask_path else np.zeros((48, 48), bool)
        for sample in samples
    ]
    maps = [read_map(trained / prediction["map_path"]) for prediction in found]
    by_picture = [sample.is_anomalous for sample in samples], [prediction["anomaly_score"] for prediction in found]
    by_pixel = np.stack(masks).ravel(), np.stack(maps).ravel()
    for name, truth_and_scores in (("image_auroc", by_picture), ("pixel_auroc", by_pixel)):
        assert evaluation["metrics"][name] == pytest.approx(roc_auc_score(*truth_and_scores))
    with (trained / "evaluation.csv").open(newline="") as file:
        rows = [(row["group"], int(row["images"])) for row in csv.DictReader(file)]
    kinds = Counter(sample.defect_type for sample in samples if sample.is_anomalous)
    assert rows == [("all", 5), *sorted(kinds.items())]


# --- what is missing ---------------------------------------------------------------------------------------------

NEEDS = {
    "normalize": ("p33/teacher.pt", "distill-teacher"),
    "train-students": ("p33/teacher_statistics.pt", "normalize"),
    "calibrate": ("p33/students.pt", "train-students"),
    "infer": ("calibration.json", "calibrate"),
    "evaluate": ("predictions.jsonl", "infer"),
    "report": ("evaluation.json", "evaluate"),
}


@pytest.mark.parametrize("command", NEEDS)
def test_a_missing_input_names_the_command_that_makes_it(compose, tiny, trained_copy, command):
    file, maker = NEEDS[command]
    (trained_copy / file).unlink()
    (trained_copy / "provenance" / f"{file}.json").unlink()
    with pytest.raises(MissingArtifactError) as caught:
        run(command, compose(command, *tiny(trained_copy)))
    assert f"{trained_copy / file} does not exist: run `usad {maker}` first, with the same settings" in str(
        caught.value
    )


@pytest.mark.parametrize("command", [name for name, _ in STAGES if name != "split"])
def test_everything_needs_the_split_first(compose, tiny, tmp_path, command):
    with pytest.raises(MissingArtifactError, match=r"split.jsonl does not exist: run `usad split` first"):
        run(command, compose(command, *tiny(tmp_path / "empty")))
    assert not (tmp_path / "empty").exists()


# --- what is stale -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "changed", "reason"),
    [
        ("split", "seed=1", "split.jsonl was made from something else .*: it was made with seed=0, now seed=1"),
        ("split", "split.ratios=60-30-10", "it was made with split.ratios=70-15-15, now split.ratios=60-30-10"),
        ("distill-teacher", "backbone.layers=[2]", r"backbone.layers=\[1,2\], now backbone.layers=\[2\]"),
        ("distill-teacher", "teacher.descriptor_dim=9", "teacher.descriptor_dim=8, now teacher.descriptor_dim=9"),
        ("distill-teacher", "teacher.compactness_weight=0", "teacher.compactness_weight=1.0, now .*=0.0"),
        ("train-students", "students.num_students=3", "students.num_students=2, now students.num_students=3"),
    ],
)
def test_a_precious_artifact_is_not_replaced_by_one_of_other_settings(
    compose, tiny, trained_copy, command, changed, reason
):
    before = {name: (trained_copy / name).stat().st_mtime_ns for name in files_below(trained_copy)}
    with pytest.raises(StaleArtifactError, match=reason) as caught:
        run(command, compose(command, *tiny(trained_copy), changed))
    assert str(caught.value).endswith("with or another run_dir=; to make it anew, add overwrite=true")
    assert {name: (trained_copy / name).stat().st_mtime_ns for name in files_below(trained_copy)} == before


@pytest.mark.parametrize(
    ("command", "changed", "reason"),
    [
        ("distill-teacher", "seed=1", "split.jsonl was made from something else .* seed=0, now seed=1"),
        (
            "normalize",
            "teacher.learning_rate=0.5",
            "teacher.pt was made from something else .*learning_rate=0.003, now",
        ),
        ("train-students", "backbone.input_size_px=96", "teacher.pt .*backbone.input_size_px=64, now"),
        (
            "calibrate",
            "students.positions=dense",
            "students.pt .*students.positions=grid, now students.positions=dense",
        ),
        (
            "infer",
            "calibration.quantile=0.5",
            "calibration.json .*calibration.quantile=0.99, now calibration.quantile=0.5",
        ),
        ("infer", "scoring.image_score=quantile", "calibration.json .*scoring.image_score=max, now"),
        (
            "infer",
            "image_size=64",
            r"evaluation.0.params.size=\[48,48\], now .*evaluation.0.params.size=\[64,64\]",
        ),
        ("evaluate", "inference.splits=[test]", r"predictions.jsonl .*inference.splits=\[val,test\], now"),
    ],
)
def test_an_input_made_with_other_settings_is_refused_with_the_ways_out(
    compose, tiny, trained_copy, command, changed, reason
):
    with pytest.raises(StaleArtifactError, match=reason) as caught:
        run(command, compose(command, *tiny(trained_copy), changed))
    assert str(caught.value).endswith("with the settings in force and overwrite=true")


@pytest.fixture
def on_its_own(monkeypatch):
    """Let each artifact be judged by its own recipe: what it was made from is taken as it lies there."""
    for module in (recipes, data_inputs):
        monkeypatch.setattr(module, "require", lambda run_dir, artifact, recipe: content_hash(artifact))


@pytest.mark.parametrize(
    ("file", "recipe_of", "changed", "key"),
    [
        ("p33/teacher_statistics.pt", lambda known: known.statistics(33), "image_size=64", "augmentation.evaluation"),
        ("p33/students.pt", lambda known: known.students(33), "image_size=64", "augmentation.students"),
        ("p33/students.pt", lambda known: known.students(33), "seed=1", "seed"),
        (
            "p33/position_statistics.pt",
            lambda known: known.position_statistics(33),
            "image_size=64",
            "augmentation.evaluation",
        ),
        ("calibration.json", lambda known: known.calibration, "image_size=64", "augmentation.evaluation"),
    ],
)
def test_an_artifact_is_stale_by_the_settings_it_was_made_with_whatever_it_rests_on(
    compose, tiny, trained_copy, on_its_own, file, recipe_of, changed, key
):
    before, after = (recipe_of(Recipes(compose("calibrate", *tiny(trained_copy), *more))) for more in ([], [changed]))
    run_dir, artifact = RunDir(trained_copy), trained_copy / file
    artifact.touch()
    record(run_dir, artifact, before, seconds=1)
    assert state(run_dir, artifact, before) == ("current", "")
    condition, reason = state(run_dir, artifact, after)
    assert condition == "stale"
    assert reason.startswith(f"it was made with {key}")


def test_other_weights_of_the_backbone_make_another_teacher(compose, tiny, trained_copy, resnet18_weights, tmp_path):
    state = torch.load(resnet18_weights, weights_only=True)
    torch.save({name: tensor * 2 for name, tensor in state.items()}, tmp_path / "other.pt")
    settings = compose("normalize", *tiny(trained_copy), f"backbone.weights={tmp_path / 'other.pt'}")
    with pytest.raises(StaleArtifactError, match=r"it was made from another backbone.weights"):
        run("normalize", settings)


def test_weights_that_change_in_their_place_have_another_hash(compose, tiny, trained_copy, resnet18_weights, tmp_path):
    own = Path(shutil.copy(resnet18_weights, tmp_path / "own.pt"))
    settings = compose("normalize", *tiny(trained_copy), f"backbone.weights={own}")
    before = Recipes(settings).teacher(33).inputs["backbone.weights"]
    own.write_bytes(own.read_bytes()[::-1])
    assert Recipes(settings).teacher(33).inputs["backbone.weights"] == content_hash(own) != before


def test_a_picture_more_or_less_makes_another_split(compose, tiny, trained_copy, parts, tmp_path):
    root = shutil.copytree(parts, tmp_path / "parts")
    shutil.copy(root / "images/good/000.png", root / "images/good/100.png")
    original = compose("train-students", *tiny(trained_copy))
    original.data.root = str(root)
    with pytest.raises(
        StaleArtifactError, match=r"split.jsonl .*data.root=.*; it was made from another list of pictures"
    ):
        run("train-students", original)


@pytest.mark.parametrize(
    ("file", "command", "maker"),
    [("p33/teacher.pt", "normalize", "distill-teacher"), ("split.jsonl", "calibrate", "split")],
)
def test_an_artifact_that_was_changed_by_hand_is_refused(compose, tiny, trained_copy, file, command, maker):
    with (trained_copy / file).open("ab") as changed:
        changed.write(b"\n")
    with pytest.raises(StaleArtifactError) as caught:
        run(command, compose(command, *tiny(trained_copy)))
    assert "the file was changed after it was made" in str(caught.value)
    assert f"to make it anew, run `usad {maker}` with the settings in force and overwrite=true" in str(caught.value)


def test_what_finished_students_learned_from_is_not_made_anew_under_them(compose, tiny, trained_copy):
    """A forgotten setting in `usad run` would replace it, refuse the students and leave a detector that cannot be loaded."""
    before = {name: (trained_copy / name).read_bytes() for name in files_below(trained_copy)}
    with pytest.raises(StaleArtifactError, match=r"p33/teacher_statistics\.pt was made from something else"):
        run("run", compose("run", *tiny(trained_copy), "teacher.whitening_floor=0.5"))
    assert {name: (trained_copy / name).read_bytes() for name in files_below(trained_copy)} == before
    us_anomaly.load(trained_copy)
    (trained_copy / "p33/students.pt").unlink()
    run("normalize", compose("normalize", *tiny(trained_copy), "teacher.whitening_floor=0.5"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augmentation.students=[{name: RandomHorizontalFlp, params: {}}]", "RandomHorizontalFlp"),
        ("augmentation.evaluation=[{name: RandomHorizontalFlip, params: {}}]", "is random"),
        ("augmentation.teacher=[{name: RandomCrp, params: {}}]", "RandomCrp"),
        ("tracking=mlflow", "tracking=mlflow"),
    ],
)
def test_what_a_later_stage_would_refuse_is_told_before_pictures_are_read(
    compose, tiny, tmp_path, monkeypatch, override, said
):
    monkeypatch.setattr("us_anomaly.reporting.trackers.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=said):
        run_all(compose("run", *tiny(tmp_path / "run", "teacher.positions=patches", override)))
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("command", ["distill-teacher", "infer"])
def test_a_forgotten_patch_size_is_told_from_a_stage_that_was_not_run(compose, tiny, trained_copy, command):
    (trained_copy / "p33").rename(trained_copy / "p66")
    made = rf"but {trained_copy} was made with scales=\[66\]: give all settings it was made with, such as experiment="
    if command == "infer":
        with pytest.raises(
            MissingArtifactError, match=rf"p33/teacher\.pt does not exist, {made}; else run `usad distill-t"
        ):
            run(command, compose(command, *tiny(trained_copy)))
    else:
        run(command, compose(command, *tiny(trained_copy)))  # somebody may want another patch size
        assert (trained_copy / "p33/teacher.pt").exists()


def test_a_setting_that_came_later_is_told_with_the_value_it_had(compose, tiny, trained_copy):
    said = "it was made with students.optimizer=adam, now students.optimizer=muon"
    with pytest.raises(StaleArtifactError, match=said):
        run("train-students", compose("train-students", *tiny(trained_copy), "students.optimizer=muon"))


def test_overwrite_replaces_and_what_follows_is_made_again(compose, tiny, trained_copy):
    settings = compose("run", *tiny(trained_copy), "students.num_students=1", "overwrite=true")
    threshold = json.loads((trained_copy / "calibration.json").read_text())["calibration"]["image_threshold"]
    teacher = (trained_copy / "p33/teacher.pt").stat().st_mtime_ns
    run_all(settings)
    assert torch.load(trained_copy / "p33/students.pt", weights_only=True)["num_students"] == 1
    assert json.loads((trained_copy / "calibration.json").read_text())["calibration"]["image_threshold"] != threshold
    assert (trained_copy / "p33/teacher.pt").stat().st_mtime_ns == teacher


# --- what is up to date ------------------------------------------------------------------------------------------


def test_run_again_says_each_stage_and_makes_nothing(compose, tiny, trained_copy, caplog):
    caplog.set_level(logging.INFO)
    before = {name: (trained_copy / name).stat().st_mtime_ns for name in files_below(trained_copy)}
    run_all(compose("run", *tiny(trained_copy)))
    assert {name: (trained_copy / name).stat().st_mtime_ns for name in files_below(trained_copy)} == before
    messages = [record.getMessage() for record in caplog.records]
    for number, (name, _) in enumerate(STAGES, start=1):
        position = messages.index(f"[{number}/{len(STAGES)}] {name}")
        assert messages[position + 1].endswith("is up to date")
    assert messages[-1].startswith("done in ")


def test_a_cheap_artifact_of_other_settings_is_made_again_with_the_reason(compose, tiny, trained_copy, caplog):
    caplog.set_level(logging.INFO)
    students = (trained_copy / "p33/students.pt").stat().st_mtime_ns
    run_all(compose("run", *tiny(trained_copy), "calibration.threshold=quantile"))
    text = caplog.text
    assert "calibration.json is made again: it was made with calibration.threshold=f1, now" in text
    assert "predictions.jsonl is made again: it was made from another calibration.json" in text
    assert "evaluation.json is made again: it was made from another predictions.jsonl" in text
    assert json.loads((trained_copy / "calibration.json").read_text())["calibration"]["threshold_rule"] == "quantile"
    assert (trained_copy / "p33/students.pt").stat().st_mtime_ns == students


@pytest.mark.parametrize("changed", ["runtime.num_workers=0", "runtime.progress=true", "checkpoint.every_steps=2"])
def test_settings_that_change_no_result_make_nothing_again(compose, tiny, trained_copy, changed):
    students = (trained_copy / "p33/students.pt").stat().st_mtime_ns
    run_all(compose("run", *tiny(trained_copy), changed))
    assert (trained_copy / "p33/students.pt").stat().st_mtime_ns == students


def test_predictions_that_lost_a_map_are_made_again(compose, tiny, trained_copy):
    lost = trained_copy / f"maps/{scored_names(trained_copy)[0]}.tiff"
    lost.unlink()
    run("infer", compose("infer", *tiny(trained_copy)))
    assert lost.is_file()


def test_overwrite_scores_everything_again(compose, tiny, trained_copy):
    damaged = trained_copy / f"maps/{scored_names(trained_copy)[0]}.tiff"
    expected = damaged.read_bytes()
    damaged.write_bytes(bytes(len(expected)))  # of the same size, so that nothing notices
    run("infer", compose("infer", *tiny(trained_copy), "overwrite=true"))
    assert damaged.read_bytes() == expected


def test_a_lost_table_of_the_evaluation_is_written_again(compose, tiny, trained_copy):
    (trained_copy / "evaluation.csv").unlink()
    run("evaluate", compose("evaluate", *tiny(trained_copy)))
    assert (trained_copy / "evaluation.csv").is_file()


def test_the_same_settings_and_seed_give_the_same_files(compose, tiny, trained, tmp_path):
    again = tmp_path / "again"
    run_all(compose("run", *tiny(again)))
    for name in ("split.jsonl", "p33/teacher.pt", "p33/students.pt", "predictions.jsonl", "evaluation.json"):
        assert (again / name).read_bytes() == (trained / name).read_bytes(), name


# --- the teacher -------------------------------------------------------------------------------------------------


def test_a_teacher_that_did_not_learn_is_reported_loudly(compose, tiny, trained, tmp_path, caplog):
    shutil.copytree(trained, tmp_path / "run")
    overrides = ["teacher.min_explained_variance=1", "teacher.steps=1", "overwrite=true"]
    run("distill-teacher", compose("distill-teacher", *tiny(tmp_path / "run"), *overrides))
    assert "THE TEACHER DID NOT LEARN: it explains" in caplog.text
    assert "less than teacher.min_explained_variance=1" in caplog.text


@pytest.fixture
def distillations(monkeypatch):
    """Return the distillations of the teachers that a test makes, each with a copy of its state before the first step."""
    made = []
    genuine = distill_teacher.distil

    def distil(distilled, *arguments, **others):
        made.append((distilled, copy.deepcopy(distilled.trained.state_dict())))
        return genuine(distilled, *arguments, **others)

    monkeypatch.setattr(distill_teacher, "distil", distil)
    monkeypatch.setattr(distillation, "NUM_STATISTICS_BATCHES", 2)
    monkeypatch.setattr(distillation, "NUM_HELD_OUT_BATCHES", 1)
    return made


def test_every_weight_of_the_teacher_and_of_its_decoder_learns(compose, tiny, trained_copy, distillations):
    run("distill-teacher", compose("distill-teacher", *tiny(trained_copy), "teacher.steps=2", "overwrite=true"))
    ((distilled, start),) = distillations
    learned = dict(distilled.trained.named_parameters())
    assert {name.partition(".")[0] for name in learned} == {"teacher", "decoder"}
    assert not [name for name, weight in learned.items() if torch.equal(weight, start[name])]


def test_the_seed_decides_the_first_weights_of_teacher_and_decoder(compose, tiny, tmp_path, distillations):
    for seed in (0, 1):
        overrides = (f"seed={seed}", "teacher.images=procedural", "teacher.steps=1", "teacher.cache=false")
        run("distill-teacher", compose("distill-teacher", *tiny(tmp_path / str(seed)), *overrides))
    (_, one), (_, other) = distillations
    drawn = [name for name in one if name.endswith("weight")]  # a bias begins at zero
    assert {name.partition(".")[0] for name in drawn} == {"teacher", "decoder"}
    assert not [name for name in drawn if torch.equal(one[name], other[name])]


def test_a_teacher_made_elsewhere_is_taken_over(compose, tiny, trained, tmp_path):
    settings = compose("run", *tiny(tmp_path / "run"), f'teacher.checkpoint="{trained}/p{{patch_size}}/teacher.pt"')
    run("split", settings)
    run("distill-teacher", settings)
    made, taken = (torch.load(folder / "p33/teacher.pt", weights_only=True) for folder in (trained, tmp_path / "run"))
    assert all(torch.equal(taken["network"][name], tensor) for name, tensor in made["network"].items())
    assert "p33/teacher.losses.jsonl" not in files_below(tmp_path / "run")


def test_another_file_of_that_name_makes_the_teacher_stale(compose, tiny, trained, tmp_path):
    checkpoint = tmp_path / "teacher.pt"
    shutil.copy(trained / "p33/teacher.pt", checkpoint)
    settings = compose("run", *tiny(tmp_path / "run"), f"teacher.checkpoint={checkpoint}")
    run("split", settings)
    run("distill-teacher", settings)
    state = torch.load(checkpoint, weights_only=True)
    state["network"]["layers.0.bias"] += 1
    torch.save(state, checkpoint)
    with pytest.raises(StaleArtifactError, match=r"it was made from another teacher.checkpoint"):
        run("normalize", settings)


def test_a_teacher_of_another_patch_size_is_refused(compose, tiny, trained, tmp_path):
    overrides = [f"teacher.checkpoint={trained}/p33/teacher.pt", "scales=[17]"]
    settings = compose("run", *tiny(tmp_path / "run"), *overrides)
    run("split", settings)
    with pytest.raises(ArtifactError, match=r"is a teacher for patches of 33 pixels, scales asks for 17"):
        run("distill-teacher", settings)


def test_a_teacher_that_is_not_there_is_named(compose, tiny, tmp_path):
    settings = compose("run", *tiny(tmp_path / "run"), "teacher.checkpoint=nowhere/teacher.pt")
    run("split", settings)
    with pytest.raises(DataError, match=r"`teacher.checkpoint`: there is no file nowhere/teacher.pt"):
        run("distill-teacher", settings)


def test_weights_that_are_not_there_are_named_before_pictures_are_read(compose, tiny, tmp_path):
    settings = compose("run", *tiny(tmp_path / "run"), f"backbone.weights={tmp_path}/resnet18.pth")
    with pytest.raises(WeightsError, match=r"^`backbone.weights`: there is no file .*/resnet18.pth$"):
        run_all(settings)
    assert not (tmp_path / "run/split.jsonl").exists()


def test_a_teacher_can_learn_from_patches(compose, tiny, tmp_path):
    overrides = ["teacher.positions=patches", "teacher.steps=2", "teacher.metric_weight=0.5", "image_size=64"]
    settings = compose("run", *tiny(tmp_path / "run"), *overrides)
    run("split", settings)
    run("distill-teacher", settings)
    lines = (tmp_path / "run/p33/teacher.losses.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]).keys() == {"step", "loss", "distillation", "compactness", "metric"}


def test_a_teacher_of_generic_pictures_needs_no_split(compose, tiny, tmp_path):
    overrides = ["teacher.images=generic", "teacher.steps=1"]
    run("distill-teacher", compose("distill-teacher", *tiny(tmp_path / "run"), *overrides))
    assert "p33/teacher.pt" in files_below(tmp_path / "run")


def test_a_mask_that_is_corrected_makes_another_evaluation(compose, tiny, trained_copy, parts, tmp_path):
    root = shutil.copytree(parts, tmp_path / "parts")
    settings = compose("run", *tiny(trained_copy), f"data.root={root}", "overwrite=true")
    run("split", settings)
    before = Recipes(settings).data.test_masks
    assert list(before) == ["masks of the test pictures"]
    for mask in (root / "masks/cut").iterdir():
        mask.write_bytes(mask.read_bytes() + b" ")
    assert Recipes(settings).data.test_masks != before
    for mask in (root / "masks/cut").iterdir():
        mask.unlink()
    assert list(Recipes(settings).data.test_masks) == [
        "masks of the test pictures"
    ]  # who reads them tells that they are gone


def test_what_only_the_last_stages_would_refuse_is_refused_first(compose, tiny, trained_copy, tmp_path):
    with pytest.raises(SettingsError, match=r"`inference.splits` must hold test, which `usad run` evaluates"):
        run("run", compose("run", *tiny(trained_copy), "inference.splits=[val]"))
    with pytest.raises(DataError, match="the test split holds no image"):
        run("run", compose("run", *tiny(tmp_path / "other"), "split.ratios=70-30-0"))
    assert not (tmp_path / "other/p33").exists()


def test_calibration_is_made_anew_when_asked_for(compose, tiny, trained_copy):
    before = (trained_copy / "calibration.json").stat().st_mtime_ns
    run("calibrate", compose("calibrate", *tiny(trained_copy)))
    assert (trained_copy / "calibration.json").stat().st_mtime_ns == before
    run("calibrate", compose("calibrate", *tiny(trained_copy), "overwrite=true"))
    assert (trained_copy / "calibration.json").stat().st_mtime_ns != before
