import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from us_anomaly.commands.tracking import telling, track_evaluation, tracked
from us_anomaly.errors import SettingsError
from us_anomaly.reporting.trackers import MAX_POINTS, followed_by, open_tracker, require_package
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.settings import Tracker, TrackingSettings

PARAMETERS = {"data.name": "demo", "seed": 3, "teacher.steps": None, "scales": [17, 33]}


def settings(kind: str, directory: Path) -> TrackingSettings:
    return TrackingSettings(tracker=Tracker[kind], directory=str(directory))


def tell_everything(kind: str, directory: Path, run_dir: Path, parameters: dict = PARAMETERS) -> None:
    note = run_dir / "evaluation.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text("{}")
    with open_tracker(settings(kind, directory), run_dir=run_dir, parameters=parameters) as tracker:
        for step in (1, 2, 3):
            tracker.losses("teacher p33", step, {"loss": 1 / step})
        tracker.figures({"image_auroc": 0.75, "misses": 2})
        tracker.picture("panels/found 1", Image.fromarray(np.full((4, 6, 3), 200, dtype=np.uint8)))
        tracker.files([note])


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """What TensorBoard reads of the files that were written."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'us-anomaly[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path_factory.mktemp("tensorboard")
    tell_everything("tensorboard", folder / "tracking", folder / "run")

    def read(name: str = "") -> EventAccumulator:
        accumulator = EventAccumulator(str(folder / "tracking" / name))
        accumulator.Reload()
        return accumulator

    return read


def test_tensorboard_shows_losses_by_step(events):
    points = [(event.step, event.value) for event in events("teacher p33").Scalars("teacher p33/loss")]
    assert points == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_tensorboard_shows_figures_settings_and_panels(events):
    events = events()
    assert events.Scalars("evaluation/image_auroc")[0].value == pytest.approx(0.75)
    assert events.Tags()["images"] == ["panels/found 1"]
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| teacher.steps | null |" in text


def test_a_training_that_goes_on_after_a_kill_has_each_point_once_and_takes_none_of_another(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'us-anomaly[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for training, steps in (("teacher p33", (1, 2, 3, 4)), ("students p33", (1, 2, 3)), ("students p33", (2, 3))):
        with open_tracker(settings("tensorboard", tmp_path), run_dir=tmp_path, parameters=PARAMETERS) as tracker:
            for step in steps:
                tracker.losses(training, step, {"loss": 1.0})
    for training, expected in (("teacher p33", [1, 2, 3, 4]), ("students p33", [1, 2, 3])):
        accumulator = EventAccumulator(str(tmp_path / training))
        accumulator.Reload()
        assert [event.step for event in accumulator.Scalars(f"{training}/loss")] == expected


@pytest.fixture(scope="module")
def client_of(tmp_path_factory):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'us-anomaly[mlflow]'")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    yield lambda directory: MlflowClient(tracking_uri=directory.resolve().as_uri())
    patch.undo()


def runs_of(client, name: str = "demo") -> list:
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def test_mlflow_keeps_parameters_metrics_and_artifacts(tmp_path, client_of):
    tell_everything("mlflow", tmp_path / "a #b", tmp_path / "run")
    client = client_of(tmp_path / "a #b")
    [run] = runs_of(client)
    assert run.data.params == {"data.name": "demo", "seed": "3", "teacher.steps": "null", "scales": "[17, 33]"}
    assert run.data.metrics == {"teacher p33/loss": pytest.approx(1 / 3), "image_auroc": 0.75, "misses": 2.0}
    assert [point.step for point in client.get_metric_history(run.info.run_id, "teacher p33/loss")] == [1, 2, 3]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"evaluation.json", "panels"}
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"


def test_mlflow_goes_on_with_the_run_of_a_run_directory_until_its_settings_change(tmp_path, client_of):
    for parameters in (PARAMETERS, PARAMETERS, PARAMETERS | {"seed": 4}):
        tell_everything("mlflow", tmp_path / "store", tmp_path / "run", parameters)
    tell_everything("mlflow", tmp_path / "store", tmp_path / "other")
    assert sorted((run.data.params["seed"], run.info.run_name) for run in runs_of(client_of(tmp_path / "store"))) == [
        ("3", "other"),
        ("3", "run"),
        ("4", "run"),
    ]


def test_an_experiment_that_another_process_made_at_the_same_moment_is_taken(tmp_path, client_of, monkeypatch):
    tell_everything("mlflow", tmp_path / "store", tmp_path / "run")
    client = type(client_of(tmp_path / "store"))
    genuine, asked = client.get_experiment_by_name, []

    def not_yet(self, name):
        asked.append(name)
        return None if len(asked) == 1 else genuine(self, name)

    monkeypatch.setattr(client, "get_experiment_by_name", not_yet)
    tell_everything("mlflow", tmp_path / "store", tmp_path / "other")
    monkeypatch.undo()
    assert sorted(run.info.run_name for run in runs_of(client_of(tmp_path / "store"))) == ["other", "run"]


class Faulty:
    """A tracker that fails at one thing that it is told."""

    def __init__(self, fails_at: str, told: list[str]) -> None:
        self._fails_at, self._told = fails_at, told

    def __getattr__(self, name: str):
        def tell(*_: object, **__: object) -> None:
            self._told.append(name)
            if name == self._fails_at:
                raise OSError(116, "Stale file handle")

        return tell


@pytest.mark.parametrize("fails_at", ["losses", "figures", "picture", "files", "close"])
def test_a_tracker_that_fails_is_switched_off_with_a_warning_and_ends_nothing(tmp_path, monkeypatch, caplog, fails_at):
    told: list[str] = []
    monkeypatch.setattr("us_anomaly.reporting.trackers._Mlflow", lambda *_: Faulty(fails_at, told))
    tell_everything("mlflow", tmp_path / "store", tmp_path / "run")
    assert told[-1] == fails_at
    assert told.count(fails_at) == 1
    assert caplog.messages == [
        f"tracking=mlflow failed in {tmp_path / 'store'} (OSError: [Errno 116] Stale file handle) and is switched off for this "
        "stage; all else goes on"
    ]


def test_a_tracker_that_cannot_be_opened_is_switched_off_with_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise RuntimeError("no such experiment")

    monkeypatch.setattr("us_anomaly.reporting.trackers._Mlflow", fail)
    tell_everything("mlflow", tmp_path / "store", tmp_path / "run")
    assert "(RuntimeError: no such experiment) and is switched off" in caplog.text


def test_an_error_that_a_library_puts_in_the_place_of_a_signal_is_none_of_a_tracker(tmp_path, monkeypatch):
    def clumsy(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise UnboundLocalError("f") from None

    monkeypatch.setattr("us_anomaly.reporting.trackers._Mlflow", clumsy)
    with pytest.raises(UnboundLocalError):
        tell_everything("mlflow", tmp_path / "store", tmp_path / "run")


@pytest.mark.parametrize(("kind", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, kind, package):
    real = builtins.__import__

    def without_package(name, *arguments, **options):
        if name.split(".")[0] == package or name == "torch.utils.tensorboard":
            raise ImportError(f"No module named {package!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_package)
    with (
        pytest.raises(SettingsError, match=rf"`tracking={kind}` needs .*pip install 'us-anomaly\[{kind}\]'"),
        open_tracker(settings(kind, tmp_path), run_dir=tmp_path, parameters={}),
    ):
        pass


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_opened(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("us_anomaly.reporting.trackers.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=rf"`tracking={kind}` needs .*pip install 'us-anomaly\[{kind}\]'"):
        require_package(settings(kind, tmp_path))
    require_package(settings("none", tmp_path))


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_package_that_is_there_is_enough(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("us_anomaly.reporting.trackers.find_spec", lambda name: object() if name == kind else None)
    require_package(settings(kind, tmp_path))


def test_no_tracker_writes_nothing(tmp_path):
    tell_everything("none", tmp_path / "tracking", tmp_path / "run")
    assert not (tmp_path / "tracking").exists()


def test_a_long_training_is_told_in_points_that_a_tracker_can_hold():
    shown, told = [], []

    class Told:
        def losses(self, training, step, values):
            told.append((training, step))

    on_step = followed_by(lambda done, values: shown.append(done), Told(), "students p17", total=10_007)
    for done in range(1, 10_008):
        on_step(done, {"loss": 1.0})
    assert len(shown) == 10_007
    assert len(told) <= MAX_POINTS + 2
    assert told[-1] == ("students p17", 10_007)


def test_panels_show_the_surest_hits_the_worst_misses_and_the_worst_false_alarms():
    def record(number: int, *, is_anomalous: bool, score: float) -> dict:
        return {
            "filename": str(number),
            "ground_truth": {"is_anomalous": is_anomalous},
            "prediction": {"anomaly_score": score},
            "correct": is_anomalous == (score >= 10),
        }

    records = [record(number, is_anomalous=number % 2 == 0, score=float(number)) for number in range(20)]
    chosen = {name: result["filename"] for name, result in telling(records)}
    assert chosen == {
        **{"found 1": "18", "found 2": "16", "found 3": "14"},
        **{"missed 1": "0", "missed 2": "2", "missed 3": "4"},
        **{"false alarm 1": "19", "false alarm 2": "17", "false alarm 3": "15"},
    }


@pytest.mark.slow
def test_the_commands_tell_a_tracker_losses_figures_and_panels(compose, tiny, trained_copy):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'us-anomaly[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from us_anomaly.commands import train_students

    for artifact in (trained_copy / "p33").glob("students*"):
        artifact.unlink()
    chosen = compose("run", *tiny(trained_copy, "tracking=tensorboard"))
    train_students.run(chosen)
    track_evaluation(chosen, read_json(trained_copy / "evaluation.json"))
    training = EventAccumulator(str(trained_copy / "tracking/students p33"))
    training.Reload()
    assert len(training.Scalars("students p33/loss")) == 6
    accumulator = EventAccumulator(str(trained_copy / "tracking"))
    accumulator.Reload()
    assert accumulator.Scalars("evaluation/image_auroc")
    assert "panels/found 1" in accumulator.Tags()["images"]


def test_no_tracker_is_opened_by_default(compose, tiny, tmp_path):
    with tracked(compose("run", *tiny(tmp_path / "run"))) as tracker:
        tracker.figures({"image_auroc": 1.0})
    assert not (tmp_path / "run").exists()
