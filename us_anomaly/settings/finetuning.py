"""Settings of the optional stage that fine-tunes the backbone on the normal training pictures."""

from dataclasses import dataclass

from us_anomaly.settings.checks import above, at_least, between


@dataclass(kw_only=True, slots=True)
class FinetuningSettings:
    """Fine-tuning of the backbone by a task that needs no labels: normal, cut-paste or scar (CutPaste, CVPR 2021)."""

    enabled: bool
    """Include `usad finetune-backbone` in `usad run`, and distil the backbone as it comes out of it."""
    epochs: int
    """Largest number of epochs; one epoch shows a random crop of every training picture that is not held out, once as it
    is and once with each of the two kinds of defects."""
    steps: int | None
    """Largest number of optimiser steps; overrides `finetuning.epochs`."""
    batch_size: int
    """Crops per step; the network sees three times as many pictures."""
    crop_size_px: int
    """Side of the crops."""
    learning_rate: float
    """Learning rate of Adam."""
    weight_decay: float
    """Weight decay of Adam."""
    frozen_stages: int
    """The backbone up to this depth (the last feature map at stride 2**n) keeps its pretrained weights; 0 trains all of it.
    Means and variances of batch norms keep their pretrained values everywhere."""
    head_width: int
    """Width of the hidden layer of the classifier on the pooled descriptor; 0 for a linear classifier."""
    held_out_fraction: float
    """Share of the training pictures that is never trained on and decides when to stop; pictures of one group stay
    together. Validation and test pictures are not looked at."""
    patience: int
    """Stop after this many epochs without a lower loss on the held-out pictures; the best weights are kept."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("finetuning.epochs", self.epochs, 1)
        at_least("finetuning.steps", self.steps, 1)
        at_least("finetuning.batch_size", self.batch_size, 1)
        at_least("finetuning.crop_size_px", self.crop_size_px, 32)
        above("finetuning.learning_rate", self.learning_rate, 0)
        at_least("finetuning.weight_decay", self.weight_decay, 0)
        between("finetuning.frozen_stages", self.frozen_stages, 0, 4)
        between("finetuning.head_width", self.head_width, 0, 4096)
        above("finetuning.held_out_fraction", self.held_out_fraction, 0)
        between("finetuning.held_out_fraction", self.held_out_fraction, 0, 0.9)
        at_least("finetuning.patience", self.patience, 1)
