"""A process that dies anywhere, and the same command once more: the same bytes as if nothing had happened."""

import json
import logging
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torture import contents, damages, differences

from us_anomaly.commands import distill_teacher, infer, results, run, stage, train_students
from us_anomaly.errors import ArtifactError, StaleArtifactError, TrainingError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, read_tensors, write_tensors
from us_anomaly.settings import CheckpointSettings
from us_anomaly.training.checkpoint import Interrupted, TrainingCheckpoint, seconds_trained


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def run_until(step, module, settings, monkeypatch):
    """Run the training of a command until it dies after a step."""

    @contextmanager
    def progress(description, total, *, enabled):
        def on_step(done, values):
            if done == step:
                raise Killed

        yield on_step

    with monkeypatch.context() as patch:
        patch.setattr(module, "progress", progress)
        with pytest.raises(Killed):
            module.run(settings)


def kills(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("module", "name", "step"),
    [
        (distill_teacher, "teacher", 1),
        (distill_teacher, "teacher", 5),
        (train_students, "students", 2),
        (train_students, "students", 6),
    ],
)
def test_a_training_that_died_at_a_step_ends_with_the_same_bytes(
    trained, trained_copy, compose, tiny, monkeypatch, module, name, step
):
    run_dir = RunDir(trained_copy)
    artifact = run_dir.scale(33) / f"{name}.pt"
    artifact.unlink()
    run_dir.loss_curve(artifact).unlink()
    run_dir.provenance(artifact).unlink()
    settings = compose("run", *tiny(trained_copy, "checkpoint.every_steps=2"))
    run_until(step, module, settings, monkeypatch)
    assert not artifact.exists()
    saved = step // 2 * 2
    if saved:
        assert read_tensors(run_dir.training_state(artifact))["step"] == saved
    module.run(settings)
    assert differences(contents(trained), contents(trained_copy)) == []


def test_a_training_goes_on_where_it_was_and_does_not_start_anew(trained_copy, compose, tiny, monkeypatch, caplog):
    run_dir = RunDir(trained_copy)
    run_dir.students(33).unlink()
    settings = compose("run", *tiny(trained_copy, "checkpoint.every_steps=2"))
    run_until(5, train_students, settings, monkeypatch)
    steps = []
    genuine = TrainingCheckpoint.after_step

    def after_step(self, step, losses, **options):
        steps.append(step)
        genuine(self, step, losses, **options)

    monkeypatch.setattr(TrainingCheckpoint, "after_step", after_step)
    with caplog.at_level("INFO"):
        train_students.run(settings)
    assert steps == [5, 6]
    assert "resuming after step 4" in caplog.text
    assert not run_dir.training_state(run_dir.students(33)).exists()


@pytest.mark.parametrize(("module", "name"), [(distill_teacher, "teacher"), (train_students, "students")])
def test_a_training_of_other_settings_begins_anew_where_one_was_interrupted(
    trained_copy, tmp_path, compose, tiny, monkeypatch, module, name
):
    for artifact in (trained_copy / f"p33/{name}.pt", trained_copy / f"provenance/p33/{name}.pt.json"):
        artifact.unlink()
    fresh = shutil.copytree(trained_copy, tmp_path / "fresh")
    run_until(5, module, compose("run", *tiny(trained_copy, "checkpoint.every_steps=2")), monkeypatch)
    assert (trained_copy / f"p33/{name}.resume.pt").exists()
    for run_dir in (trained_copy, fresh):
        module.run(compose("run", *tiny(run_dir, f"{name}.learning_rate=0.01")))
    for file in (f"p33/{name}.pt", f"p33/{name}.losses.jsonl"):
        assert (trained_copy / file).read_bytes() == (fresh / file).read_bytes()


CALLS = ("replace", "rename", "unlink")


class Disk:
    """Dies after the first change of a name in a run directory that it did not die after before."""

    def __init__(self, root: Path) -> None:
        self.deaths: set[tuple[str, str]] = set()
        self._root = root

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(os, name, self._deadly(name, getattr(os, name)))

    def _deadly(self, name, call):
        def deadly(path, *others, **options):
            result = call(path, *others, **options)
            changed = Path(others[0] if others else path)
            if changed.is_relative_to(self._root) and ".partial-" not in str(changed):
                death = (name, changed.relative_to(self._root).as_posix())
                if death not in self.deaths:
                    self.deaths.add(death)
                    raise Killed
            return result

        return deadly


@pytest.mark.slow
def test_a_process_that_dies_after_any_change_on_the_disk_ends_with_the_same_bytes(
    trained, tmp_path, compose, tiny, monkeypatch
):
    """Start the same command again and again; each time it dies after the next change on the disk, until none is left."""
    run_dir = tmp_path / "run"
    settings = compose("run", *tiny(run_dir, "checkpoint.every_steps=3"))
    disk = Disk(run_dir)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        while True:
            before = len(disk.deaths)
            with suppress(Killed):
                run.run(settings)
            assert damages(run_dir) == []
            if len(disk.deaths) == before:
                break
    assert differences(contents(trained), contents(run_dir)) == []
    names = {name for _, name in disk.deaths}
    assert {
        "split.jsonl",
        "p33/teacher.pt",
        "p33/students.pt",
        "calibration.json",
        "maps",
        "predictions.jsonl",
    } <= names
    assert {"provenance/p33/teacher.pt.json", "p33/teacher.resume.pt", "evaluation.csv"} <= names
    assert ("unlink", "p33/students.resume.pt") in disk.deaths


def test_results_that_fail_half_way_leave_the_old_ones_with_their_provenance(trained_copy, compose, tiny, monkeypatch):
    before = contents(trained_copy)
    settings = compose("run", *tiny(trained_copy, "inference.save_heatmaps=false"))
    monkeypatch.setattr(results, "publish", kills)
    with pytest.raises(Killed):
        infer.run(settings)
    assert differences(before, contents(trained_copy)) == []


def test_an_artifact_that_fails_to_be_made_again_stays_described(trained_copy, compose, tiny, monkeypatch):
    before = contents(trained_copy)
    settings = compose("run", *tiny(trained_copy, "students.steps=4", "overwrite=true"))
    run_until(1, train_students, settings, monkeypatch)
    assert differences(before, contents(trained_copy)) == []


def test_an_artifact_made_again_but_not_recorded_is_never_taken_for_the_old_one(
    trained_copy, compose, tiny, monkeypatch
):
    """Students of other settings lie there with the note of the old ones: both old and new settings must refuse them."""
    run_dir = RunDir(trained_copy)
    new = ("students.steps=4", "overwrite=true")
    settings = compose("run", *tiny(trained_copy, *new))
    with monkeypatch.context() as patch:
        patch.setattr(stage, "record", kills)
        with pytest.raises(Killed):
            train_students.run(settings)
    assert read_tensors(run_dir.training_state(run_dir.students(33)))["step"] == 4
    with pytest.raises(StaleArtifactError, match="the file was changed after it was made"):
        train_students.run(compose("run", *tiny(trained_copy)))
    with pytest.raises(StaleArtifactError, match=r"students\.steps=6, now students\.steps=4"):
        train_students.run(compose("run", *tiny(trained_copy, new[0])))
    train_students.run(compose("run", *tiny(trained_copy, *new)))
    train_students.run(compose("run", *tiny(trained_copy, new[0])))


def test_the_state_of_a_finished_training_that_was_left_behind_is_removed(trained_copy, compose, tiny):
    run_dir = RunDir(trained_copy)
    state = run_dir.training_state(run_dir.teacher(33))
    note = run_dir.provenance(run_dir.teacher(33)).stat().st_mtime_ns
    state.write_bytes(b"left behind")
    os.utime(state, ns=(note - 1, note - 1))
    distill_teacher.run(compose("run", *tiny(trained_copy)))
    assert not state.exists()


def test_the_state_of_a_later_training_with_other_settings_stays(trained_copy, compose, tiny, caplog):
    caplog.set_level(logging.INFO)
    run_dir = RunDir(trained_copy)
    state = run_dir.training_state(run_dir.teacher(33))
    note = run_dir.provenance(run_dir.teacher(33)).stat().st_mtime_ns
    state.write_bytes(b"in the middle")
    os.utime(state, ns=(note + 1, note + 1))
    distill_teacher.run(compose("run", *tiny(trained_copy)))
    assert state.exists()
    assert "teacher.resume.pt stays: a training with other settings was interrupted there" in caplog.text


# --- the checkpoint itself ---------------------------------------------------------------------------------------


def checkpoint_of(folder: Path, *, key: str = "key", every_steps: int | None = None, every_seconds: float = 1e9):
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    settings = CheckpointSettings(every_seconds=every_seconds, every_steps=every_steps)
    parts = {"network": network, "optimizer": optimizer}
    checkpoint = TrainingCheckpoint(
        folder / "x.resume.pt", folder / "x.losses.jsonl", key=key, parts=parts, settings=settings
    )
    return checkpoint, network, optimizer


def train(checkpoint, network, optimizer, *, start=0, end=6, total=6):
    for step in range(start, end):
        optimizer.zero_grad()
        network(torch.full((1, 3), float(step + 1))).square().sum().backward()
        optimizer.step()
        checkpoint.after_step(step + 1, {"loss": float(step)}, total=total)


def test_weights_moments_and_curve_are_restored_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 0.0)  # a state tells how long it took
    checkpoint, network, optimizer = checkpoint_of(tmp_path / "a")
    train(checkpoint, network, optimizer)
    interrupted, *parts = checkpoint_of(tmp_path / "b", every_steps=4)
    train(interrupted, *parts, end=5)
    resumed, again, optimizer_again = checkpoint_of(tmp_path / "b", every_steps=4)
    with torch.no_grad():
        again.weight.fill_(7)
    assert resumed.resume() == 4
    train(resumed, again, optimizer_again, start=4)
    for name in ("x.resume.pt", "x.losses.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert torch.equal(network.weight, again.weight)


@pytest.mark.parametrize(("every_steps", "saved"), [(2, [2, 4, 6]), (4, [4, 6]), (None, [6])])
def test_states_are_saved_by_steps_and_at_the_end(tmp_path, monkeypatch, every_steps, saved):
    steps = []
    monkeypatch.setattr(TrainingCheckpoint, "save", lambda self, step: steps.append(step))
    train(*checkpoint_of(tmp_path, every_steps=every_steps))
    assert steps == saved


def test_states_are_saved_by_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoint, *_ = checkpoint_of(tmp_path, every_seconds=10)
    steps = []
    genuine = TrainingCheckpoint.save
    monkeypatch.setattr(TrainingCheckpoint, "save", lambda self, step: (steps.append(step), genuine(self, step)))
    for step in range(1, 8):
        now[0] += 4
        checkpoint.after_step(step, {"loss": 1.0}, total=100)
    assert steps == [3, 6]  # at 12 and 24 seconds: at the first step that is 10 seconds after the last state


def test_the_time_of_a_training_that_went_on_is_that_of_all_attempts(trained_copy, compose, tiny, monkeypatch):
    run_dir = RunDir(trained_copy)
    run_dir.students(33).unlink()
    settings = compose("run", *tiny(trained_copy, "checkpoint.every_steps=2"))
    run_until(5, train_students, settings, monkeypatch)
    state = read_tensors(run_dir.training_state(run_dir.students(33)))
    assert 0 < state["seconds"] < 600
    write_tensors(run_dir.training_state(run_dir.students(33)), state | {"seconds": 1000.0})
    train_students.run(settings)
    assert 1000 < read_json(run_dir.provenance(run_dir.students(33)))["seconds"] < 1600


@pytest.mark.parametrize("changes", [{"key": "another"}, {"seconds": "long"}, {"seconds": None}])
def test_the_time_of_another_training_does_not_count(tmp_path, changes):
    write_tensors(tmp_path / "state", {"key": "ours", "seconds": 1000.0} | changes)
    assert seconds_trained(tmp_path / "state", key="ours") == 0
    (tmp_path / "state").write_text("damaged")
    assert seconds_trained(tmp_path / "state", key="ours") == 0


def test_every_second_zero_saves_after_every_step(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(TrainingCheckpoint, "save", lambda self, step: steps.append(step))
    train(*checkpoint_of(tmp_path, every_seconds=0))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_state_of_another_training_is_not_resumed(tmp_path, caplog):
    train(*checkpoint_of(tmp_path, key="old"))
    checkpoint, *_ = checkpoint_of(tmp_path, key="new")
    assert checkpoint.resume() == 0
    assert "belongs to other settings: training starts anew" in caplog.text


def test_a_state_of_another_format_is_not_resumed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("us_anomaly.training.checkpoint.FORMAT_VERSION", 0)
        train(*checkpoint_of(tmp_path))
    checkpoint, *_ = checkpoint_of(tmp_path)
    assert checkpoint.resume() == 0


def test_a_damaged_state_is_told_with_the_way_out(tmp_path):
    train(*checkpoint_of(tmp_path))
    path = tmp_path / "x.resume.pt"
    path.write_bytes(path.read_bytes()[:100])
    checkpoint, *_ = checkpoint_of(tmp_path)
    with pytest.raises(ArtifactError, match=r"x\.resume\.pt cannot be resumed from \(.*\); delete it to train anew"):
        checkpoint.resume()


def test_a_state_of_other_shapes_is_told_with_the_way_out(tmp_path):
    train(*checkpoint_of(tmp_path))
    checkpoint, *_ = checkpoint_of(tmp_path)
    checkpoint._parts["network"] = torch.nn.Linear(4, 4)
    with pytest.raises(ArtifactError, match="cannot be resumed from"):
        checkpoint.resume()


def test_exhausted_memory_while_resuming_does_not_advise_to_delete_the_state(tmp_path, monkeypatch):
    train(*checkpoint_of(tmp_path))
    checkpoint, *_ = checkpoint_of(tmp_path)

    def exhausted(self, state):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.nn.Linear, "load_state_dict", exhausted)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        checkpoint.resume()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    checkpoint, network, optimizer = checkpoint_of(tmp_path, every_steps=1)
    train(checkpoint, network, optimizer, end=3)
    before = (tmp_path / "x.resume.pt").read_bytes()
    with pytest.raises(TrainingError) as caught:
        checkpoint.after_step(4, {"loss": 1.0, "compactness": float("nan")}, total=6)
    assert str(caught.value) == (
        "the compactness loss became nan at step 4: lower the learning rate, or use runtime.precision=float32. The last good "
        "checkpoint is kept and is resumed from"
    )
    assert (tmp_path / "x.resume.pt").read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(tmp_path):
    checkpoint, network, optimizer = checkpoint_of(tmp_path, every_steps=1)
    train(checkpoint, network, optimizer, end=3)
    before = (tmp_path / "x.resume.pt").read_bytes()
    with torch.no_grad():
        network.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"parts\.network\.weight holds values that are not finite numbers"):
        checkpoint.after_step(4, {"loss": 1.0}, total=6)
    assert (tmp_path / "x.resume.pt").read_bytes() == before


def test_a_curve_has_at_most_so_many_points_and_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr("us_anomaly.training.checkpoint.MAX_CURVE_POINTS", 5)
    checkpoint, *_ = checkpoint_of(tmp_path)
    for step in range(1, 23):
        checkpoint.after_step(step, {"loss": float(step)}, total=22)
    points = [json.loads(line) for line in (tmp_path / "x.losses.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == [4, 8, 12, 16, 20, 22]


def test_a_signal_after_the_last_step_is_obeyed(tmp_path):
    checkpoint, network, optimizer = checkpoint_of(tmp_path)

    def work() -> None:
        with checkpoint.guard():
            train(checkpoint, network, optimizer)
            os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        work()
    assert read_tensors(tmp_path / "x.resume.pt")["step"] == 6


def test_a_signal_during_a_step_is_obeyed_after_saving_it(tmp_path):
    checkpoint, network, optimizer = checkpoint_of(tmp_path)

    def work() -> None:
        with checkpoint.guard():
            train(checkpoint, network, optimizer, end=2)
            os.kill(os.getpid(), 2)
            train(checkpoint, network, optimizer, start=2)

    with pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert read_tensors(tmp_path / "x.resume.pt")["step"] == 3
