"""`usad calibrate`: score statistics, thresholds and colours from the validation pictures."""

import logging
from pathlib import Path

from us_anomaly.commands.detectors import build_detector
from us_anomaly.commands.positions import agreement, make_position_statistics
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make, read_split
from us_anomaly.commands.training_images import cached_images
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.data.memory import available_memory_bytes
from us_anomaly.data.sample import Sample
from us_anomaly.detector import Detector
from us_anomaly.errors import DataError
from us_anomaly.models.compute import choose_compute
from us_anomaly.reporting.progress import progress
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.run_dir.environment import say_if_calibrated_otherwise
from us_anomaly.scoring.calibration import Calibration, MapsOf, calibrate
from us_anomaly.scoring.calibration_file import calibrated_precision, read_calibration
from us_anomaly.scoring.picture_level import MIN_PICTURES
from us_anomaly.scoring.raw_maps import RawMaps
from us_anomaly.scoring.threshold_support import threshold_doubt
from us_anomaly.settings import CalibrationSettings, Settings
from us_anomaly.settings.plain import plain
from us_anomaly.training.course import OnStep

log = logging.getLogger(__name__)

MAX_MEMORY_SHARE = 0.25
NUM_ROUNDS = 2
"""How often `calibrate` looks at the maps of a normal picture; with `scoring.per_picture` once more."""


def run(settings: Settings) -> None:
    """Calibrate the detector on validation pictures and write `calibration.json`."""
    run_dir = RunDir(settings.run_dir)
    recipes = Recipes(settings)
    if settings.scoring.per_position:
        make_position_statistics(settings, recipes)
    recipe = recipes.calibration

    def build() -> None:
        calibration = measure(settings)
        content = {
            "calibration": calibration.to_json(),
            "scoring": plain(settings.scoring),
            "transforms": plain(settings.augmentation.evaluation),
            "precision": choose_compute(settings.runtime).precision,
            "white_level": settings.data.white_level,
        }
        write_json(run_dir.calibration, content)

    make(
        run_dir.calibration,
        recipe,
        build,
        settings=settings,
        is_precious=False,
        anew=settings.overwrite,  # as the message about another number format advises
    )
    content = read_json(run_dir.calibration)
    calibration, _, _ = read_calibration(content, path=run_dir.calibration)
    say_if_calibrated_otherwise(
        run_dir.root,
        calibrated=calibrated_precision(content, path=run_dir.calibration),
        now=choose_compute(settings.runtime).precision,
    )
    _tell_doubts(calibration, settings.calibration)
    scales = settings.scales if settings.scoring.per_position else []
    _summarize(calibration, run_dir, {size: run_dir.position_statistics(size) for size in scales})


def measure(settings: Settings) -> Calibration:
    """Compute the raw maps of the reference pictures and calibrate on them.

    Raises:
        DataError: There is no normal picture to calibrate on, or none that the threshold's rule needs.
    """
    samples = read_split(RunDir(settings.run_dir))
    normals = [sample for sample in samples if sample.split == "val" and not sample.is_anomalous]
    anomalies = [sample for sample in samples if sample.split == "val" and sample.is_anomalous]
    reference = "val"
    if not normals:
        reference = "train"
        normals = [sample for sample in samples if sample.split == "train"]
        log.warning(
            "validation has no normal picture: calibrating on the training pictures, whose scores are lower than those of new "
            "ones; a split with a validation share gives better thresholds"
        )
    if not normals:
        raise DataError("there is no normal picture to calibrate on: give other split.ratios")
    detector = build_detector(settings, None)
    compute_maps = _RawMapsOf(settings, detector, normals + anomalies)
    lazily = [compute_maps.of(index) for index in range(len(normals) + len(anomalies))]
    num_rounds = 1 if compute_maps.keeps else NUM_ROUNDS + settings.scoring.per_picture
    with progress(
        "scoring validation", num_rounds * len(normals) + len(anomalies), enabled=settings.runtime.progress
    ) as on_step:
        compute_maps.compute_all(on_step)
        return calibrate(
            lazily[: len(normals)],
            lazily[len(normals) :],
            reference=reference,
            scoring=settings.scoring,
            settings=settings.calibration,
        )


class _RawMapsOf:
    """Raw maps of pictures: kept if they fit into a share of the memory, computed anew at every call otherwise."""

    def __init__(self, settings: Settings, detector: Detector, samples: list[Sample]) -> None:
        self._detector = detector
        self._samples = samples
        self._cache: ImageCache = cached_images(settings, samples, detector.pipeline, description="decoding validation")
        self._kept: dict[int, dict[int, RawMaps]] = {}
        self._on_step: OnStep = lambda done, values: None
        self._num_computed = 0
        num_pixels = sum(self._cache[index][0].numel() for index in range(len(samples)))
        num_bytes = 8 * len(detector.scales) * num_pixels / settings.scoring.stride_px**2
        self.keeps = num_bytes < MAX_MEMORY_SHARE * available_memory_bytes()

    def compute_all(self, on_step: OnStep) -> None:
        """Compute all maps if they are kept; tell each, now and later, to `on_step`."""
        self._on_step = on_step
        if self.keeps:
            for index in range(len(self._samples)):
                self._kept[index] = self._compute(index)

    def of(self, index: int) -> MapsOf:
        """Return a function that returns the maps of one picture."""
        return lambda: self._kept[index] if self.keeps else self._compute(index)

    def _compute(self, index: int) -> dict[int, RawMaps]:
        try:
            maps = self._detector.raw_maps(self._cache[index])
        except DataError as error:
            raise DataError(f"{self._samples[index].filename}: {error}") from error
        self._num_computed += 1
        self._on_step(self._num_computed, {})
        return maps


def _tell_doubts(calibration: Calibration, settings: CalibrationSettings) -> None:
    """Log what was not done as asked for, and what so few pictures cannot tell."""
    if calibration.threshold_reason:
        log.warning("threshold by %s: %s", calibration.threshold_rule, calibration.threshold_reason)
    if (doubt := threshold_doubt(calibration, settings)) is not None:
        log.log(logging.WARNING if doubt.is_grave else logging.INFO, "%s", doubt.text)
    if _slopes(calibration) and calibration.num_normal < MIN_PICTURES:
        log.warning(
            "scoring.per_picture=true leaves maps as they are: it takes %d normal pictures to learn how their levels differ, and "
            "there are %d; a split with a larger validation share has more",
            MIN_PICTURES,
            calibration.num_normal,
        )


def _summarize(calibration: Calibration, run_dir: RunDir, positions: dict[int, Path]) -> None:
    """Say what was chosen and why; `positions` are the files of what is normal at each position, by patch size."""
    levels = _slopes(calibration)
    origin = (
        f"{calibration.num_normal} normal and {calibration.num_anomalous} anomalous pictures ({calibration.reference})"
    )
    threshold = f"{calibration.image_threshold:.4g} by {calibration.threshold_rule}, from {origin}"
    if calibration.threshold_rule == "number":  # no picture has a part in it
        threshold = f"{calibration.image_threshold:.10g}, as given"
    show_summary(
        Summary(
            command="calibrate",
            facts=[
                ("threshold", threshold),
                *([("of these pictures", decided)] if (decided := _decided(calibration)) else []),
                ("colours", "{:.4g} (blue) to {:.4g} (red)".format(*calibration.color_range)),
                *([("agreement of normal maps", agreement(positions))] if positions else []),
                *([("errors follow the picture's level", levels)] if levels else []),
            ],
            written=[("calibration", run_dir.calibration), *(("positions", path) for path in positions.values())],
            next_command="infer",
        )
    )


def _decided(calibration: Calibration) -> str:
    """Say what the threshold makes of the pictures that it was chosen on; nothing if that was not counted."""
    if calibration.num_false_positives is None or calibration.num_found is None:
        return ""
    said = f"{calibration.num_false_positives} of {calibration.num_normal} normal ones would be called anomalous"
    if calibration.num_anomalous:
        said += f", {calibration.num_found} of {calibration.num_anomalous} anomalous ones found"
    return said


def _slopes(calibration: Calibration) -> str:
    """Return by how much high errors follow the level of a picture, at each patch size; nothing if that was not measured."""
    levels = {size: kinds["error"].level for size, kinds in calibration.statistics.items()}
    return ", ".join(f"p={size}: {level.slope:.2f}" for size, level in levels.items() if level is not None)
