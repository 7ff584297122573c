"""`usad export`: the detector as an ONNX file, compared with the original on real pictures."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from us_anomaly.commands.detectors import build_detector
from us_anomaly.commands.parity import Parity, filter_of_pillow, measure_parity, reference_pictures
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make
from us_anomaly.data.transform_factory import END_OF_BYTES
from us_anomaly.errors import SettingsError
from us_anomaly.graph import INPUT, DetectorGraph
from us_anomaly.loading import detector_of
from us_anomaly.models.compute import Compute, num_threads
from us_anomaly.onnx_model import OnnxDetector, require_packages, to_onnx
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import json_text, read_json
from us_anomaly.run_dir.staging import replace_together
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.calibration_file import load_calibration
from us_anomaly.settings import Settings, TransformSettings
from us_anomaly.settings.plain import plain
from us_anomaly.version import __version__

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Write the detector of the run directory as an ONNX file, with a report on how far it agrees with the original.

    Raises:
        SettingsError: A package is missing, or the transforms make pictures of several sizes.
        ArtifactError: torch cannot record the detector, or the file says something else; nothing is written then.
        UsadError: The detector is missing or stale.
    """
    require_packages()
    run_dir = RunDir(settings.run_dir)
    recipe = Recipes(settings, with_data=False).onnx_model

    def build() -> None:
        content, parity = _exported(settings)
        contents: dict[Path, str | bytes] = {
            run_dir.onnx_model: content,
            run_dir.onnx_parity: json_text(asdict(parity)),
        }
        replace_together(run_dir, run_dir.onnx_model, contents)

    make(
        run_dir.onnx_model,
        recipe,
        build,
        settings=settings,
        is_precious=False,
        companions=lambda: [run_dir.onnx_parity],
        anew=settings.overwrite,
    )
    _summarize(run_dir)


def _exported(settings: Settings) -> tuple[bytes, Parity]:
    """Return the content of the file, and how far it agrees with the detector."""
    run_dir, transforms = RunDir(settings.run_dir), settings.augmentation.evaluation
    calibration = load_calibration(run_dir.calibration)
    as_used = build_detector(settings, calibration)
    detector = detector_of(
        run_dir,
        settings.scales,
        transforms=transforms,
        scoring=settings.scoring,
        calibration=calibration,
        compute=Compute(torch.device("cpu"), torch.float32),
    )
    source, pictures = reference_pictures(settings)
    prepared = [detector.pipeline.prefix(picture) for picture in pictures]
    height, width = _one_size(prepared)
    log.info("recording the detector for pictures of %dx%d pixels, which takes a minute or several", height, width)
    content = to_onnx(
        DetectorGraph(detector),
        height=height,
        width=width,
        metadata=_metadata(transforms, calibration, height=height, width=width, white_level=settings.data.white_level),
    )
    parity = measure_parity(
        OnnxDetector(content, num_threads=num_threads(settings.runtime)),
        detector,
        as_used=as_used,
        source=source,
        pictures=pictures,
        prepared=prepared,
        by_pillow=filter_of_pillow(_on_bytes(transforms)),
        show_progress=settings.runtime.progress,
    )
    return content, parity


def _one_size(prepared: Sequence[Tensor]) -> tuple[int, int]:
    """Return height and width of what the networks see.

    Raises:
        SettingsError: They are not the same for all pictures.
    """
    sizes = sorted({(picture.shape[-2], picture.shape[-1]) for picture in prepared})
    if len(sizes) > 1:
        told = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
        raise SettingsError(
            f"`augmentation.evaluation` makes pictures of several sizes ({told}), and an exported detector takes those of one: "
            "let the list begin with Resize to one height and width (size: [256, 256]), or give data.root= if the pictures are "
            "elsewhere now"
        )
    return sizes[0]


def _on_bytes(transforms: Sequence[TransformSettings]) -> list[TransformSettings]:
    """Return the transforms that come before the input of the file; the others are in it."""
    return [entry for entry in transforms if entry.name not in (*END_OF_BYTES, "ToImage")]


def _metadata(
    transforms: Sequence[TransformSettings],
    calibration: Calibration,
    *,
    height: int,
    width: int,
    white_level: float | None,
) -> dict[str, Any]:
    """Return what a program must know that runs the file."""
    return {
        "us_anomaly": __version__,
        "input": {"name": INPUT, "type": "uint8", "shape": [1, 3, height, width], "channels": "RGB"},
        "before_the_input": [plain(entry) for entry in _on_bytes(transforms)],
        "white_level": white_level,
        "image_threshold": calibration.image_threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "color_range": list(calibration.color_range),
        "uncertainty_color_range": list(calibration.uncertainty_color_range),
    }


def _summarize(run_dir: RunDir) -> None:
    parity = read_json(run_dir.onnx_parity)
    facts = [
        ("compared on", f"{parity['num_pictures']} pictures ({parity['pictures']})"),
        ("largest difference of a score", f"{parity['max_score_difference']:.2g}"),
        (f"the same from {parity['precision']}", f"{parity['max_score_difference_as_used']:.2g}"),
        ("unit of the score", f"{parity['score_scale']:.3g}"),
        ("decisions that differ", str(parity["num_decisions_that_differ"])),
    ]
    if parity["num_decisions_that_differ"] and parity["precision"] != "float32":
        log.warning(
            "the file computes in float32 and decides %d of %d pictures otherwise than the detector in %s, whose threshold it "
            "has: for one of its own run `usad calibrate` with runtime.precision=float32 overwrite=true, then export again",
            parity["num_decisions_that_differ"],
            parity["num_pictures"],
            parity["precision"],
        )
    written = [("detector", run_dir.onnx_model), ("parity", run_dir.onnx_parity)]
    show_summary(Summary(command="export", facts=facts, written=written))
