"""How far an exported detector says the same as the detector it was made from, on real pictures."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from us_anomaly.commands.stage import image_paths, read_split
from us_anomaly.data.images import read_image
from us_anomaly.data.listing import exists
from us_anomaly.data.procedural import ProceduralPictures
from us_anomaly.detector import Detector
from us_anomaly.errors import ArtifactError
from us_anomaly.onnx_model import OnnxDetector
from us_anomaly.reporting.progress import progress
from us_anomaly.run_dir import RunDir
from us_anomaly.settings import Settings, TransformSettings

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MAX_PICTURES = 20
"""Pictures on which they are compared, evenly drawn."""
DRAWN_SIDE_PX = 256
TOLERANCE = 1e-3
"""Largest difference between float32 arithmetic in two orders, as a share of the largest value and the unit of the score."""

PILLOW_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
}
"""Filters of Pillow by the interpolations of torchvision that resize tensors."""

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far they agree; content of `parity.json`."""

    format_version: int = FORMAT_VERSION
    pictures: str
    """Split that the pictures are from, or `drawn` where those of the data set are not there."""
    num_pictures: int
    max_score_difference: float
    """Largest difference of an image score from that of the detector in float32."""
    max_map_difference: float
    """The same of all values of the anomaly maps, at the networks' resolution."""
    max_uncertainty_difference: float
    """The same of the uncertainty maps."""
    precision: str
    """Number format of the detector under the settings in force."""
    max_score_difference_as_used: float
    """Largest difference of an image score from that of the detector in this number format."""
    num_decisions_that_differ: int
    """Pictures that this one decides otherwise."""
    max_score_difference_by_pillow: float | None
    """Largest change of an image score where Pillow resizes the picture; None where the transform list does what it cannot."""
    score_scale: float
    """Unit of the score, to judge differences by."""


def reference_pictures(settings: Settings) -> tuple[str, list[Picture]]:
    """Return pictures of validation, else of training, else drawn ones, and which of these they are.

    Raises:
        BadImageError: A picture of the data set cannot be read.
    """
    run_dir = RunDir(settings.run_dir)
    if run_dir.split.exists():
        for split in ("val", "train"):
            paths = image_paths(settings, read_split(run_dir, split))
            chosen = paths[:: -(-len(paths) // MAX_PICTURES)] if paths else []
            if chosen and all(map(exists, chosen)):
                max_pixels, white_level = settings.data.max_image_pixels, settings.data.white_level
                return split, [read_image(path, max_pixels=max_pixels, white_level=white_level) for path in chosen]
    log.warning("the pictures of the data set are not there: the exported detector is compared on drawn pictures")
    source, rng = ProceduralPictures(side_px=DRAWN_SIDE_PX), np.random.default_rng(settings.seed)
    drawn = [source.draw(rng) for _ in range(MAX_PICTURES)]
    # Of two shapes: where the shape decides what the networks see, nobody knows that without the data set.
    return "drawn", [picture[: DRAWN_SIDE_PX // 2] if number % 2 else picture for number, picture in enumerate(drawn)]


def measure_parity(
    exported: OnnxDetector,
    detector: Detector,
    *,
    as_used: Detector,
    source: str,
    pictures: Sequence[Picture],
    prepared: Sequence[Tensor],
    by_pillow: Image.Resampling | None,
    show_progress: bool,
) -> Parity:
    """Compare an exported detector with the one it was made from.

    Args:
        exported: The former.
        detector: The latter, in float32.
        as_used: The latter in the number format of the settings in force.
        source: What `reference_pictures` says.
        pictures: (H, W, 3) each, as they are read.
        prepared: (3, h, w) each, the same as the networks see them.
        by_pillow: Filter with which Pillow resizes the pictures, too; None where it does not.
        show_progress: Show how far it is.

    Raises:
        ArtifactError: They do not agree.
    """
    height, width = prepared[0].shape[-2:]
    unit = detector.require_calibration().score_scale
    scores, maps, doubts, used, others, resized = ([] for _ in range(6))
    is_agreed = True
    with progress("comparing", len(pictures), enabled=show_progress) as on_step:
        for picture, tensor in zip(pictures, prepared, strict=True):
            answer = exported.predict(tensor.numpy())
            expected, in_use = (one.predict_prepared(tensor, height=height, width=width) for one in (detector, as_used))
            scores.append(abs(answer.anomaly_score - expected.anomaly_score))
            maps.append(_largest(answer.anomaly_map - expected.anomaly_map))
            doubts.append(_largest(answer.uncertainty_map - expected.uncertainty_map))
            allowed = TOLERANCE * (unit + max(_largest(expected.anomaly_map), _largest(expected.uncertainty_map)))
            is_agreed &= all(difference <= allowed for difference in (scores[-1], maps[-1], doubts[-1]))  # NaN is none
            used.append(abs(answer.anomaly_score - in_use.anomaly_score))
            others.append(answer.is_anomalous != in_use.is_anomalous)
            if by_pillow is not None:
                again = exported.predict(resized_by_pillow(picture, by_pillow, height=height, width=width))
                resized.append(abs(again.anomaly_score - answer.anomaly_score))
            on_step(len(scores), {})
    if not is_agreed:
        raise ArtifactError(
            f"the exported detector differs from the original by up to {np.max(scores):.3g} in scores and "
            f"{np.max([*maps, *doubts]):.3g} in maps, more than rounding explains: nothing was written; other versions of torch, "
            "onnxscript or onnxruntime may do better"
        )
    return Parity(
        pictures=source,
        num_pictures=len(pictures),
        max_score_difference=max(scores),
        max_map_difference=max(maps),
        max_uncertainty_difference=max(doubts),
        precision=as_used.compute.precision,
        max_score_difference_as_used=max(used),
        num_decisions_that_differ=sum(others),
        max_score_difference_by_pillow=max(resized) if resized else None,
        score_scale=unit,
    )


def filter_of_pillow(before: Sequence[TransformSettings]) -> Image.Resampling | None:
    """Return the filter of Pillow that does what these transforms do; None where they do more than one can, or it has none."""
    if [entry.name for entry in before] != ["Resize"]:
        return None
    return PILLOW_FILTERS.get(before[0].params.get("interpolation", "bilinear"))


def resized_by_pillow(picture: Picture, resample: Image.Resampling, *, height: int, width: int) -> Picture:
    """Return a picture (H, W, 3) as (3, height, width), made by Pillow alone, as docs/deployment.md shows it."""
    resized = Image.fromarray(picture).resize((width, height), resample)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _largest(values: npt.NDArray[np.float32]) -> float:
    return float(np.abs(values).max())
