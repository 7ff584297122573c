"""A drawn run directory with everything a report shows, made by the real writers without any training.

Names hold what breaks careless pages: markup, quotes, `#`, `?`, `%`, spaces and letters beyond ASCII.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.data.sample import Sample, dump_labels
from us_anomaly.reporting.heatmaps import write_heatmap
from us_anomaly.reporting.pages.source import ReportSource
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_json
from us_anomaly.run_dir.provenance import Recipe, record
from us_anomaly.scoring.anomaly_map import MapStatistics
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.evaluation import evaluate
from us_anomaly.scoring.map_files import write_map
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.scored_images import scored_images
from us_anomaly.scoring.thresholds import Threshold
from us_anomaly.settings import EvaluationSettings, MapResolution, MetricAlgorithm

HEIGHT, WIDTH = 36, 48
THRESHOLD = 10.0
COLOR_RANGE = (1.0, 17.0)
UNCERTAINTY_RANGE = (0.0, 2.0)
MARKUP_TYPE = "<img src=x onerror=alert(1)>"
PLAIN_TYPE = "cut 100%#2"
MARKUP_NAME = "\"><script>document.title='hacked'<.png"
TEST_SCORES = {
    "test/good/a b.png": 2.0,
    "test/good/c#1.png": 4.0,
    "test/good/ü?.png": 6.0,
    "test/good/50%25.png": 30.0,  # the false alarm
    f"test/{PLAIN_TYPE}/1.png": 20.0,
    f"test/{PLAIN_TYPE}/2.png": 8.0,  # missed
    f"test/{PLAIN_TYPE}/it's.png": 40.0,
    f"test/{MARKUP_TYPE}/{MARKUP_NAME}": 50.0,
    f"test/{MARKUP_TYPE}/2.png": 5.0,  # missed
}
VAL_SCORES = {"val/good/1.png": 3.0, "val/good/2.png": 5.0}


def draw_report_source(
    folder: Path, *, masks: bool = True, maps: bool = True, heatmaps: bool = True, num_more: int = 0
) -> ReportSource:
    """Draw data, maps, heatmaps, labels, predictions and evaluation; return what a report is made of.

    Args:
        folder: Receives `data` and `run`.
        masks: Draw masks of the defects.
        maps: Write maps.
        heatmaps: Write heatmaps and uncertainty pictures.
        num_more: So many more normal test images, all alike.
    """
    root, run_dir = folder / "data", RunDir(folder / "run")
    more = {f"test/good/more-{number:05}.png": 1.0 + number / max(1, num_more) for number in range(num_more)}
    scores = TEST_SCORES | more
    train = [Sample(filename=f"train/good/{number}.png", is_anomalous=False, split="train") for number in range(3)]
    samples = [
        *train,
        *(_sample(name, "val") for name in VAL_SCORES),
        *(_sample(name, "test", masks) for name in scores),
    ]
    rng = np.random.default_rng(5)
    run_dir.root.mkdir(parents=True)
    lines = []
    for number, sample in enumerate(samples):
        _draw_data(root, sample, rng)
        if sample.split == "train":
            continue
        score = (scores | VAL_SCORES)[sample.filename]
        lines.append(
            _predict(run_dir, sample, score, stem=f"{number:03} {sample.filename}", maps=maps, heatmaps=heatmaps)
        )
    run_dir.split.write_text(dump_labels(samples), encoding="utf-8")
    run_dir.predictions.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    problems = DataProblems()
    tested = [sample for sample in samples if sample.split == "test"]
    images = scored_images(lines, tested, deployed_threshold=THRESHOLD, problems=problems)
    source = PixelSource(
        images=[image for image in images if image.map_path],
        run_dir=run_dir.root,
        data_root=root,
        max_image_pixels=400_000,
        network_size=None,
        saturation=None,
        problems=problems,
    )
    evaluation = _evaluation(images, source)
    write_json(run_dir.evaluation_json, evaluation)
    _write_training(run_dir)
    return ReportSource(
        run_dir=run_dir,
        data_root=root,
        data_name='set <b>"1"</b>',
        samples=samples,
        predictions=lines,
        evaluation=evaluation,
        calibration=calibration(),
        configuration={"run": {"seed": 0, "note": "<i>&amp;</i>", "scales": [33], "layers": None, "exact": True}},
        scales=[33],
        pixels=source if masks and maps else None,
        max_image_pixels=400_000,
        num_workers=2,
    )


def calibration() -> Calibration:
    """Calibration with round numbers."""
    numbers = MapStatistics(mean=0.0, std=1.0, quantile_90=1.0, quantile_995=2.0)
    return Calibration(
        statistics={33: {"error": numbers, "uncertainty": numbers}},
        reference="val",
        num_normal=2,
        num_anomalous=0,
        image_threshold=THRESHOLD,
        threshold_rule="quantile",
        threshold_reason="validation has no anomalous image for the rule f1",
        score_scale=2.0,
        pixel_threshold=6.0,
        color_range=COLOR_RANGE,
        uncertainty_color_range=UNCERTAINTY_RANGE,
    )


def map_of(score: float) -> np.ndarray:
    """The map (HEIGHT, WIDTH) of an image: a ramp from left to right, and `score` in the square of the defect."""
    values = np.tile(np.linspace(0.5, 1.5, WIDTH, dtype=np.float32), (HEIGHT, 1))
    values[10:20, 12:30] = score
    return values


def _sample(name: str, split: str, masks: bool = False) -> Sample:
    kind = name.split("/")[1]
    is_anomalous = kind != "good"
    mask = "ground_truth/" + name.removeprefix("test/") if masks and is_anomalous else None
    return Sample(filename=name, is_anomalous=is_anomalous, defect_type=kind, mask_path=mask, split=split)


def _draw_data(root: Path, sample: Sample, rng: np.random.Generator) -> None:
    pixels = rng.integers(90, 150, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:20, 12:30] = 255
    if sample.is_anomalous:
        pixels[mask > 0] = 20
    for relative, content in ((sample.filename, pixels), (sample.mask_path, mask)):
        if relative is not None:
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path, format="PNG")


def _predict(run_dir: RunDir, sample: Sample, score: float, *, stem: str, maps: bool, heatmaps: bool) -> dict:
    map_path, heatmap_path, uncertainty_path = f"maps/{stem}.tiff", f"heatmaps/{stem}.png", f"uncertainty/{stem}.png"
    if maps:
        write_map(run_dir.root / map_path, map_of(score))
    if heatmaps:
        write_heatmap(run_dir.root / heatmap_path, map_of(score), color_range=COLOR_RANGE)
        write_heatmap(run_dir.root / uncertainty_path, map_of(score) / 10, color_range=UNCERTAINTY_RANGE)
    return {
        "filename": sample.filename,
        "ground_truth": {"type": "anomaly", "is_anomalous": sample.is_anomalous},
        "prediction": {
            "is_anomalous": score >= THRESHOLD,
            "anomaly_score": score,
            "normalized_score": calibration().normalized_score(score),
            "map_path": map_path if maps else None,
            "heatmap_path": heatmap_path if heatmaps else None,
            "uncertainty_path": uncertainty_path if heatmaps else None,
        },
        "correct": (score >= THRESHOLD) == sample.is_anomalous,
    }


def _evaluation(images: list, source: PixelSource) -> dict:
    return evaluate(
        images,
        source=source,
        threshold=Threshold(
            value=THRESHOLD, rule="quantile", requested="f1", reason="validation has no anomalous image for the rule f1"
        ),
        settings=EvaluationSettings(
            algorithm=MetricAlgorithm.exact, resolution=MapResolution.original, bootstrap_samples=50
        ),
        seed=0,
        data_set={"name": "set", "category": None},
    )


def _write_training(run_dir: RunDir) -> None:
    for artifact in (run_dir.teacher(33), run_dir.students(33)):
        curve = run_dir.loss_curve(artifact)
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 60)))
    record(run_dir, run_dir.split, Recipe(command="split", settings={}), seconds=75.25)
    record(run_dir, run_dir.evaluation_json, Recipe(command="evaluate", settings={}), seconds=1.5)
