"""The detector: the one path from an image to its score, which every command and the Python interface take.

Shapes: H W pixels of the image as it lies on disk, h w pixels of the network's input.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from us_anomaly.data.augmentation import Pipeline
from us_anomaly.data.images import DEFAULT_MAX_PIXELS, read_image, rgb_of
from us_anomaly.errors import ArtifactError, DataError, MissingArtifactError
from us_anomaly.models.compute import Compute
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.scoring.anomaly_map import combine, image_score
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.position_statistics import ScalePositionStatistics
from us_anomaly.scoring.raw_maps import RawMaps, raw_maps
from us_anomaly.settings import ScoringSettings
from us_anomaly.training.normalization import TeacherStatistics

FloatMap = npt.NDArray[np.float32]
ImageLike = str | Path | npt.NDArray[np.uint8] | Image.Image
"""A file, an RGB array (H, W, 3) of bytes, or a picture of PIL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the detector says about one image."""

    anomaly_score: float
    """Score of the image; its unit depends on the scoring settings."""
    normalized_score: float
    """The score mapped to (0, 1); the threshold is 0.5."""
    is_anomalous: bool
    """The decision: score at or above the threshold."""
    anomaly_map: FloatMap
    """(H, W) scores at the resolution of the image."""
    uncertainty_map: FloatMap
    """(H, W) predictive uncertainty."""


@dataclass(frozen=True, slots=True)
class ScaleModel:
    """Teacher, statistics and students of one patch size."""

    teacher: PatchNetwork
    statistics: TeacherStatistics
    ensemble: StudentEnsemble
    positions: ScalePositionStatistics | None = None
    """What is normal at each position; with `scoring.per_position` only."""

    def raw_maps(
        self, image: Tensor, *, scoring: ScoringSettings, compute: Compute, finish: Callable[[Tensor], Tensor]
    ) -> RawMaps:
        """Return error and uncertainty of a picture (3, h, w), of which `finish` makes the normalised input of the networks."""
        return raw_maps(
            image,
            finish=finish,
            teacher=self.teacher,
            ensemble=self.ensemble,
            statistics=self.statistics,
            stride=scoring.stride_px,
            border_px=scoring.border_px,
            compute=compute,
        )


class Detector:
    """Turn images into maps, scores and decisions."""

    def __init__(
        self,
        scales: dict[int, ScaleModel],
        *,
        pipeline: Pipeline,
        scoring: ScoringSettings,
        calibration: Calibration | None,
        compute: Compute,
        max_image_pixels: int = DEFAULT_MAX_PIXELS,
        white_level: float | None = None,
    ) -> None:
        """Put a detector together.

        Args:
            scales: Models by patch size.
            pipeline: Deterministic transforms from an image to the network's input.
            scoring: How maps become scores.
            calibration: Statistics and thresholds; None before calibration, when only `raw_maps` can be had.
            compute: Device and number format.
            max_image_pixels: Larger images are refused.
            white_level: Which value is white in pictures of more than 8 bits; None guesses it for each.
        """
        self.scales = {size: _for_inference(model, compute) for size, model in scales.items()}
        self.pipeline = pipeline
        self.scoring = scoring
        self.calibration = calibration
        self.compute = compute
        self.max_image_pixels = max_image_pixels
        self.white_level = white_level

    def raw_maps(self, prepared: Tensor) -> dict[int, RawMaps]:
        """Return error and uncertainty on the grid of `scoring.stride_px` by patch size, in relation to their position if known.

        Args:
            prepared: uint8 (3, h, w), what the head of `pipeline` makes of an image.

        Raises:
            ArtifactError: A value is not a finite number: the weights are damaged, or training diverged.
            DataError: It is no picture of bytes, or has another size than those that `scoring.per_position` knows about.
        """
        if prepared.dtype is not torch.uint8:
            raise DataError(
                f"raw maps are made of what `pipeline.prefix` gives, uint8 (3, h, w), not of {prepared.dtype}"
            )
        with self.compute.alone():
            image, finish = self.pipeline.by_parts(prepared)
            return {size: self._raw_maps(size, model, image, finish) for size, model in self.scales.items()}

    def _raw_maps(
        self, patch_size: int, model: ScaleModel, image: Tensor, finish: Callable[[Tensor], Tensor]
    ) -> RawMaps:
        raw = model.raw_maps(image, scoring=self.scoring, compute=self.compute, finish=finish)
        if not bool((torch.isfinite(raw.error) & torch.isfinite(raw.uncertainty)).all()):
            raise ArtifactError(
                f"the detector of patch size {patch_size} gives values that are not finite numbers: train it again, with a "
                "lower learning rate or runtime.precision=float32"
            )
        if not self.scoring.per_position:
            return raw
        assert model.positions is not None
        if raw.error.shape != model.positions.shape:
            known = "x".join(str(length * self.scoring.stride_px) for length in model.positions.shape)
            raise DataError(
                f"the picture has {raw.grid.height}x{raw.grid.width} pixels for the networks, and scoring.per_position=true "
                f"was measured on pictures of about {known}: calibrate again with scoring.per_position=false, or train "
                "anew with a Resize to one height and width in augmentation.evaluation"
            )
        return model.positions.relate(raw)

    def predict(self, images: Iterable[ImageLike] | ImageLike) -> list[Prediction]:
        """Return a prediction for every image.

        The maps of all of them are kept until the last one is scored, and one that fails costs the results of all: for many
        pictures call this once for each, or see `stream`.

        Args:
            images: Paths, RGB arrays (H, W, 3) of bytes, or pictures of PIL; a single one is taken as a list of one. OpenCV has
                BGR: give it `frame[..., ::-1]`.

        Raises:
            BadImageError: A file cannot be decoded.
            DataError: Something is no picture, an array is no RGB picture of bytes, or a picture has another size than
                `scoring.per_position` knows.
            ArtifactError: The networks give values that are not finite numbers.
            MissingArtifactError: The detector was not calibrated.
        """
        single = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
        return list(self.stream([images] if single else images))  # type: ignore[list-item, arg-type]

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Prediction]:
        """Yield a prediction for every image as it is computed, in order; none is kept.

        Args:
            images: As `predict` takes several.

        Raises:
            BadImageError, DataError, ArtifactError, MissingArtifactError: As `predict`, at the image that fails, which ends the
                stream.
        """
        for image in images:
            yield self.predict_pixels(self._pixels(image))

    def _pixels(self, image: ImageLike) -> npt.NDArray[np.uint8]:
        match image:
            case np.ndarray():
                return image
            case str() | Path():
                return read_image(Path(image), max_pixels=self.max_image_pixels, white_level=self.white_level)
            case Image.Image():
                return rgb_of(image, white_level=self.white_level)
        raise DataError(
            f"a picture must be a path, an RGB array (height, width, 3) of uint8 or a picture of PIL, got {type(image).__name__}"
        )

    def predict_pixels(self, pixels: npt.NDArray[np.uint8]) -> Prediction:
        """Return the prediction for one RGB picture (H, W, 3) of bytes.

        Raises:
            DataError: It is something else, or has another size than `scoring.per_position` knows.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
            raise DataError(
                f"a picture must be an RGB array (height, width, 3) of uint8, got shape {pixels.shape} of {pixels.dtype}"
            )
        height, width = pixels.shape[:2]
        with self.compute.alone():
            prepared = self.pipeline.prefix(pixels)
        return self.predict_prepared(prepared, height=height, width=width)

    def predict_prepared(self, prepared: Tensor, *, height: int, width: int) -> Prediction:
        """Return the prediction for a picture of `height` x `width` pixels from what the head of `pipeline` made of it.

        The image score is taken from the map at the network's resolution; the maps are then resized to the image.

        Args:
            prepared: uint8 (3, h, w).
            height: Rows of the picture on disk.
            width: Columns of the picture on disk.
        """
        calibration = self.require_calibration()
        with self.compute.alone():
            raw = self.raw_maps(prepared)
            anomaly_map, uncertainty = combine(raw, statistics=calibration.statistics, settings=self.scoring)
            score = image_score(anomaly_map, settings=self.scoring)
            return Prediction(
                anomaly_score=score,
                normalized_score=calibration.normalized_score(score),
                is_anomalous=calibration.decide(score),
                anomaly_map=resize_map(anomaly_map, height=height, width=width),
                uncertainty_map=resize_map(uncertainty, height=height, width=width),
            )

    def require_calibration(self) -> Calibration:
        """Return the calibration.

        Raises:
            MissingArtifactError: The detector was not calibrated.
        """
        if self.calibration is None:
            raise MissingArtifactError("the detector is not calibrated: run `usad calibrate` first")
        return self.calibration


def resize_map(values: Tensor, *, height: int, width: int) -> FloatMap:
    """Resize a map (h, w) to (height, width) bilinearly."""
    if values.shape != (height, width):
        values = nn.functional.interpolate(
            values[None, None], size=(height, width), mode="bilinear", align_corners=False
        )[0, 0]
    array: FloatMap = values.numpy()
    return array


def _for_inference(model: ScaleModel, compute: Compute) -> ScaleModel:
    """Return a model on the device of the arithmetic; its networks, moved in place, in its number format and channels last."""
    for network in (model.teacher, model.ensemble):
        network.requires_grad_(False).eval()
        network.to(compute.device, compute.dtype).to(memory_format=torch.channels_last)
    return replace(model, statistics=model.statistics.to(compute.device))
