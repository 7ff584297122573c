import errno
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from us_anomaly.errors import ResourceError
from us_anomaly.run_dir import RunDir, provenance, staging
from us_anomaly.run_dir.atomic import TEMPORARY_PREFIX
from us_anomaly.run_dir.interruption import Interrupted, interruptible
from us_anomaly.run_dir.provenance import Recipe, record
from us_anomaly.run_dir.staging import publish, replace_together, staged, writing_threads

RECIPE = Recipe(command="infer", settings={})


def files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def fill(run_dir: RunDir, text: str, *, maps: tuple[str, ...] = ("a", "b/c")) -> None:
    for name in maps:
        path = run_dir.maps / f"{name}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run_dir.predictions.write_text(text)


def fill_and_publish(run_dir: RunDir, *, folders: tuple[str, ...] = (), before_publishing=lambda: None) -> None:
    with staged(run_dir) as aside:
        fill(aside, "new")
        for folder in folders:
            (aside.root / folder).mkdir()
            (aside.root / folder / "a").write_text("new")
        before_publishing()
        publish(aside, run_dir)


def _interrupted() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    return run_dir


def test_published_results_replace_the_old_ones_as_a_whole(run_dir):
    fill(run_dir, "old", maps=("a", "gone"))
    run_dir.heatmaps.mkdir()
    (run_dir.heatmaps / "a.png").write_text("old")
    with staged(run_dir) as aside:
        fill(aside, "new")
        assert files(run_dir.maps) == {"a.tiff": "old", "gone.tiff": "old"}
        publish(aside, run_dir)
    assert files(run_dir.root) == {"maps/a.tiff": "new", "maps/b/c.tiff": "new", "predictions.jsonl": "new"}


def test_what_is_not_published_disappears_and_the_old_results_stay(run_dir):
    fill(run_dir, "old")
    with pytest.raises(KeyboardInterrupt):
        fill_and_publish(run_dir, before_publishing=_interrupted)
    assert files(run_dir.root) == {"maps/a.tiff": "old", "maps/b/c.tiff": "old", "predictions.jsonl": "old"}


def test_first_results_are_published_where_there_were_none(tmp_path):
    run_dir = RunDir(tmp_path / "new" / "run")
    with staged(run_dir) as aside:
        fill(aside, "new")
        publish(aside, run_dir)
    assert files(run_dir.root) == {"maps/a.tiff": "new", "maps/b/c.tiff": "new", "predictions.jsonl": "new"}


@pytest.mark.parametrize("step", range(9))
def test_an_end_at_any_step_leaves_no_list_that_vouches_for_other_files(run_dir, monkeypatch, step):
    """Kill the process at each rename in turn: predictions are the old with all old files, the new, or not there."""
    fill(run_dir, "old")
    for folder in (run_dir.heatmaps, run_dir.uncertainty):
        folder.mkdir()
        (folder / "a").write_text("old")
    record(run_dir, run_dir.predictions, RECIPE, seconds=1)
    calls = []

    def dying(genuine):
        def call(self, *arguments, **options):
            if len(calls) == step:
                raise KeyboardInterrupt
            calls.append(self)
            return genuine(self, *arguments, **options)

        return call

    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    with pytest.raises(KeyboardInterrupt):
        fill_and_publish(run_dir, folders=("heatmaps", "uncertainty"))
    folders = (run_dir.maps, run_dir.heatmaps, run_dir.uncertainty)
    are_intact = [set(files(folder).values()) for folder in folders] == [{"old"}] * 3
    assert are_intact or not run_dir.predictions.exists()
    assert run_dir.provenance(run_dir.predictions).exists() == (step == 0)


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("stuck", ["maps", "heatmaps", "predictions.jsonl"])
def test_where_one_of_the_old_or_new_cannot_be_moved_all_of_the_old_stay(run_dir, monkeypatch, stuck, is_new):
    fill(run_dir, "old")
    run_dir.heatmaps.mkdir()
    (run_dir.heatmaps / "a").write_text("old")
    record(run_dir, run_dir.predictions, RECIPE, seconds=1)
    before = {path: path.read_bytes() for path in run_dir.root.rglob("*") if path.is_file()}
    genuine = Path.rename

    def rename(self, target):
        if self.name == stuck and (self.parent != run_dir.root) == is_new:
            raise PermissionError(errno.EACCES, "somebody looks at it")
        return genuine(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ResourceError, match="What was there before is untouched"):
        fill_and_publish(run_dir, folders=("heatmaps",))
    assert {path: path.read_bytes() for path in run_dir.root.rglob("*") if path.is_file()} == before


def test_a_folder_of_maps_that_is_a_link_is_replaced_and_what_it_points_to_is_kept(run_dir, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("kept")
    run_dir.maps.symlink_to(tmp_path / "elsewhere")
    with staged(run_dir) as aside:
        fill(aside, "new")
        publish(aside, run_dir)
    assert not run_dir.maps.is_symlink()
    assert (tmp_path / "elsewhere" / "x").read_text() == "kept"


def test_every_file_is_flushed_before_the_first_old_one_goes(run_dir, monkeypatch):
    fill(run_dir, "old")
    flushed = []
    genuine = staging.flush_file
    monkeypatch.setattr(
        staging,
        "flush_file",
        lambda path: (flushed.append((path.name, run_dir.predictions.read_text())), genuine(path)),
    )
    with staged(run_dir) as aside:
        fill(aside, "new")
        publish(aside, run_dir)
    assert sorted(flushed) == [("a.tiff", "old"), ("c.tiff", "old"), ("predictions.jsonl", "old")]


@pytest.fixture
def steps(run_dir, monkeypatch) -> list[tuple[str, str]]:
    """Return what is flushed, moved and removed from now on, in order; the folder of new results is called `aside`."""
    done: list[tuple[str, str]] = []

    def noted(step, genuine):
        def call(path, *arguments, **options):
            parts = path.relative_to(run_dir.root).parts
            names = ("aside" if part.startswith(TEMPORARY_PREFIX) else part for part in parts)
            done.append((step, "/".join(names) or "."))
            return genuine(path, *arguments, **options)

        return call

    for module, name in ((staging, "flush_file"), (staging, "flush_folder"), (provenance, "flush_folder")):
        monkeypatch.setattr(module, name, noted("flush", getattr(module, name)))
    for name, step in (("rename", "move"), ("replace", "move"), ("unlink", "remove")):
        monkeypatch.setattr(Path, name, noted(step, getattr(Path, name)))
    return done


def test_no_name_of_a_result_changes_before_what_it_rests_on_is_on_the_disk(run_dir, steps):
    """New files and folders first, then that the old ones are gone, then the new ones."""
    fill(run_dir, "old")
    record(run_dir, run_dir.predictions, RECIPE, seconds=1)
    fill_and_publish(run_dir, before_publishing=steps.clear)
    first = next(number for number, (step, _) in enumerate(steps) if step == "move")
    assert sorted(steps[:first]) == [
        ("flush", "aside"),
        ("flush", "aside/maps"),
        ("flush", "aside/maps/a.tiff"),
        ("flush", "aside/maps/b"),
        ("flush", "aside/maps/b/c.tiff"),
        ("flush", "aside/predictions.jsonl"),
    ]
    assert steps[first:] == [
        ("move", "provenance/predictions.jsonl.json"),
        ("move", "predictions.jsonl"),
        ("move", "maps"),
        ("flush", "provenance"),
        ("flush", "."),
        ("move", "aside/maps"),
        ("move", "aside/predictions.jsonl"),
        ("flush", "."),
    ]


def test_a_disk_that_is_full_at_the_flush_leaves_the_old_results(run_dir, monkeypatch):
    fill(run_dir, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceError, match="the disk is full"):
        fill_and_publish(run_dir, before_publishing=lambda: monkeypatch.setattr(os, "fsync", full))
    assert set(files(run_dir.root).values()) == {"old"}


def test_a_folder_that_cannot_be_written_is_told(run_dir, monkeypatch):
    def fail(*_: object, **__: object) -> str:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(staging.tempfile, "mkdtemp", fail)
    with pytest.raises(ResourceError, match="it cannot be written"), staged(run_dir):
        pytest.fail("no folder")


# --- an artifact with companions ---------------------------------------------------------------------------------


def replace_evaluation(run_dir: RunDir, text: str) -> None:
    texts = {run_dir.evaluation_json: text, run_dir.evaluation_csv: text}
    replace_together(run_dir, run_dir.evaluation_json, texts)


@pytest.fixture
def evaluated(run_dir) -> RunDir:
    replace_evaluation(run_dir, "old")
    record(run_dir, run_dir.evaluation_json, RECIPE, seconds=1, files=[run_dir.evaluation_csv])
    return run_dir


def test_an_artifact_and_its_companions_are_replaced_together(evaluated):
    replace_evaluation(evaluated, "new")
    assert files(evaluated.root) == {"evaluation.csv": "new", "evaluation.json": "new"}


def test_each_step_of_a_replacement_is_on_the_disk_before_the_next(evaluated, steps):
    replace_evaluation(evaluated, "new")
    assert steps == [
        ("remove", "provenance/evaluation.json.json"),
        ("flush", "provenance"),
        ("move", "aside/evaluation.csv"),
        ("flush", "."),
        ("move", "aside/evaluation.json"),
        ("flush", "."),
    ]


def test_a_disk_that_is_full_before_all_are_written_leaves_all_old_ones_and_their_note(evaluated, monkeypatch):
    before = files(evaluated.root)
    times = []

    def full(*_: object) -> None:
        times.append(1)
        if len(times) == 3:  # the first file and its folder are flushed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        replace_evaluation(evaluated, "new")
    assert files(evaluated.root) == before


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_dies_between_them_leaves_no_note_for_a_mixture(evaluated, monkeypatch, number):
    genuine, replaced = Path.replace, []

    def dying(self, target):
        if len(replaced) == number:
            raise KeyboardInterrupt
        replaced.append(Path(target).name)
        return genuine(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        replace_evaluation(evaluated, "new")
    assert replaced == ["evaluation.csv"][:number]  # the artifact itself comes last
    assert not evaluated.provenance(evaluated.evaluation_json).exists()


def test_a_folder_in_the_place_of_a_companion_is_told(evaluated):
    evaluated.evaluation_csv.unlink()
    (evaluated.evaluation_csv / "x").mkdir(parents=True)
    with pytest.raises(ResourceError, match=r"cannot write .*evaluation\.json: "):
        replace_evaluation(evaluated, "new")


def _interrupted_after(function):
    """Return a function that does the same, and during which the signal arrives, when its work is done."""

    def with_signal(*arguments, **keywords):
        result = function(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    return with_signal


def test_no_thread_writes_on_though_the_signal_comes_while_it_is_started(run_dir, monkeypatch):
    finished = []

    def write(path: Path) -> None:
        time.sleep(0.2)  # the signal is there long before
        path.mkdir(parents=True)
        finished.append(path)

    monkeypatch.setattr(threading.Thread, "start", _interrupted_after(threading.Thread.start))
    with pytest.raises(Interrupted), interruptible(), staged(run_dir) as aside, writing_threads(2) as submit:
        submit(write, aside.maps)
    assert len(finished) == 1
    assert files(run_dir.root) == {}
    assert list(run_dir.root.iterdir()) == []


def test_work_that_has_not_begun_is_dropped_when_another_part_fails(tmp_path):
    may_go_on = threading.Event()
    begun = []

    def write(number: int) -> None:
        begun.append(number)
        may_go_on.wait(60)

    def fail(submit) -> None:
        for number in range(9):
            submit(write, number)
        threading.Timer(0.2, may_go_on.set).start()
        raise ResourceError("the disk is full")

    with pytest.raises(ResourceError, match="the disk is full"), writing_threads(1) as submit:
        fail(submit)
    assert begun == [0]


def test_a_folder_made_while_the_signal_comes_is_removed(run_dir, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", _interrupted_after(tempfile.mkdtemp))
    with pytest.raises(Interrupted), interruptible(), staged(run_dir):
        pytest.fail("not stopped")
    assert list(run_dir.root.iterdir()) == []
