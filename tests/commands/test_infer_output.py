"""`inference.output`: results in a folder of one's own, and a run directory that is only read."""

import json
import logging
import shutil

import numpy as np
import pytest
from conftest import files_below
from PIL import Image

from us_anomaly.cli import _main
from us_anomaly.commands.infer import run as infer
from us_anomaly.errors import StaleArtifactError
from us_anomaly.reporting.comparison_unfinished import why_unfinished
from us_anomaly.reporting.run_collection import collect_runs
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.lock import locked


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch):
    """Undo what a command leaves behind in its process: a variable, and the log that Hydra has set up."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def photos(tmp_path):
    """A folder with two pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def infer_to(compose, tiny, trained_copy, tmp_path):
    """Score something into a folder, which is returned."""

    def call(what, *overrides, output=tmp_path / "results"):
        where = [f'inference.input="{what}"', f'inference.output="{output}"']
        infer(compose("infer", *tiny(trained_copy), *where, *overrides))
        return output

    return call


def names_in(folder):
    return [json.loads(line)["filename"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_the_results_are_those_that_the_run_directory_would_get(compose, tiny, trained_copy, infer_to, photos):
    infer(compose("infer", *tiny(trained_copy), f"inference.input={photos}"))
    usual = trained_copy / "inference/photos"
    given = infer_to(photos)
    assert files_below(given) == files_below(usual)
    assert all(
        (given / name).read_bytes() == (usual / name).read_bytes()
        for name in files_below(given)
        if not name.startswith("provenance/")
    )


def test_a_run_directory_in_use_serves_others_and_stays_as_it_is(trained_copy, photos, tiny, tmp_path):
    def state():
        return {path: path.stat().st_mtime_ns for path in trained_copy.rglob("*")}

    with locked(RunDir(trained_copy), command="usad infer"):
        before = state()
        given = [*tiny(trained_copy), f"inference.input={photos}", f"inference.output={tmp_path / 'results'}"]
        assert _main(["infer", *given]) == 0
        assert state() == before
    assert names_in(tmp_path / "results") == ["a.png", "b.png"]
    assert (tmp_path / "results/.hydra/infer/log.txt").is_file()
    assert not (tmp_path / "results/.lock").exists()


def test_a_folder_of_results_in_use_is_refused_by_its_own_name(trained_copy, photos, tiny, tmp_path, capsys):
    given = [*tiny(trained_copy), f"inference.input={photos}", f"inference.output={tmp_path / 'results'}"]
    with locked(RunDir(tmp_path / "results"), command="usad infer"):
        assert _main(["infer", *given]) == 1
    assert capsys.readouterr().err.rstrip().endswith("wait until it has finished, or choose another inference.output=")


def test_a_folder_that_cannot_be_made_is_told_by_its_own_name(trained_copy, photos, tiny, tmp_path, capsys):
    (tmp_path / "results").write_text("a file")
    given = [*tiny(trained_copy), f"inference.input={photos}", f"inference.output={tmp_path / 'results'}"]
    assert _main(["infer", *given]) == 1
    assert "remove it, or choose another inference.output=" in capsys.readouterr().err


def test_the_same_input_renews_its_results_and_another_one_replaces_none(infer_to, photos):
    results = infer_to(photos)
    (photos / "b.png").unlink()
    assert names_in(infer_to(photos)) == ["a.png"]
    before = files_below(results)
    with pytest.raises(StaleArtifactError, match=rf"holds the results of {photos}: choose .* with overwrite=true$"):
        infer_to(photos / "a.png")
    assert files_below(results) == before
    infer_to(photos / "a.png", "overwrite=true")
    assert files_below(results) == before


def test_what_others_wrote_is_not_replaced_unless_asked_for(infer_to, photos, tmp_path):
    (tmp_path / "results/maps").mkdir(parents=True)
    (tmp_path / "results/maps/city.pdf").write_text("not ours")
    with pytest.raises(StaleArtifactError, match="holds maps, and no note that they are results of usad"):
        infer_to(photos)
    assert (tmp_path / "results/maps/city.pdf").read_text() == "not ours"
    assert names_in(infer_to(photos, "overwrite=true")) == ["a.png", "b.png"]


def test_another_run_directory_takes_no_results(infer_to, trained_copy, photos, tmp_path):
    other = shutil.copytree(trained_copy, tmp_path / "other")
    before = files_below(other)
    with pytest.raises(StaleArtifactError, match=r"other is a run directory: choose a folder of its own$"):
        infer_to(photos, "overwrite=true", output=other)
    assert files_below(other) == before


def test_results_below_the_input_are_not_looked_at_the_next_time(trained_copy, photos, tiny):
    given = [*tiny(trained_copy), f"inference.input={photos}", f"inference.output={photos / 'results'}"]
    for _ in range(2):
        assert _main(["infer", *given]) == 0
        assert names_in(photos / "results") == ["a.png", "b.png"]


def test_results_are_no_run_to_compare(trained_copy, infer_to, photos, tmp_path):
    results = infer_to(photos)
    (results / ".hydra").mkdir()
    runs, unusable = collect_runs([tmp_path], off={})
    assert [run.folder for run in runs] == [trained_copy]
    assert unusable == []
    assert why_unfinished(results) == "it holds results of inference.input=, which are not evaluated"
