"""Training that survives: its state is saved by time and by steps, and a killed training goes on from there.

The state holds weights and optimiser; order and randomness of the data follow from the number of the step
(`us_anomaly.training.course`), so on one machine the resumed training ends with the same bytes as an undisturbed one.
"""

import json
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from us_anomaly.errors import ArtifactError, TrainingError
from us_anomaly.run_dir.atomic import read_tensors, write_tensors, write_text
from us_anomaly.settings import CheckpointSettings

log = logging.getLogger(__name__)

MAX_CURVE_POINTS = 2000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM asked to stop; the state is saved."""

    def __init__(self, signal_number: int) -> None:
        """Remember the signal, whose number decides the exit code."""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Stateful(Protocol):
    """A network or an optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take them back."""
        ...


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
            state_path: File from which it resumes; removed by `finish`.
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
        self._saved_at = time.monotonic()
        self._signal: int | None = None

    def resume(self) -> int:
        """Load the saved state if there is one for this training; return the number of steps already done."""
        if not self._state_path.exists():
            return 0
        try:
            state = read_tensors(self._state_path)
            if state["key"] != self._key:
                log.info("%s belongs to other settings: training starts anew", self._state_path)
                return 0
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            self._curve = [dict(point) for point in state["curve"]]
            step = int(state["step"])
        except (ArtifactError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{self._state_path} cannot be resumed from ({error}); delete it to train anew"
            ) from error
        log.info("resuming after step %d", step)
        return step

    def after_step(self, step: int, losses: dict[str, float], *, total: int) -> None:
        """Note the losses, save if it is time, and stop if a signal asked for it.

        Args:
            step: Number of steps done.
            losses: Losses of the last one.
            total: Number of steps of the whole training.

        Raises:
            Interrupted: After saving.
            TrainingError: A loss is not finite; the last saved state is kept.
        """
        bad = [name for name, value in losses.items() if not torch.isfinite(torch.tensor(value))]
        if bad:
            raise TrainingError(
                f"the {bad[0]} loss became {losses[bad[0]]} at step {step}: lower the learning rate, or use "
                "runtime.precision=float32. The last good checkpoint is kept and is resumed from"
            )
        if step % max(1, total // MAX_CURVE_POINTS) == 0 or step == total:
            self._curve.append({"step": step, **{name: round(value, 6) for name, value in losses.items()}})
        due = time.monotonic() - self._saved_at >= self._settings.every_seconds
        every_steps = self._settings.every_steps
        if self._signal is not None or due or (every_steps is not None and step % every_steps == 0):
            self.save(step)
        if self._signal is not None:
            raise Interrupted(self._signal)

    def save(self, step: int) -> None:
        """Write the state after `step` steps, and the loss curve up to there."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        write_tensors(self._state_path, {"key": self._key, "step": step, "parts": parts, "curve": self._curve})
        self._write_curve()
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Write the whole loss curve; the state stays until the artifact itself is on disk (`discard`)."""
        self._write_curve()

    def discard(self) -> None:
        """Remove the state: the artifact is complete."""
        self._state_path.unlink(missing_ok=True)

    def _write_curve(self) -> None:
        write_text(self._curve_path, "".join(json.dumps(point) + "\n" for point in self._curve))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Within it, Ctrl-C and SIGTERM are noted and obeyed after the current step has been saved."""

        def note(signal_number: int, frame: FrameType | None) -> None:
            self._signal = signal_number

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            previous = [signal.signal(number, note) for number in numbers]
        except ValueError:  # not in the main thread, where Python delivers no signals: nothing to guard against
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)
