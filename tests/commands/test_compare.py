import json
import shutil

import pytest

from us_anomaly.commands import compare
from us_anomaly.errors import DataError, SettingsError

EVALUATION = {
    "format_version": 1,
    "data_set": {"name": "drawn", "category": "bottle"},
    "metrics": {"image_auroc": 0.9, "f1": 0.8},
    "resolution": "original",
    "threshold": {"value": 0.5},
    "counts": {"images": 3},
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
