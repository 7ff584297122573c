import shutil

import numpy as np
import pytest
from compared_runs import rewrite_note, write_run

from us_anomaly.reporting.comparison import compare
from us_anomaly.reporting.comparison_cells import comparison_notes
from us_anomaly.reporting.comparison_formats import comparison_csv, comparison_json
from us_anomaly.reporting.run_collection import collect_runs


def compared(folders, *, baseline=None):
    references = collect_runs([baseline])[0] if baseline else []
    return compare(*collect_runs(folders), baseline=references)


def grid(tmp_path, *jobs):
    """Write runs from category, AUROC and settings."""
    return [
        write_run(tmp_path / f"{n}-{category}", category=category, metrics={"image_auroc": auroc}, settings=settings)
        for n, (category, auroc, settings) in enumerate(jobs)
    ]


def figures(means):
    return {mean.called("mean"): pytest.approx(mean.figures["image_auroc"]) for mean in means}


SEEDS = [("tile", 0.7, {"seed": 0}), ("tile", 0.9, {"seed": 1}), ("leather", 0.4, {"seed": 0})]


def test_rows_that_differ_by_their_seed_only_have_mean_smallest_and_largest(tmp_path):
    (mean,) = compared(grid(tmp_path, *SEEDS)).seed_means
    assert mean.of == "2 seeds, tile"
    assert mean.rows == ["tile: seed=0", "tile: seed=1"]
    assert mean.figures["image_auroc"] == pytest.approx(0.8)
    assert (mean.smallest, mean.largest) == ({"image_auroc": 0.7}, {"image_auroc": 0.9})
    assert mean.deviations["image_auroc"] == pytest.approx(np.std([0.7, 0.9], ddof=1))
    assert (mean.called("mean"), mean.called("smallest")) == ("mean of 2 seeds, tile", "smallest of 2 seeds, tile")


def test_each_data_set_counts_once_in_the_mean_however_many_seeds_it_has(tmp_path):
    comparison = compared(grid(tmp_path, *SEEDS))
    assert figures(comparison.means) == {"mean": (0.8 + 0.4) / 2}
    assert "In a mean over data sets each counts once, with the mean of its runs." in comparison_notes(comparison)


def test_the_mean_over_data_sets_has_its_spread_over_the_seeds_that_all_of_them_have(tmp_path):
    jobs = [("tile", 0.1, 0), ("tile", 0.5, 1), ("tile", 0.6, 2), ("leather", 0.3, 0), ("leather", 0.9, 1)]
    comparison = compared(grid(tmp_path, *((category, auroc, {"seed": seed}) for category, auroc, seed in jobs)))
    (mean,) = comparison.means
    assert mean.figures["image_auroc"] == pytest.approx((0.4 + 0.6) / 2)  # of all runs
    assert mean.smallest["image_auroc"] == pytest.approx((0.1 + 0.3) / 2)
    assert mean.largest["image_auroc"] == pytest.approx((0.5 + 0.9) / 2)
    assert mean.deviations["image_auroc"] == pytest.approx(np.std([0.2, 0.7], ddof=1))
    assert any(
        note.startswith("Smallest and largest of a mean over data sets") for note in comparison_notes(comparison)
    )
    assert "standard deviation," in comparison_csv(comparison)


def test_a_single_seed_has_no_spread(tmp_path):
    comparison = compared(grid(tmp_path, *SEEDS))
    (mean,) = comparison.means
    assert mean.smallest == mean.largest == mean.deviations == {}
    assert not any("one seed" in note for note in comparison_notes(comparison))


def test_rows_that_differ_by_a_setting_are_not_averaged(tmp_path):
    jobs = [("tile", 0.7, {"students.num_students": 1}), ("tile", 0.9, {"students.num_students": 2})]
    comparison = compared(grid(tmp_path, *jobs))
    assert comparison.seed_means == []
    assert comparison.means == []
    assert comparison_json(comparison)["mean"] == {}


def test_each_combination_of_settings_has_its_own_means(tmp_path):
    one, two = {"students.num_students": 1}, {"students.num_students": 2}
    jobs = [
        ("tile", 0.1, {**one, "seed": 0}),
        ("tile", 0.2, {**one, "seed": 1}),
        ("tile", 0.3, two),
        ("leather", 0.4, one),
        ("leather", 0.5, two),
        ("wood", 0.6, {"students.num_students": 3}),
    ]
    comparison = compared(grid(tmp_path, *jobs))
    assert figures(comparison.seed_means) == {"mean of 2 seeds, tile: num_students=1": 0.15}
    assert figures(comparison.means) == {
        "mean of 2 data sets: num_students=1": (0.15 + 0.4) / 2,
        "mean of 2 data sets: num_students=2": (0.3 + 0.5) / 2,
    }
    assert [mean.settings for mean in comparison.means] == [{"students.num_students": n} for n in (1, 2)]


def test_one_run_of_each_data_set_makes_one_mean_whatever_their_settings(tmp_path):
    jobs = [("tile", 0.7, {"students.steps": 5, "seed": 3}), ("leather", 0.9, {"students.steps": 6, "seed": 3})]
    comparison = compared(grid(tmp_path, *jobs))
    assert figures(comparison.means) == {"mean": 0.8}
    assert comparison.means[0].settings == {}
    assert comparison_json(comparison)["mean"] == comparison.means[0].figures


def test_a_repeated_run_is_in_no_mean_and_never_the_best(tmp_path):
    jobs = [("tile", 0.7, {"seed": 0}), ("tile", 0.9, {"seed": 1}), ("tile", 0.9, {"seed": 1})]
    comparison = compared(grid(tmp_path, *jobs))
    assert [len(mean.rows) for mean in comparison.seed_means] == [2]
    assert comparison.seed_means[0].figures["image_auroc"] == pytest.approx(0.8)
    assert comparison.best["image_auroc"] == [comparison.rows[1].name]


def test_a_seed_that_is_there_twice_is_not_called_a_seed(tmp_path):
    jobs = [("tile", 0.7, {}), ("tile", 0.8, {"data.root": "/elsewhere"})]
    assert figures(compared(grid(tmp_path, *jobs)).seed_means) == {"mean of 2 runs, tile": 0.75}


def test_runs_of_unknown_settings_are_averaged_with_no_other_of_their_data_set(tmp_path):
    runs = grid(tmp_path, ("tile", 0.7, {}), ("tile", 0.9, {}), ("leather", 0.8, {}))
    for run in runs[:2]:
        shutil.rmtree(run / "provenance")
    comparison = compared(runs)
    assert comparison.seed_means == []
    assert comparison.means == []


def test_means_of_settings_that_labels_do_not_show_have_names_of_their_own(tmp_path):
    bits = [dict(zip("abcd", f"{n:04b}", strict=True)) for n in (*range(16),)]
    jobs = [
        ("tile", 0.5, {f"scoring.{letter}": int(bit) for letter, bit in one.items()} | {"seed": seed})
        for one in bits
        for seed in (0, 1)
    ]
    means = compared(grid(tmp_path, *jobs)).seed_means
    assert len({mean.of for mean in means}) == len(means) == 16
    assert means[0].of.endswith("(scoring.a=0, scoring.b=0, scoring.c=0, scoring.d=0)")


def test_the_best_is_the_best_of_its_data_set(tmp_path):
    jobs = [*SEEDS, ("leather", 0.3, {"seed": 1}), ("wood", 1.0, {"seed": 0})]
    assert compared(grid(tmp_path, *jobs)).best["image_auroc"] == ["tile: seed=1", "leather: seed=0"]


def test_figures_that_some_runs_lack_are_said_in_one_line_for_each_mean(tmp_path):
    runs = [
        write_run(tmp_path / str(seed), settings={"seed": seed}, metrics=metrics)
        for seed, metrics in enumerate([{"image_auroc": 0.5, "f1": 0.5}, {}, {"image_auroc": 0.7, "f1": 0.5}])
    ]
    comparison = compared(runs)
    assert comparison.seed_means[0].figures["image_auroc"] == pytest.approx(0.6)
    assert comparison_notes(comparison) == ["mean of 3 seeds, tile: only 2 of 3 runs have image AUROC, F1 (oracle)."]


def test_differences_are_averaged_like_the_figures(tmp_path):
    old = grid(tmp_path / "old", ("tile", 0.5, {"students.steps": 1}), ("leather", 0.2, {"students.steps": 1}))
    comparison = compared(grid(tmp_path / "new", *SEEDS), baseline=old[0].parent)
    assert comparison.seed_means[0].differences["image_auroc"].value == pytest.approx(0.3)
    assert comparison.means[0].differences["image_auroc"].value == pytest.approx((0.3 + 0.2) / 2)
    assert comparison.means[0].differences["image_auroc"].interval is None


def test_a_seed_is_measured_against_the_same_seed_of_the_baseline(tmp_path):
    old = grid(tmp_path / "old", *(("tile", 0.1 * seed, {"seed": seed, "students.steps": 1}) for seed in (0, 1, 2)))
    new = grid(tmp_path / "new", *(("tile", 0.5, {"seed": seed}) for seed in (2, 0, 1)))
    gains = [row.differences["image_auroc"].value for row in compared(new, baseline=old[0].parent).rows]
    assert gains == [pytest.approx(0.3), pytest.approx(0.5), pytest.approx(0.4)]


def test_figures_of_files_that_were_made_again_since_are_in_no_mean_and_never_the_best_and_it_is_said(tmp_path):
    runs = grid(tmp_path, *SEEDS, ("wood", 0.1, {"seed": 0}))
    for run in (runs[1], runs[3]):
        rewrite_note(run, "p33/students.pt", sha256="made again")
    comparison = compared(runs)
    assert figures(comparison.means) == {"mean": (0.7 + 0.4) / 2}
    assert comparison.seed_means == []
    assert comparison.best["image_auroc"] == []
    noted = [note.partition(":")[0] for note in comparison.notes if "in no mean and never the best; run its" in note]
    assert noted == ["tile (1-tile)", "wood"]
    assert not any("unknown" in note for note in comparison.notes)


def test_where_no_figures_are_of_what_is_there_now_there_is_no_mean(tmp_path):
    (run,) = grid(tmp_path, SEEDS[0])
    rewrite_note(run, "p33/students.pt", sha256="made again")
    comparison = compared([run])
    assert comparison.means == []
    assert comparison_json(comparison)["mean"] == {}


def test_a_baseline_of_before_is_noted_too(tmp_path):
    (old,) = grid(tmp_path / "old", SEEDS[0])
    rewrite_note(old, "p33/students.pt", sha256="made again")
    notes = compared(grid(tmp_path / "new", SEEDS[1]), baseline=old).notes
    assert [
        note for note in notes if note.startswith(f"the baseline {old}: the figures are of files that were made again")
    ]
