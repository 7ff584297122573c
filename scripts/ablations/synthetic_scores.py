"""Score a trained run directory on its validation normals and on synthetic defects on them; the test split is never looked at.

`choose_figures` takes the detector as it is. `score_table` computes the raw maps once and scores them under other settings of
`scoring`: AXES lists what is tried, so a new setting is a line there. Limits: the normals are those that calibrated the
detector (and stopped its students, if `students.validate_every_steps` is set), so the figures compare recipes and
promise nothing about real defects. Position statistics belong to one border, so others are tried with all positions alike
(`--cross`) only.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import us_anomaly
from us_anomaly.data import synthetic_defects
from us_anomaly.data.images import DEFAULT_MAX_PIXELS, image_size, read_image, read_mask
from us_anomaly.data.sample import Sample, parse_labels
from us_anomaly.data.synthetic_set import synthetic_set
from us_anomaly.detector import Detector, FloatMap, resize_map
from us_anomaly.errors import DataError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring.anomaly_map import MapStatistics, combine, image_score
from us_anomaly.scoring.calibration import calibrate
from us_anomaly.scoring.image_metrics import image_metrics
from us_anomaly.scoring.pixel_metrics import evaluate_pixels
from us_anomaly.scoring.raw_maps import RawMaps
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth
from us_anomaly.settings import CalibrationSettings, ImageScore, MetricAlgorithm, Normalization, ScoringSettings

FIGURES = ("image_auroc", "image_average_precision", "pixel_auroc", "pixel_average_precision", "aupro_0.3")
NUM_PER_PICTURE = 5
RAW_KEYS = ("stride_px", "border_px", "per_position", "position_components")
"""Settings of the scores that change the raw maps, which are then computed anew."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting of the scores, or several that belong together, and what is tried."""

    title: str
    label: Callable[[ScoringSettings], str]
    options: Sequence[dict[str, Any]]


def _map_label(scoring: ScoringSettings) -> str:
    weights = {"error": scoring.error_weight, "uncertainty": scoring.uncertainty_weight}
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items() if weight)


def _image_label(scoring: ScoringSettings) -> str:
    if scoring.image_score is ImageScore.max:
        return "maximum"
    what = {ImageScore.top_mean: "mean of the top", ImageScore.quantile: "quantile at the top"}[scoring.image_score]
    return f"{what} {100 * scoring.image_score_fraction:g} %"


AXES = (
    Axis(
        "map",
        _map_label,
        [
            {"error_weight": 1.0, "uncertainty_weight": 1.0},
            {"error_weight": 1.0, "uncertainty_weight": 0.0},
            {"error_weight": 0.0, "uncertainty_weight": 1.0},
        ],
    ),
    Axis("normalization", lambda scoring: scoring.normalization.value, [{"normalization": n} for n in Normalization]),
    Axis(
        "positions",
        lambda scoring: "each in relation to its own" if scoring.per_position else "alike",
        [{"per_position": False}, {"per_position": True}],
    ),
    Axis(
        "pictures",
        lambda scoring: "each in relation to its level" if scoring.per_picture else "alike",
        [{"per_picture": False}, {"per_picture": True}],
    ),
    Axis("border", lambda scoring: f"{scoring.border_px} px", [{"border_px": width} for width in (0, 8, 16, 32)]),
    Axis(
        "smoothing",
        lambda scoring: f"{scoring.smoothing_sigma_px:g} px",
        [{"smoothing_sigma_px": sigma} for sigma in (0.0, 2.0, 4.0, 8.0)],
    ),
    Axis(
        "image score",
        _image_label,
        [
            {"image_score": ImageScore.max},
            *(
                {"image_score": kind, "image_score_fraction": fraction}
                for kind in (ImageScore.top_mean, ImageScore.quantile)
                for fraction in (0.001, 0.01, 0.03)
            ),
        ],
    ),
)


def synthetic_samples(run_dir: RunDir, work: Path) -> tuple[Path, list[Sample]]:
    """Return the folder of the synthetic set of a run directory, written below `work` if need be, and its samples.

    Raises:
        DataError: Validation has no normal picture.
    """
    made_with = read_json(run_dir.provenance(run_dir.split))["settings"]
    samples = parse_labels(run_dir.split.read_text(encoding="utf-8"))
    names = [sample.filename for sample in samples if sample.split == "val" and not sample.is_anomalous]
    if not names:
        raise DataError(f"{run_dir.root}: validation has no normal picture, and the others were trained on")
    root, seed = Path(made_with["data.root"]), int(made_with["seed"])
    drawn_by = Path(synthetic_defects.__file__).read_text(encoding="utf-8")
    white_level = made_with.get("data.white_level")
    told = [] if white_level is None else [white_level]
    identity = json.dumps([str(root), seed, NUM_PER_PICTURE, names, drawn_by, *told])
    folder = work / "synthetic" / hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder.parent.mkdir(parents=True, exist_ok=True)
    normals = [root / name for name in names]
    return folder, synthetic_set(
        folder,
        normals,
        num_per_picture=NUM_PER_PICTURE,
        seed=seed,
        max_pixels=DEFAULT_MAX_PIXELS,
        white_level=white_level,
    )


def choose_figures(run_dir: RunDir, work: Path, *, runtime: dict[str, Any]) -> Figures:
    """Return the figures of the detector in a run directory on its synthetic set, and the image AUROC by kind of defect.

    Args:
        run_dir: Calibrated.
        work: Folder for the synthetic set.
        runtime: Arguments of `us_anomaly.load`.
    """
    detector = us_anomaly.load(run_dir.root, **runtime)
    folder, samples = synthetic_samples(run_dir, work)
    predictions = list(detector.stream(folder / sample.filename for sample in samples))
    scores = [prediction.anomaly_score for prediction in predictions]
    maps = [prediction.anomaly_map for prediction in predictions]
    figures = _image_figures(samples, scores) | _pixel_figures(folder, samples, maps)
    for kind in sorted({sample.defect_type for sample in samples if sample.is_anomalous}):
        chosen = [number for number, s in enumerate(samples) if not s.is_anomalous or s.defect_type == kind]
        of_kind = _image_figures([samples[number] for number in chosen], [scores[number] for number in chosen])
        figures[f"image_auroc, {kind}"] = of_kind["image_auroc"]
    return figures


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One way to make scores of maps, and how it did."""

    patch_sizes: tuple[int, ...]
    scoring: ScoringSettings
    figures: Figures


def score_table(run_dir: RunDir, work: Path, *, is_crossed: bool, runtime: dict[str, Any]) -> Iterator[ScoreRow]:
    """Yield the figures of a run directory under its own settings of the scores and under others.

    Args:
        run_dir: Calibrated.
        work: Folder for the synthetic set.
        is_crossed: Try all combinations of the axes, instead of one change at a time.
        runtime: Arguments of `us_anomaly.load`.
    """
    detector = us_anomaly.load(run_dir.root, **runtime)
    folder, samples = synthetic_samples(run_dir, work)
    variants = score_variants(detector.scoring, is_crossed=is_crossed)
    sizes = [image_size(folder / sample.filename, max_pixels=detector.max_image_pixels) for sample in samples]
    known_pixels: dict[str, Figures] = {}
    for key_of_maps in dict.fromkeys(map(_raw_key, variants)):  # those of the run directory first
        same_maps = [variant for variant in variants if _raw_key(variant) == key_of_maps]
        raw = _raw_maps(detector, same_maps[0], folder, samples)
        normals = [maps for maps, sample in zip(raw, samples, strict=True) if not sample.is_anomalous]
        statistics = {
            per_picture: _statistics(dataclasses.replace(same_maps[0], per_picture=per_picture), normals)
            for per_picture in {variant.per_picture for variant in same_maps}
        }
        for scoring, patch_sizes in itertools.product(same_maps, _subsets(sorted(detector.scales))):
            chosen = [{size: maps[size] for size in patch_sizes} for maps in raw]
            combined = [
                combine(maps, statistics=statistics[scoring.per_picture], settings=scoring)[0] for maps in chosen
            ]
            key = _maps_key(scoring, patch_sizes)
            if key not in known_pixels:
                full = [resize_map(values, height=h, width=w) for values, (h, w) in zip(combined, sizes, strict=True)]
                known_pixels[key] = _pixel_figures(folder, samples, full)
            scores = [image_score(values, settings=scoring) for values in combined]
            yield ScoreRow(patch_sizes, scoring, _image_figures(samples, scores) | known_pixels[key])


def score_variants(own: ScoringSettings, *, is_crossed: bool) -> list[ScoringSettings]:
    """Return the settings to try, those of the run directory first: one axis changed at a time, or all combinations."""
    if is_crossed:
        combinations = itertools.product(*(axis.options for axis in AXES))
        changes = [{key: value for option in options for key, value in option.items()} for options in combinations]
    else:
        changes = [option for axis in AXES for option in axis.options]
    variants = {_labels(own): own}
    for change in changes:
        variant = dataclasses.replace(own, **change)
        if _is_known(variant, own):
            variants.setdefault(_labels(variant), variant)
    return list(variants.values())


def _is_known(variant: ScoringSettings, own: ScoringSettings) -> bool:
    """Return whether the run directory has what a variant needs: position statistics belong to one grid and one border."""
    return not variant.per_position or (own.per_position and _raw_key(variant) == _raw_key(own))


def _labels(scoring: ScoringSettings) -> tuple[str, ...]:
    return tuple(axis.label(scoring) for axis in AXES)


def _raw_key(scoring: ScoringSettings) -> tuple[str, ...]:
    return tuple(str(getattr(scoring, key)) for key in RAW_KEYS)


def _maps_key(scoring: ScoringSettings, patch_sizes: Sequence[int]) -> str:
    """Return what decides the maps: everything but the choice of the image score."""
    values = {key: value for key, value in dataclasses.asdict(scoring).items() if not key.startswith("image_score")}
    return f"{list(patch_sizes)} {values}"


def _subsets(patch_sizes: list[int]) -> list[tuple[int, ...]]:
    """Return all scales together and, where there are several, each alone."""
    alone = [(size,) for size in patch_sizes] if len(patch_sizes) > 1 else []
    return [tuple(patch_sizes), *alone]


def _raw_maps(
    detector: Detector, scoring: ScoringSettings, folder: Path, samples: Sequence[Sample]
) -> list[dict[int, RawMaps]]:
    own, detector.scoring = detector.scoring, scoring
    try:
        pictures = (read_image(folder / sample.filename, max_pixels=detector.max_image_pixels) for sample in samples)
        return [detector.raw_maps(detector.pipeline.prefix(picture)) for picture in pictures]
    finally:
        detector.scoring = own


def _statistics(scoring: ScoringSettings, normals: Sequence[dict[int, RawMaps]]) -> dict[int, dict[str, MapStatistics]]:
    """Return the statistics that `usad calibrate` takes of these normals."""
    rule = CalibrationSettings(
        threshold="quantile", max_false_positive_rate=0.01, min_recall=0.99, quantile=0.99, pixel_quantile=0.995
    )
    lazily = [lambda maps=maps: maps for maps in normals]
    return calibrate(lazily, [], reference="val", scoring=scoring, settings=rule).statistics


def _image_figures(samples: Sequence[Sample], scores: Sequence[float]) -> Figures:
    labels = [sample.is_anomalous for sample in samples]
    values = image_metrics(scores, labels, deployed_threshold=0.0).values
    return {name: values[name] for name in FIGURES if name in values}


def _pixel_figures(folder: Path, samples: Sequence[Sample], maps: Sequence[FloatMap]) -> Figures:
    """Return the figures per pixel, at the size of the pictures."""
    items = []
    for sample, anomaly_map in zip(samples, maps, strict=True):
        path = None if sample.mask_path is None else folder / sample.mask_path
        mask = np.zeros(anomaly_map.shape, dtype=bool) if path is None else read_mask(path, max_pixels=anomaly_map.size)
        items.append(PixelItem(anomaly_map, PixelTruth(mask), sample.defect_type))
    num_pixels = sum(anomaly_map.size for anomaly_map in maps)
    values = evaluate_pixels(
        items, algorithm=MetricAlgorithm.auto, num_pixels=num_pixels, saturated=False
    ).overall.values
    return {name: values[name] for name in FIGURES if name in values}
