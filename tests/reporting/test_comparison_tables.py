import io
import re

import pytest
from compared_runs import write_run
from rich.console import Console

from us_anomaly.reporting.comparison import COLUMNS, compare, label
from us_anomaly.reporting.comparison_tables import comparison_tables, note_on_labels
from us_anomaly.reporting.run_collection import collect_runs

ALL_FIGURES = {name: 0.5 + number / 100 for number, name in enumerate(COLUMNS)}


def compared(folders, *, baseline=None):
    references = collect_runs([baseline])[0] if baseline else []
    return compare(*collect_runs(folders), baseline=references)


def printed(comparison, *, width):
    console = Console(file=io.StringIO(), width=width)
    for table in comparison_tables(comparison, width=width):
        console.print(table)
    return console.file.getvalue()


def first_column(text):
    return " ".join(line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│"))


@pytest.fixture
def sweep(tmp_path):
    """Write runs of two categories with two seeds and two numbers of students."""
    return [
        write_run(
            tmp_path / f"{category}-{seed}-{number}",
            category=category,
            metrics={name: value + (4 * seed + number) / 1000 for name, value in ALL_FIGURES.items()},
            settings={"seed": seed, "students.num_students": number},
        )
        for category in ("tile", "leather")
        for seed in (0, 1)
        for number in (1, 2)
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 160, 200, 300])
def test_every_figure_and_every_name_is_there_at_every_width(sweep, width):
    comparison = compared(sweep)
    text = printed(comparison, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    numbers = set(re.findall(r"0\.\d{3}", text))
    assert numbers >= {f"{value:.3f}" for row in comparison.rows for value in row.figures.values()}
    assert all(row.name in first_column(text) for row in comparison.rows)


def test_a_wide_terminal_has_one_table_with_the_whole_headings(sweep):
    comparison = compared(sweep)
    (table,) = comparison_tables(comparison, width=300)
    assert [column.header for column in table.columns] == ["run", *map(label, COLUMNS)]


def test_a_narrow_terminal_has_figures_of_images_and_of_pixels_in_two_tables(sweep):
    tables = comparison_tables(compared(sweep), width=80)
    assert [[column.header for column in table.columns][1:] for table in tables] == [
        ["image AUROC", "image AP", "F1 oracle", "F1 deployed", "recall deployed", "false- positive rate deployed"],
        ["pixel AUROC", "pixel AP", "AU-PRO 0.3", "AU-PRO 0.05", "AU-sPRO 0.3", "AU-sPRO 0.05"],
    ]
    assert [table.title for table in tables] == ["figures per run, best of each data set in bold (1 of 2)", "(2 of 2)"]
    assert [table.caption for table in tables] == [None, "resolution of pixel figures: original"]


def test_long_names_are_folded_where_their_parts_end(tmp_path):
    runs = [
        write_run(
            tmp_path / str(rate), metrics=ALL_FIGURES, settings={"calibration.max_false_positive_rate": f"{rate:.12f}"}
        )
        for rate in (0.01, 0.02)
    ]
    lines = [line.split("│")[1].strip() for line in printed(compared(runs), width=80).splitlines() if line[0] == "│"]
    assert lines[:3] == ["tile: max_false_", "positive_rate=", "0.010000000000"]


def test_means_over_seeds_follow_the_runs_with_smallest_and_largest(sweep):
    names = first_column(printed(compared(sweep), width=300))
    assert names.startswith("tile: seed=0, num_students=1")
    assert (
        "mean of 2 seeds, tile: num_students=1 smallest largest mean of 2 seeds, tile: num_students=2 smallest largest"
        in names
    )
    assert names.endswith(
        "mean of 2 data sets: num_students=1 smallest largest mean of 2 data sets: num_students=2 smallest largest"
    )
    assert "deviation" not in names


def test_the_mean_over_seeds_of_the_only_data_set_is_not_shown_twice(tmp_path):
    runs = [write_run(tmp_path / str(seed), settings={"seed": seed}) for seed in (0, 1)]
    assert (
        first_column(printed(compared(runs), width=80))
        == "tile: seed=0 tile: seed=1 mean of 2 seeds, tile smallest largest"
    )


def test_nothing_is_said_to_be_bold_where_each_data_set_has_one_run(tmp_path):
    runs = [
        write_run(tmp_path / name, category=name, metrics={"image_auroc": auroc})
        for name, auroc in (("a", 0.1), ("b", 0.2))
    ]
    (table,) = comparison_tables(compared(runs), width=80)
    assert table.title == "figures per run"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_differences_to_a_baseline_are_all_there_at_every_width(sweep, tmp_path, width):
    old = write_run(tmp_path / "old", metrics=ALL_FIGURES, settings={"students.steps": 1})
    text = printed(compared(sweep[:4], baseline=old), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("+0.006") == len(COLUMNS)
    assert "…" not in text


def test_settings_that_labels_do_not_show_are_named_below_the_table(tmp_path):
    few = [write_run(tmp_path / str(seed), settings={"seed": seed}) for seed in (0, 1)]
    assert note_on_labels(compared(few)) == []
    many = [write_run(tmp_path / f"many{n}", settings={f"scoring.{letter}": n for letter in "abcd"}) for n in (0, 1)]
    assert note_on_labels(compared(many)) == [
        "The runs differ in scoring.b, scoring.c, scoring.d, too; output=FILE writes down how."
    ]
