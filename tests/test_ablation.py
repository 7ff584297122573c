"""The study of single changes: its rows, its tables, the scores it tries, and a tiny one from end to end."""

import dataclasses
import itertools
import json
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image
from plain_scores import scoring

from us_anomaly.data.synthetic_defects import KINDS
from us_anomaly.errors import DataError
from us_anomaly.run_dir import RunDir
from us_anomaly.settings import Normalization
from us_anomaly.settings.plain import plain

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def _scripts_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


# --- rows --------------------------------------------------------------------------------------------------------


def settings_of_rows(compose, rows):
    from ablations.rows import overrides_of, row_changes

    return {row.name: plain(compose("run", "data.root=x", *overrides_of(row_changes(row)))) for row in rows}


def differences(one, other, prefix=""):
    """Return the dotted keys in which two settings differ."""
    found = set()
    for key in one.keys() | other.keys():
        first, second = one.get(key), other.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            found |= differences(first, second, f"{prefix}{key}.")
        elif first != second:
            found.add(f"{prefix}{key}")
    return found


def test_the_path_begins_with_the_method_as_described_and_ends_with_the_recipe_that_finds_most(compose):
    """Where it ends elsewhere, `experiment=accurate` was changed: give that change a row in scripts/ablations/rows.py."""
    from ablations.rows import PATH

    rows = settings_of_rows(compose, PATH)
    described = plain(compose("run", "data.root=x", "experiment=as_described", "backbone=efficientnet_lite0"))
    assert rows["as_described"] == described
    before = rows[PATH[-2].name]
    ignored = {key for key in differences(before, rows["accurate"]) if key.startswith(("backbone", "teacher"))}
    assert before["teacher"]["checkpoint"] == rows["accurate"]["teacher"]["checkpoint"] == "builtin"
    changed = differences(before, rows["accurate"]) - ignored - {"students.epochs"}
    assert changed == {"scoring.smoothing_sigma_px"}


def test_every_row_changes_something_in_the_row_it_starts_from(compose):
    from ablations.rows import ALONE, PATH

    rows = settings_of_rows(compose, (*PATH, *ALONE))
    assert len(rows) == len(PATH) + len(ALONE)
    starts = {row.name: row.start or before.name for before, row in itertools.pairwise(PATH)}
    starts |= {row.name: row.start for row in ALONE}
    assert [name for name, start in starts.items() if not differences(rows[name], rows[start])] == []


# --- scores ------------------------------------------------------------------------------------------------------

OWN = scoring(normalization=Normalization.zscore, stride_px=4, smoothing_sigma_px=3.0, image_score_fraction=0.001)


def test_choosing_runs_what_a_row_needs_and_never_the_stages_that_see_the_test_split(tmp_path):
    from ablations.rows import ALONE, PATH
    from ablations.study import Study

    study = Study(rows=(), data={"drawn": tmp_path}, seeds=(0,), work=tmp_path, extra={})
    rows = {row.name: study.stages(row, "drawn") for row in (*PATH, *ALONE) if row.name in ("layers", "finetuned")}
    usual = ["split", "distill-teacher", "normalize", "train-students", "calibrate"]
    assert rows == {"layers": usual, "finetuned": ["split", "finetune-backbone", *usual[1:]]}


def test_scores_are_tried_with_one_axis_changed_at_a_time_the_own_ones_first():
    from ablations.synthetic_scores import AXES, score_variants

    variants = score_variants(OWN, is_crossed=False)
    assert variants[0] == OWN
    for variant in variants[1:]:
        assert sum(axis.label(variant) != axis.label(OWN) for axis in AXES) == 1
    tried = {axis.title: [axis.label(variant) for variant in variants] for axis in AXES}
    assert set(tried["normalization"]) == {"none", "zscore", "quantile"}
    assert set(tried["map"]) == {"error + uncertainty", "error", "uncertainty"}
    assert set(tried["smoothing"]) == {"3 px", "0 px", "2 px", "4 px", "8 px"}
    assert {"maximum", "mean of the top 1 %", "quantile at the top 0.1 %"} < set(tried["image score"])


def test_all_combinations_are_tried_once():
    from ablations.synthetic_scores import AXES, score_variants

    own = dataclasses.replace(OWN, smoothing_sigma_px=4.0)
    variants = score_variants(own, is_crossed=True)
    labels = {tuple(axis.label(variant) for axis in AXES) for variant in variants}
    possible = [
        len(axis.options) for axis in AXES if axis.title != "positions"
    ]  # the run knows nothing about positions
    assert len(variants) == len(labels) == np.prod(possible)


def test_a_run_that_knows_its_positions_is_also_tried_without_but_not_with_those_of_another_border():
    from ablations.synthetic_scores import score_variants

    own = dataclasses.replace(OWN, per_position=True, border_px=8)
    variants = score_variants(own, is_crossed=False)
    assert dataclasses.replace(own, per_position=False) in variants
    assert {variant.border_px for variant in variants if variant.per_position} == {8}
    crossed = score_variants(own, is_crossed=True)
    assert {variant.border_px for variant in crossed if not variant.per_position} == {0, 8, 16, 32}


def test_scores_made_again_from_raw_maps_are_those_of_the_detector(trained, tmp_path, capsys):
    from ablation import main
    from ablations.synthetic_scores import AXES, FIGURES, choose_figures

    runtime = {"device": "cpu", "precision": "float32", "num_threads": 1}
    chosen = choose_figures(RunDir(trained), tmp_path, runtime=runtime)
    given = [f"runtime.{key}={value}" for key, value in runtime.items()]
    assert main(["--scores", str(trained), "--work", str(tmp_path), "--set", *given]) == 0
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert rows[0]["figures"] == pytest.approx({name: chosen[name] for name in FIGURES}, abs=1e-6)
    assert len({tuple(row["figures"].values()) for row in rows}) > 5
    kinds = [name for name in chosen if name.startswith("image_auroc, ")]
    assert kinds == [f"image_auroc, {kind}" for kind in sorted(KINDS)]
    table = capsys.readouterr().out
    assert table == (tmp_path / "scores.md").read_text()
    assert table.startswith("| patch sizes | " + " | ".join(axis.title for axis in AXES) + " | image AUROC | ")
    assert len(table.splitlines()) == len(rows) + 2


def test_a_run_without_held_back_normal_pictures_is_refused(trained_copy, tmp_path):
    from ablations.synthetic_scores import synthetic_samples

    run_dir = RunDir(trained_copy)
    run_dir.split.write_text(run_dir.split.read_text().replace('"val"', '"test"'))
    with pytest.raises(DataError, match=r"validation has no normal picture, and the others were trained on"):
        synthetic_samples(run_dir, tmp_path)


# --- tables ------------------------------------------------------------------------------------------------------


def test_the_table_tells_mean_smallest_and_largest_over_seeds():
    from ablation import _record
    from ablations.rows import PATH
    from ablations.tables import study_markdown

    figures = {0: {"image_auroc": 0.7}, 1: {"image_auroc": 0.8}, 2: {"image_auroc": 0.96, "aupro_0.3": 0.5}}
    text = study_markdown([_record(PATH[-1], "tiles", figures, [60.0, 120.0, 180.0])])
    assert text.splitlines()[0] == "`tiles`, mean of seeds 0, 1, 2 (smallest to largest):"
    row = text.splitlines()[-1]
    assert row.startswith("| `accurate`: maps smoothed")
    assert row.endswith(" | 0.820 (0.700 to 0.960) | – | – | – | 0.500 | 2.0 min |")


def test_paths_reach_hydra_as_they_are():
    from ablations.study import quoted
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for path in ("/a b/c,d=[1]", '/quote"d', "/trailing"):
        parsed = OverridesParser.create().parse_override(f"data.root={quoted(path)}")
        assert parsed.value() == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the data sets: --data NAME=DIR"),
        (["--data", "tiles"], "'tiles' must have the form NAME=VALUE"),
        (["--data", "a=b", "--rows", "acurate"], "there is no row acurate; the rows are as_described, grid, "),
    ],
)
def test_wrong_arguments_are_told(arguments, message, capsys):
    from ablation import parsed

    with pytest.raises(SystemExit):
        parsed(arguments)
    assert message in capsys.readouterr().err


# --- from end to end ---------------------------------------------------------------------------------------------


@pytest.fixture
def category(tmp_path):
    """Draw a category in the layout of MVTec AD."""
    rng = np.random.default_rng(5)
    root = tmp_path / "a, category"
    for folder, count in (("train/good", 8), ("test/good", 3), ("test/hole", 3)):
        for number in range(count):
            picture = rng.integers(90, 160, (64, 64, 3), dtype=np.uint8)
            mask = np.zeros((64, 64), dtype=np.uint8)
            if folder == "test/hole":
                mask[20:36, 30:44] = 255
                picture[mask > 0] = 0
                (root / "ground_truth/hole").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/hole/{number:03}_mask.png")
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / folder / f"{number:03}.png")
    return root


def call(*arguments):
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import ablation; sys.exit(ablation.main())"
    result = forked.run(code, *map(str, arguments))
    assert result.returncode == 0, result.stderr
    return result


def trained_alone(run_dir, size):
    """Write what a training of one patch size leaves, without any meaning."""
    artifacts = [run_dir.split, run_dir.teacher(size), run_dir.teacher_statistics(size), run_dir.students(size)]
    for path in (*artifacts, *map(run_dir.provenance, artifacts)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.relative_to(run_dir.root)} of {run_dir.root}")


def test_a_row_takes_over_each_patch_size_that_another_trained(tmp_path):
    from ablations.rows import ALONE, PATH
    from ablations.study import Study, take_over

    row = {each.name: each for each in (*PATH, *ALONE)}
    study = Study(rows=PATH, data={"tiles": tmp_path / "tiles"}, seeds=[0], work=tmp_path, extra={})
    for name, size in (("longer", 33), ("larger_patches", 65), ("whitened", 33), ("deeper", 66)):
        trained_alone(study.run_dir(row[name], "tiles", 0), size)
    take_over(study, row["scales"], "tiles")
    taken = study.run_dir(row["scales"], "tiles", 0)
    for size, name in ((33, "longer"), (65, "larger_patches")):
        source = study.run_dir(row[name], "tiles", 0)
        for path in (source.students(size), source.provenance(source.students(size))):
            assert (taken.root / path.relative_to(source.root)).read_bytes() == path.read_bytes()
    assert taken.teacher(66).exists()  # students of another depth learned from the same teacher
    assert not taken.students(66).exists()
    take_over(study, row["one_scale"], "tiles")
    alone = study.run_dir(row["one_scale"], "tiles", 0)
    assert alone.students(33).exists()
    assert alone.patch_sizes == [33]


@pytest.mark.usefixtures("as_a_new_process")
def test_a_sweep_that_fails_ends_with_its_status_however_many_went_before(tmp_path, monkeypatch, capsys):
    from ablations.study import usad

    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert usad("split", "-m", "data.root=nowhere", "seed=0", "hydra.sweep.dir=sweep") == 1
        assert "1 of the jobs failed" in capsys.readouterr().err


def test_a_tiny_study_chooses_without_the_test_split_and_reports_without_training_again(category, tmp_path):
    work = tmp_path / "work"
    arguments = ("--quick", "--data", f"drawn={category}", "--work", work, "--set", "runtime.device=cpu")
    chosen = call("--choose", *arguments)
    runs = [work / "drawn" / name / "seed0" for name in ("top", "accurate")]
    assert chosen.stdout == (work / "choose.md").read_text()
    assert [line.split("`")[1] for line in chosen.stdout.splitlines()[-2:]] == ["top", "accurate"]
    assert not any((run / "predictions.jsonl").exists() for run in runs)
    students = [(run / "p66/students.pt").read_bytes() for run in runs]
    notes = [json.loads((run / "provenance/p66/students.pt.json").read_text())["made_at"] for run in runs]
    assert students[0] == students[1]
    assert notes[0] == notes[1]  # the second row differs in its scores only: it took over the training

    tested = call(*arguments)
    assert [(run / "p66/students.pt").read_bytes() for run in runs] == students
    content = json.loads((work / "test.json").read_text())
    assert [row["row"] for row in content["rows"]] == ["top", "accurate"]
    evaluation = json.loads((runs[1] / "evaluation.json").read_text())["metrics"]
    assert content["rows"][1]["figures"]["aupro_0.3"]["mean"] == evaluation["aupro_0.3"]
    assert tested.stdout == (work / "test.md").read_text()
    assert tested.stdout != chosen.stdout
