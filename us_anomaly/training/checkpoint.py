"""Training that survives: its state is saved by time and by steps, and a killed training goes on from there.

The state holds weights and optimiser; order and randomness of the data follow from the number of the step
(`us_anomaly.training.course`), so on one machine the resumed training ends with the same bytes as an undisturbed one.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from us_anomaly.errors import ArtifactError, TrainingError
from us_anomaly.run_dir.atomic import read_tensors, write_tensors, write_text
from us_anomaly.run_dir.faults import is_out_of_memory
from us_anomaly.run_dir.interruption import Interrupted, deferred
from us_anomaly.settings import CheckpointSettings

__all__ = ["Interrupted", "Stateful", "TrainingCheckpoint"]

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MAX_CURVE_POINTS = 2000


class Stateful(Protocol):
    """A network or an optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take them back."""
        ...


def seconds_trained(state_path: Path, *, key: str) -> float:
    """Return how long a training took over all its attempts, as its last state tells; 0 for that of another training."""
    try:
        state = read_tensors(state_path)
        return float(state.get("seconds", 0.0)) if state.get("key") == key else 0.0
    except (ArtifactError, TypeError, ValueError):
        return 0.0


class TrainingCheckpoint:
    """Save and resume the parts of one training, and keep its loss curve."""

    def __init__(
        self,
        state_path: Path,
        curve_path: Path,
        *,
        key: str,
        parts: Mapping[str, Stateful],
        settings: CheckpointSettings,
    ) -> None:
        """Describe the training.

        Args:
            state_path: File from which it resumes; whoever records the finished artifact removes it.
            curve_path: Losses by step, one JSON object per line.
            key: Identifies what is trained, from what and how; a state with another key is not resumed.
            parts: Networks and optimiser by name.
            settings: How often to save.
        """
        self._state_path = state_path
        self._curve_path = curve_path
        self._key = key
        self._parts = dict(parts)
        self._settings = settings
        self._curve: list[dict[str, float]] = []
        self._began_at = self._saved_at = time.monotonic()
        self._seconds_before = 0.0
        self._signal: int | None = None

    def resume(self) -> int:
        """Load the saved state if there is one for this training; return the number of steps already done.

        Raises:
            ArtifactError: The state is damaged.
        """
        if not self._state_path.exists():
            return 0
        try:
            state = read_tensors(self._state_path)
            if state.get("format_version") != FORMAT_VERSION or state["key"] != self._key:
                log.warning("%s belongs to other settings: training starts anew", self._state_path)
                return 0
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            self._curve = [dict(point) for point in state["curve"]]
            step = int(state["step"])
            self._seconds_before = float(state.get("seconds", 0.0))  # states of version 0.6.0 do not tell
        except (ArtifactError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise ArtifactError(
                f"{self._state_path} cannot be resumed from ({error}); delete it to train anew"
            ) from error
        log.info("resuming after step %d", step)
        return step

    def after_step(self, step: int, losses: dict[str, float], *, total: int, is_noted: bool = False) -> None:
        """Note the losses, save if it is time or the end, and stop if a signal asked for it.

        The state after the last step is saved too: what comes then, measuring and writing the artifact, may fail as well.

        Args:
            step: Number of steps done.
            losses: Losses of the last one.
            total: Number of steps of the whole training.
            is_noted: Keep these losses in the curve, which of a long training holds some steps only.

        Raises:
            Interrupted: After saving.
            TrainingError: A loss is not finite; the last saved state is kept.
        """
        bad = [name for name, value in losses.items() if not torch.isfinite(torch.tensor(value))]
        if bad:
            which = bad[0] if bad[0] == "loss" else f"{bad[0]} loss"
            raise TrainingError(
                f"the {which} became {losses[bad[0]]} at step {step}: lower the learning rate, or use "
                "runtime.precision=float32. The last good checkpoint is kept and is resumed from"
            )
        if is_noted or step % max(1, total // MAX_CURVE_POINTS) == 0 or step == total:
            self._curve.append({"step": step, **{name: round(value, 6) for name, value in losses.items()}})
        due = time.monotonic() - self._saved_at >= self._settings.every_seconds
        every_steps = self._settings.every_steps
        if self._signal is not None or due or step == total or (every_steps is not None and step % every_steps == 0):
            self.save(step)
        if self._signal is not None:
            raise Interrupted(self._signal)

    def save(self, step: int) -> None:
        """Write the state after `step` steps, and the loss curve up to there.

        Raises:
            TrainingError: A weight is not finite; the last saved state is kept.
        """
        state = {
            "format_version": FORMAT_VERSION,
            "key": self._key,
            "step": step,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "curve": self._curve,
            "seconds": self._seconds_before + time.monotonic() - self._began_at,
        }
        curve = "".join(json.dumps(point) + "\n" for point in self._curve)
        write_text(self._curve_path, curve)  # first: a curve ahead of the state is written again, one behind it is not
        write_tensors(self._state_path, state)
        self._saved_at = time.monotonic()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Within it, Ctrl-C and SIGTERM are noted and obeyed after the current step has been saved.

        A second one is obeyed at once; then the training goes on from the state before.
        """

        def note(signal_number: int) -> None:
            self._signal = signal_number
            log.warning("stopping after this step; once more stops at once")

        with deferred(note):
            yield
            if self._signal is not None:  # it came after the last step, whose state is saved
                raise Interrupted(self._signal)
