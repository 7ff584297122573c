"""Experiment trackers besides the run directory: TensorBoard, or MLflow with its local file store; both are optional.

A tracker is told the same things whatever it is: settings, losses by step, figures, pictures and files. Where it fails it is
switched off with a warning: a training is worth more than its curve, which lies in the run directory as well.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from us_anomaly.errors import SettingsError
from us_anomaly.run_dir.faults import in_one_line
from us_anomaly.settings import Tracker as Kind
from us_anomaly.settings import TrackingSettings
from us_anomaly.training.course import OnStep

log = logging.getLogger(__name__)

MAX_POINTS = 500
"""A training tells a tracker about so many of its steps at most."""


class Tracker(Protocol):
    """Somewhere to which results go."""

    def losses(self, training: str, step: int, values: Mapping[str, float]) -> None:
        """Note the losses of one step of a training."""

    def figures(self, values: Mapping[str, float]) -> None:
        """Note the figures of an evaluation."""

    def picture(self, name: str, picture: Image.Image) -> None:
        """Note a picture."""

    def files(self, paths: Iterable[Path]) -> None:
        """Note files of the run directory."""

    def close(self) -> None:
        """Write everything down."""


@contextmanager
def open_tracker(settings: TrackingSettings, *, run_dir: Path, parameters: Mapping[str, Any]) -> Iterator[Tracker]:
    """Open the tracker that the settings name; the first thing that goes wrong with it is told, and ends it and nothing else.

    Args:
        settings: Which one, and the folder of its files.
        run_dir: Names the run.
        parameters: Plain settings by dotted key.

    Raises:
        SettingsError: Its package is not installed.
    """
    tracker = _Forgiving(settings, lambda: _opened(settings, run_dir, parameters))
    try:
        yield tracker
    finally:
        tracker.close()


def _opened(settings: TrackingSettings, run_dir: Path, parameters: Mapping[str, Any]) -> Tracker:
    match settings.tracker:
        case Kind.none:
            return _NoTracker()
        case Kind.tensorboard:
            return _Tensorboard(Path(settings.directory), parameters)
        case Kind.mlflow:
            return _Mlflow(Path(settings.directory), run_dir, parameters)


def require_package(settings: TrackingSettings) -> None:
    """Refuse a tracker that cannot be opened, without opening it.

    Raises:
        SettingsError: Its package is not installed.
    """
    name = settings.tracker.value
    if settings.tracker is not Kind.none and find_spec(name) is None:
        raise _not_installed(name, ImportError(f"No module named {name!r}"))


def followed_by(show: OnStep, tracker: Tracker, training: str, *, total: int) -> OnStep:
    """Return what to call after each step: it shows the progress and now and then tells the tracker."""
    interval = max(1, total // MAX_POINTS)

    def on_step(done: int, values: dict[str, float]) -> None:
        show(done, values)
        if done % interval == 0 or done == total:
            tracker.losses(training, done, values)

    return on_step


class _NoTracker:
    def losses(self, training: str, step: int, values: Mapping[str, float]) -> None:
        pass

    def figures(self, values: Mapping[str, float]) -> None:
        pass

    def picture(self, name: str, picture: Image.Image) -> None:
        pass

    def files(self, paths: Iterable[Path]) -> None:
        pass

    def close(self) -> None:
        pass


class _Forgiving:
    """A tracker until something goes wrong with it, and then none."""

    def __init__(self, settings: TrackingSettings, opened: Callable[[], Tracker]) -> None:
        self._settings = settings
        self._tracker: Tracker = _NoTracker()
        with self._ended_by_faults():
            self._tracker = opened()

    def losses(self, training: str, step: int, values: Mapping[str, float]) -> None:
        with self._ended_by_faults():
            self._tracker.losses(training, step, values)

    def figures(self, values: Mapping[str, float]) -> None:
        with self._ended_by_faults():
            self._tracker.figures(values)

    def picture(self, name: str, picture: Image.Image) -> None:
        with self._ended_by_faults():
            self._tracker.picture(name, picture)

    def files(self, paths: Iterable[Path]) -> None:
        with self._ended_by_faults():
            self._tracker.files(paths)

    def close(self) -> None:
        with self._ended_by_faults():
            self._tracker.close()

    @contextmanager
    def _ended_by_faults(self) -> Iterator[None]:
        try:
            yield
        except SettingsError:  # its package is missing
            raise
        except Exception as error:  # whatever a tracker, its server or the file system raise
            if isinstance(error.__context__, KeyboardInterrupt):  # in the place of a signal
                raise
            self._tracker = _NoTracker()
            log.warning(
                "tracking=%s failed in %s (%s: %s) and is switched off for this stage; all else goes on",
                self._settings.tracker.value,
                self._settings.directory,
                type(error).__name__,
                in_one_line(error),
            )


class _Tensorboard:
    """Scalars, text and pictures in event files; TensorBoard knows no other files.

    Each training has a folder of its own, because a training that goes on after a kill, or anew, takes back the points that it
    is about to write again, and TensorBoard takes back all of a folder.
    """

    def __init__(self, directory: Path, parameters: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _not_installed("tensorboard", error) from error
        self._directory, self._open = directory, SummaryWriter
        self._writer: Any = SummaryWriter(str(directory))
        self._of_trainings: dict[str, Any] = {}
        rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in parameters.items())
        self._writer.add_text("settings", f"| key | value |\n|---|---|\n{rows}")
        log.debug("tracking in %s: tensorboard --logdir %s", directory, directory)

    def losses(self, training: str, step: int, values: Mapping[str, float]) -> None:
        if training not in self._of_trainings:
            self._of_trainings[training] = self._open(str(self._directory / training), purge_step=step)
        for name, value in values.items():
            self._of_trainings[training].add_scalar(f"{training}/{name}", value, step)

    def figures(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"evaluation/{name}", value, 0)

    def picture(self, name: str, picture: Image.Image) -> None:
        self._writer.add_image(name, np.asarray(picture.convert("RGB")), 0, dataformats="HWC")

    def files(self, paths: Iterable[Path]) -> None:
        pass

    def close(self) -> None:
        for writer in (self._writer, *self._of_trainings.values()):
            writer.close()


class _Mlflow:
    """A run in MLflow's local file store; the commands of one run directory go on with one run while settings stay.

    Settings that changed begin a new run, because MLflow's parameters cannot change.
    """

    def __init__(self, directory: Path, run_dir: Path, parameters: Mapping[str, Any]) -> None:
        os.environ.setdefault(
            "MLFLOW_ALLOW_FILE_STORE", "true"
        )  # MLflow 3 asks for consent to a store without database
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves this machine
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise _not_installed("mlflow", error) from error
        self._metric = Metric
        directory.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=directory.resolve().as_uri())
        self._run_id = self._find_or_create(run_dir.resolve(), parameters)
        known = self._client.get_run(self._run_id).data.params
        new = [Param(key, _cell(value)) for key, value in parameters.items() if key not in known]
        self._client.log_batch(self._run_id, params=new)
        log.debug("tracking in %s: mlflow ui --backend-store-uri %s", directory, directory)

    def losses(self, training: str, step: int, values: Mapping[str, float]) -> None:
        self._log({f"{training}/{name}": value for name, value in values.items()}, step)

    def figures(self, values: Mapping[str, float]) -> None:
        self._log(values, 0)

    def picture(self, name: str, picture: Image.Image) -> None:
        self._client.log_image(self._run_id, picture.convert("RGB"), f"{name}.png")

    def files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._run_id, str(path))

    def close(self) -> None:
        self._client.set_terminated(self._run_id)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _find_or_create(self, run_dir: Path, parameters: Mapping[str, Any]) -> str:
        """Return the run of this run directory with these settings."""
        name = str(parameters.get("data.name", "us_anomaly"))
        experiment_id = self._experiment(name)
        tags = {"usad.run_dir": str(run_dir), "usad.settings": _fingerprint(parameters)}
        for run in self._client.search_runs([experiment_id]):
            if tags.items() <= run.data.tags.items():
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        return str(self._client.create_run(experiment_id, tags=tags, run_name=run_dir.name).info.run_id)

    def _experiment(self, name: str) -> str:
        """Return the experiment of a name; of several processes that miss it at the same moment only one can make it."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)


def _not_installed(name: str, error: ImportError) -> SettingsError:
    return SettingsError(
        f"`tracking={name}` needs a package that is not installed ({error}): pip install 'us-anomaly[{name}]', or leave "
        "tracking=none"
    )


def _fingerprint(parameters: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
