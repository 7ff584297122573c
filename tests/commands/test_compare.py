import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
from compared_runs import write_run

from us_anomaly.cli import _main
from us_anomaly.commands import compare
from us_anomaly.commands.run import STAGES
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.reporting.comparison import COLUMNS

EVALUATION = {
    "format_version": 1,
    "data_set": {"name": "drawn", "category": "bottle"},
    "metrics": {"image_auroc": 0.9, "f1": 0.8},
    "resolution": "original",
    "threshold": {"value": 0.5},
    "counts": {"images": 3},
    "per_defect_type": {},
    "bootstrap": {"num_resamples": 10, "seed": 0},
}


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "bottle"
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    return folder


def test_the_table_is_printed_with_the_folders_that_are_missing_in_it(run_dir, tmp_path, capsys):
    compare.run([str(run_dir), str(tmp_path / "nowhere")])
    printed = capsys.readouterr().out
    assert "bottle" in printed
    assert "0.900" in printed
    assert f"not in the table: {tmp_path / 'nowhere'}: there is no such folder" in printed


def test_a_folder_as_output_gets_all_formats_and_nothing_else(run_dir, tmp_path):
    compare.run([str(run_dir)], output=str(tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["comparison.csv", "comparison.json", "comparison.md"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["mean"] == {"image_auroc": 0.9, "f1": 0.8}


@pytest.mark.parametrize("name", ["t.csv", "t.md", "t.json"])
def test_a_file_as_output_gets_the_format_of_its_ending(run_dir, tmp_path, capsys, name):
    compare.run([str(run_dir)], output=str(tmp_path / name))
    assert "bottle" in (tmp_path / name).read_text()
    assert f"Comparison: {tmp_path / name}" in capsys.readouterr().out


def test_a_baseline_adds_the_table_of_differences(run_dir, tmp_path, capsys):
    shutil.copytree(run_dir, tmp_path / "old")
    compare.run([str(run_dir)], baseline=str(tmp_path / "old"))
    assert "difference to" in capsys.readouterr().out


def test_rows_of_a_real_run_directory_are_called_after_its_settings(trained, compose, tiny, tmp_path, capsys):
    again = shutil.copytree(trained, tmp_path / "again")
    calibrated = ["scoring.smoothing_sigma_px=2", "scoring.border_px=0"]
    for _, stage in STAGES:
        stage(compose("run", *tiny(again, *calibrated)))
    capsys.readouterr()
    compare.run([str(trained), str(again)], output=str(tmp_path / "table.csv"))
    printed = capsys.readouterr().out
    assert "folder: border_px=16, smoothing_sigma_px=0.0" in printed
    assert "folder: border_px=0, smoothing_sigma_px=2.0" in printed
    assert "unknown" not in printed
    columns = (tmp_path / "table.csv").read_text().splitlines()[0].split(",")
    assert columns[-3:] == ["run_dir", "scoring.border_px", "scoring.smoothing_sigma_px"]


def test_a_run_directory_that_was_copied_is_counted_once(trained, trained_copy, capsys):
    compare.run([str(trained), str(trained_copy)])
    assert f"never the best: {trained_copy} (as {trained}).\n" in capsys.readouterr().out


@pytest.mark.usefixtures("as_a_new_process")
def test_under_figures_that_a_refused_command_left_there_stands_that_it_was_refused(
    trained_copy, tiny, tmp_path, capsys
):
    assert _main(["train-students", *tiny(trained_copy, "students.steps=7")]) == 1
    capsys.readouterr()
    compare.run([str(trained_copy)], output=str(tmp_path / "table.csv"))
    students = trained_copy / "p33/students.pt"
    told = f"its last command failed after these figures were made ({students} was made from something else than what is in"
    assert f"folder: {told}" in capsys.readouterr().out
    (row,) = [row for row in csv.DictReader((tmp_path / "table.csv").read_text().splitlines()) if row["run_dir"]]
    assert row["doubt"].startswith(told)


def test_a_narrow_terminal_gets_tables_of_its_width(run_dir, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "70")
    evaluation = EVALUATION | {"metrics": dict.fromkeys(COLUMNS, 0.5)}
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))
    compare.run([str(run_dir)])
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "figures per run (1 of 2)" in printed
    assert printed.count("0.500") == 2 * len(COLUMNS)
    assert max(map(len, printed.splitlines())) <= 70


def test_settings_that_do_not_fit_into_names_are_named(tmp_path, capsys):
    for n in (0, 1):
        write_run(tmp_path / str(n), settings={f"scoring.{letter}": n for letter in "abcd"})
    compare.run([str(tmp_path)])
    assert "The runs differ in scoring.b, scoring.c, scoring.d, too; output=FILE" in capsys.readouterr().out


def test_the_help_lists_what_the_command_takes_and_no_groups_of_other_commands():
    command = [sys.executable, "-m", "us_anomaly", "compare", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "baseline: null" in text
    assert "Configuration groups" not in text
    assert "backbone" not in text


def test_no_folder_is_refused_with_an_example():
    with pytest.raises(SettingsError, match="usad compare needs run directories: usad compare runs/bottle"):
        compare.run([])


def test_an_unknown_format_is_refused_with_those_known(run_dir):
    with pytest.raises(SettingsError, match=r"a file that ends in .csv, .md, .json; got table.xlsx"):
        compare.run([str(run_dir)], output="table.xlsx")


def test_nothing_to_compare_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(DataError, match=r"none of the folders can be compared: .*nowhere: there is no such folder"):
        compare.run([str(tmp_path / "nowhere")])


def test_a_baseline_that_cannot_be_read_is_an_error_with_the_reason(run_dir, tmp_path):
    with pytest.raises(DataError, match=r"the baseline .*nowhere cannot be compared with: .*there is no such folder"):
        compare.run([str(run_dir)], baseline=str(tmp_path / "nowhere"))
