"""Test images with what is known about them and what was predicted: the input of the evaluation."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from us_anomaly.data.sample import NORMAL_TYPE, Sample, text_lines
from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.layout import is_inside
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.thresholds import is_anomalous

PATH_KEYS = ("map_path", "heatmap_path", "uncertainty_path")
_WAY_OUT = "run `usad infer overwrite=true`"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredImage:
    """One labelled image and its prediction."""

    filename: str
    """As in `split.jsonl`."""
    is_anomalous: bool
    """The label."""
    defect_type: str
    """Name of the defect; `good` for normal images."""
    mask_path: str | None
    """Mask relative to `data.root`, where there is one."""
    score: float
    """Image score."""
    map_path: str | None
    """Anomaly map relative to the run directory, where it was saved."""
    heatmap_path: str | None
    """Heatmap relative to the run directory, where it was saved."""


def parse_predictions(text: str) -> list[dict[str, Any]]:
    """Return the lines of `predictions.jsonl`.

    Raises:
        ArtifactError: A line is not a result; the message names its number.
    """
    results = []
    for number, line in enumerate(text_lines(text), start=1):
        try:
            result = json.loads(line)
            score = float(result["prediction"]["anomaly_score"])
            str(result["filename"])
            outside = [path for key in PATH_KEYS if not _is_below(path := result["prediction"].get(key))]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(
                f"predictions.jsonl, line {number} is not a result ({type(error).__name__}: {error}); {_WAY_OUT}"
            ) from error
        if not math.isfinite(score):
            raise ArtifactError(
                f"predictions.jsonl, line {number}: the score of {result['filename']} is {score}, not a "
                "finite number: the detector is damaged or did not train"
            )
        if outside:
            raise ArtifactError(
                f"predictions.jsonl, line {number}: {outside[0]!r} is no path below the run directory; {_WAY_OUT}"
            )
        results.append(result)
    return results


def _is_below(path: object) -> bool:
    """Return whether a path of a result is absent or stays in the run directory."""
    return path is None or (isinstance(path, str) and is_inside(path))


def scored_images(
    results: Iterable[Mapping[str, Any]],
    samples: Iterable[Sample],
    *,
    deployed_threshold: float,
    problems: DataProblems | None = None,
) -> list[ScoredImage]:
    """Join results with the samples to be evaluated, in the order of the samples; other results are left out.

    Args:
        results: Lines of `predictions.jsonl`.
        samples: The test samples.
        deployed_threshold: Anomalous means score >= this.
        problems: Receives samples without result, which are then left out; None makes them an error.

    Raises:
        ArtifactError: A sample has no result, or a decision contradicts the threshold now in force.
    """
    by_filename = {result["filename"]: result for result in results}
    wanted = list(samples)
    missing = [sample.filename for sample in wanted if sample.filename not in by_filename]
    if missing and problems is not None:
        for filename in missing:
            problems.add("images_without_prediction", filename)
        wanted = [sample for sample in wanted if sample.filename in by_filename]
    elif missing:
        raise ArtifactError(
            f"predictions.jsonl has no result for {len(missing)} of {len(wanted)} test images, for example "
            f"{missing[0]}: run `usad infer` with inference.splits=[val,test]"
        )
    images = []
    for sample in wanted:
        prediction = by_filename[sample.filename]["prediction"]
        score = float(prediction["anomaly_score"])
        decision = prediction.get("is_anomalous")
        if decision is not None and decision != is_anomalous(score, deployed_threshold):
            raise ArtifactError(
                f"predictions.jsonl calls {sample.filename} {'anomalous' if decision else 'normal'} at score "
                f"{score:g}, which contradicts the threshold {deployed_threshold:g} in calibration.json; "
                f"{_WAY_OUT}"
            )
        images.append(
            ScoredImage(
                filename=sample.filename,
                is_anomalous=sample.is_anomalous,
                defect_type=sample.defect_type if sample.is_anomalous else NORMAL_TYPE,
                mask_path=sample.mask_path,
                score=score,
                map_path=prediction.get("map_path"),
                heatmap_path=prediction.get("heatmap_path"),
            )
        )
    return images
