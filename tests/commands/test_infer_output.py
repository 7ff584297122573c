"""`inference.output`: results in a folder of one's own, and a run directory that is only read."""

import json
import shutil

import numpy as np
import pytest
from conftest import files_below
from PIL import Image

from us_anomaly import commands
from us_anomaly.cli import _main
from us_anomaly.commands.calibrate import run as calibrate
from us_anomaly.commands.infer import run as infer
from us_anomaly.errors import StaleArtifactError
from us_anomaly.reporting.comparison_unfinished import why_unfinished
from us_anomaly.reporting.run_collection import collect_runs
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.lock import locked

pytestmark = pytest.mark.usefixtures("as_a_new_process")


@pytest.fixture
def photos(tmp_path):
    """A folder with two pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def infer_to(tiny, trained_copy, tmp_path):
    """Score something into a folder by the command line; return the folder, or what the refusal says."""

    def call(what, *overrides, output=tmp_path / "results"):
        where = [f'inference.input="{what}"', f'inference.output="{output}"']
        return output if _main(["infer", *tiny(trained_copy), *where, *overrides]) == 0 else None

    return call


@pytest.fixture
def refusal(infer_to, capsys):
    """Try the same; return what the refusal says."""

    def call(what, *overrides, **where):
        capsys.readouterr()
        assert infer_to(what, *overrides, **where) is None
        return capsys.readouterr().err.rstrip()

    return call


def names_in(folder):
    return [json.loads(line)["filename"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_the_results_are_those_that_the_run_directory_would_get(compose, tiny, trained_copy, infer_to, photos):
    infer(compose("infer", *tiny(trained_copy), f"inference.input={photos}"))
    usual = trained_copy / "inference/photos"
    given = infer_to(photos)
    results = {name for name in files_below(given) if not name.startswith(".hydra/")}
    assert results == files_below(usual)
    assert all(
        (given / name).read_bytes() == (usual / name).read_bytes()
        for name in results
        if not name.startswith("provenance/")
    )


def test_a_run_directory_in_use_serves_others_and_stays_as_it_is(trained_copy, photos, infer_to):
    def state():
        return {path: path.stat().st_mtime_ns for path in trained_copy.rglob("*")}

    with locked(RunDir(trained_copy), command="usad infer"):
        before = state()
        results = infer_to(photos)
        assert state() == before
    assert names_in(results) == ["a.png", "b.png"]
    assert (results / ".hydra/infer/log.txt").is_file()
    assert not (results / ".lock").exists()


def test_a_folder_of_results_in_use_is_refused_by_its_own_name(refusal, photos, tmp_path):
    with locked(RunDir(tmp_path / "results"), command="usad infer"):
        assert refusal(photos).endswith("wait until it has finished, or choose another inference.output=")


def test_a_run_directory_in_use_is_refused_with_the_way_to_do_without_it(trained_copy, photos, tiny, capsys):
    with locked(RunDir(trained_copy), command="usad infer"):
        assert _main(["infer", *tiny(trained_copy), f"inference.input={photos}"]) == 1
    said = capsys.readouterr().err.rstrip()
    assert said.endswith("until it has finished, or give the results a folder elsewhere, inference.output=DIR")


def test_a_folder_that_cannot_be_made_is_told_by_its_own_name(refusal, photos, tmp_path):
    (tmp_path / "results").write_text("a file")
    assert "remove it, or choose another inference.output=" in refusal(photos)


def test_the_same_input_renews_its_results_and_another_one_replaces_none(infer_to, refusal, photos):
    results = infer_to(photos)
    (photos / "b.png").unlink()
    assert names_in(infer_to(photos)) == ["a.png"]
    before = files_below(results)
    said = refusal(photos / "a.png")
    assert said.endswith(f"holds the results of {photos}: choose another folder, or replace them with overwrite=true")
    assert files_below(results) == before
    infer_to(photos / "a.png", "overwrite=true")
    assert infer_to(photos / "a.png")


def test_a_link_that_leads_elsewhere_is_the_same_input(infer_to, photos, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(photos)
    assert infer_to(link)
    link.unlink()
    link.symlink_to(shutil.copytree(photos, tmp_path / "tomorrow"))
    assert infer_to(link)


def test_a_process_that_is_stopped_while_results_are_replaced_leaves_a_folder_that_can_be_used(
    infer_to, photos, monkeypatch
):
    results = infer_to(photos)

    def stopped(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands.infer, "note_down", stopped)
        assert infer_to(photos) is None
    assert not (results / "provenance/predictions.jsonl.json").exists()
    assert infer_to(photos)
    assert (results / "provenance/predictions.jsonl.json").exists()


def test_what_others_wrote_is_not_replaced_unless_asked_for(infer_to, refusal, photos, tmp_path):
    (tmp_path / "results/maps").mkdir(parents=True)
    (tmp_path / "results/maps/city.pdf").write_text("not ours")
    assert "holds maps, and no note that they are results of usad" in refusal(photos)
    assert files_below(tmp_path / "results") == {"maps/city.pdf"}
    assert names_in(infer_to(photos, "overwrite=true")) == ["a.png", "b.png"]


def test_run_directories_take_no_results_of_others(refusal, trained_copy, photos, tmp_path):
    other = shutil.copytree(trained_copy, tmp_path / "other")
    before = files_below(other)
    for output in (other, other / "p33", other / "inference/new"):
        said = refusal(photos, "overwrite=true", output=output)
        assert said.endswith("a run directory: choose a folder of its own for the results")
    assert files_below(other) == before


def test_results_in_the_folder_of_the_data_set_are_told(infer_to, parts, photos, tmp_path, capsys):
    root = shutil.copytree(parts, tmp_path / "parts")
    infer_to(photos, f"data.root={root}", output=root / "images/results")
    assert "lies in the folder of the data set" in capsys.readouterr().err


def test_a_failure_leaves_nothing_in_a_folder_of_the_users(infer_to, refusal, photos, tmp_path):
    own, new = tmp_path / "line", tmp_path / "new"
    shutil.copytree(photos, own / "a")
    other = tmp_path / "of another program"
    (other / ".hydra").mkdir(parents=True)
    (other / ".hydra/config.yaml").write_text("x: 1")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "c.png").write_bytes(b"")
    for output in (own / "a", new, other):
        assert "no such file or folder" in refusal(tmp_path / "nowhere", output=output)
        assert "nothing was scored" in refusal(broken, output=output)
    assert files_below(own) == {"a/a.png", "a/b.png"}
    assert not (own / "a/.hydra").exists()
    assert not new.exists()
    assert files_below(other) == {".hydra/config.yaml"}


def test_only_infer_takes_a_folder_for_results(trained_copy, photos, tiny, tmp_path, capsys):
    given = [*tiny(trained_copy), f"inference.input={photos}", f"inference.output={tmp_path / 'results'}"]
    assert _main(["run", *given]) == 1
    assert "`inference.output` is for `usad infer`, and does nothing for `usad run`" in capsys.readouterr().err
    assert _main(["evaluate", *given[:-1]]) == 1
    assert "`inference.input` is for `usad infer`, and does nothing for `usad evaluate`" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_detector_that_is_made_anew_meanwhile_is_refused(compose, tiny, trained_copy, photos, tmp_path, monkeypatch):
    where = [f"inference.input={photos}", f"inference.output={tmp_path / 'results'}"]
    build = commands.infer.build_detector

    def build_and_calibrate(*arguments):
        detector = build(*arguments)
        calibrate(compose("calibrate", *tiny(trained_copy), "calibration.threshold=3", "overwrite=true"))
        return detector

    monkeypatch.setattr(commands.infer, "build_detector", build_and_calibrate)
    with pytest.raises(StaleArtifactError, match=r"calibration\.threshold"):
        infer(compose("infer", *tiny(trained_copy), *where))
    assert not (tmp_path / "results/predictions.jsonl").exists()


def test_results_below_the_input_are_not_looked_at_the_next_time(infer_to, photos):
    for _ in range(2):
        assert names_in(infer_to(photos, output=photos / "results")) == ["a.png", "b.png"]


def test_results_are_no_run_to_compare_also_where_runs_lie_below_them(trained_copy, infer_to, photos, tmp_path):
    results = infer_to(photos)
    infer_to(photos, output=tmp_path)
    (results / "provenance/predictions.jsonl.json").write_text("{")
    runs, unusable = collect_runs([tmp_path])
    assert [run.folder for run in runs] == [trained_copy]
    assert unusable == []
    assert why_unfinished(results) == "it holds results of inference.input=, which are not evaluated"
