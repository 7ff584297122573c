"""Settings of the students."""

from dataclasses import dataclass

from us_anomaly.errors import SettingsError
from us_anomaly.settings.checks import above, at_least, between, expanded
from us_anomaly.settings.teacher import OptimizerName, Schedule, StudentPositions

MAX_EXTRA_LAYERS = 8
"""Limit of `students.extra_layers`."""
MIN_WINDOW_PX = 32
"""Limit of `students.window_px`: a smaller window is hardly more than its margin."""


@dataclass(kw_only=True, slots=True)
class StudentSettings:
    """Regression of the ensemble on the normalised teacher."""

    num_students: int
    """Number M of students."""
    width: float | None
    """Multiplies the channels of every hidden layer; null takes the teacher's width."""
    extra_layers: int
    """1x1 convolutions that students have before the descriptor and the teacher has not."""
    epochs: int
    """One epoch shows every training picture, or a window of it, once."""
    steps: int | None
    """Number of optimiser steps; overrides `students.epochs`."""
    batch_size: int
    """Pictures per step."""
    optimizer: OptimizerName
    """`adam`, as published, or `muon`; see `teacher.optimizer`."""
    learning_rate: float
    """Learning rate of the first step."""
    weight_decay: float
    """Weight decay of the optimiser."""
    schedule: Schedule
    """Course of the learning rate."""
    positions: StudentPositions
    """`grid` trains on a random phase of the stride-4 grid (8 and 16 for patches of 66 and 132), at a tenth of the
    cost, with nearly the same expected gradient where hard_fraction is 1; `dense` trains on every position."""
    window_px: int | None
    """Side, in pixels of the network's input, of the square window that a step looks at, drawn anew for each, so that time and
    memory of a step hardly grow with `image_size`; null looks at whole pictures. A position counts with all that lies
    around it either way. What a window leaves out other steps see, so large pictures may need more of them."""
    hard_fraction: float
    """Only this fraction of the output elements of a step, those with the largest error, trains; 1 trains all."""
    penalty_images: str | None
    """Pictures on which students must answer the mean descriptor, so that they do not imitate the teacher outside the
    domain: `generic`, `photographs`, `procedural`, a folder, or null for none."""
    penalty_weight: float
    """Weight of that penalty."""
    noise: float
    """Standard deviation of Gaussian noise on the pictures that students see, in units of the normalised input (about that of
    natural pictures); each student gets its own, the teacher sees the clean picture."""
    validate_every_steps: int | None
    """Measure the mean regression error on the validation normals after so many steps, and keep the weights of the smallest;
    null keeps the last weights."""
    patience: int | None
    """Stop when that error was not the smallest so far this many times in a row; null trains to the end."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("students.num_students", self.num_students, 1)
        if self.width is not None:
            between("students.width", self.width, 0.05, 8)
        between("students.extra_layers", self.extra_layers, 0, MAX_EXTRA_LAYERS)
        at_least("students.epochs", self.epochs, 1)
        at_least("students.steps", self.steps, 1)
        at_least("students.batch_size", self.batch_size, 1)
        above("students.learning_rate", self.learning_rate, 0)
        at_least("students.weight_decay", self.weight_decay, 0)
        at_least("students.window_px", self.window_px, MIN_WINDOW_PX)
        above("students.hard_fraction", self.hard_fraction, 0)
        between("students.hard_fraction", self.hard_fraction, 0, 1)
        at_least("students.penalty_weight", self.penalty_weight, 0)
        if self.penalty_images is not None:
            self.penalty_images = expanded("students.penalty_images", self.penalty_images)
        elif self.penalty_weight:
            raise SettingsError(
                "`students.penalty_weight` weighs pictures that there are none of: set students.penalty_images too, for "
                "example to generic"
            )
        at_least("students.noise", self.noise, 0)
        at_least("students.validate_every_steps", self.validate_every_steps, 1)
        at_least("students.patience", self.patience, 1)
        if self.patience is not None and self.validate_every_steps is None:
            raise SettingsError(
                "`students.patience` counts validations: set students.validate_every_steps too, for example to 250"
            )
