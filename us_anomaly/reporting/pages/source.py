"""What the pages are made of: the run directory's results, read and checked by the command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from us_anomaly.data.sample import Sample
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.pixel_source import PixelSource


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSource:
    """Everything that a report shows."""

    run_dir: RunDir
    """Where predictions and heatmaps are; the pages go into its folder `report`."""
    data_root: Path
    """Where images and masks are."""
    data_name: str
    """Name of the data set, with its category if it has one."""
    samples: Sequence[Sample]
    """Lines of `split.jsonl`."""
    predictions: Sequence[Mapping[str, Any]]
    """Lines of `predictions.jsonl`."""
    evaluation: Mapping[str, Any]
    """Content of `evaluation.json`."""
    calibration: Calibration
    """Threshold and colours."""
    configuration: Mapping[str, Mapping[str, Any]]
    """Plain values that decided the results, by group and key."""
    scales: Sequence[int]
    """Patch sizes, whose training curves are shown."""
    pixels: PixelSource | None
    """Maps and masks for the PRO curve; None where there are none."""
    max_image_pixels: int
    """Larger images are refused."""
    num_workers: int
    """Threads that draw."""
    white_level: float | None = None
    """Which value is white in pictures of more than 8 bits; None: guessed for each."""
