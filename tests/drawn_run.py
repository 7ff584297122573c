"""A drawn run directory: split, predictions, maps and masks, with figures that are known."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.data.sample import Sample, dump_labels
from us_anomaly.scoring.map_files import write_map

SIDE = 24
THRESHOLD = 0.5


def draw_run(folder: Path, *, seed: int = 0) -> tuple[Path, Path, list[Sample]]:
    """Draw 4 normal and 6 anomalous test images of two defect types; return data root, run directory and samples.

    Two anomalous images are missed, one normal image is a false alarm.
    """
    generator = np.random.default_rng(seed)
    root, run_dir = folder / "data", folder / "run"
    samples = [Sample(filename=f"train/good/{n}.png", is_anomalous=False, split="train") for n in range(2)]
    samples += [Sample(filename=f"test/good/{n}.png", is_anomalous=False, split="test") for n in range(4)]
    samples += [
        Sample(
            filename=f"test/{kind}/{n}.png",
            is_anomalous=True,
            defect_type=kind,
            mask_path=f"ground_truth/{kind}/{n}_mask.png",
            split="test",
        )
        for kind in ("cut", "hole")
        for n in range(3)
    ]
    lines = []
    for number, sample in enumerate(samples):
        picture = generator.integers(0, 256, size=(SIDE, SIDE, 3), dtype=np.uint8)
        save(root / sample.filename, picture)
        if sample.split != "test":
            continue
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        if sample.mask_path:
            mask[4 : 8 + number, 5:12] = True
            save(root / sample.mask_path, mask.astype(np.uint8) * 255)
        values = generator.lognormal(sigma=0.5, size=mask.shape) * np.where(mask, 3, 1)
        write_map(run_dir / "maps" / Path(sample.filename).with_suffix(".tiff"), values)
        missed_or_false = sample.filename in ("test/good/0.png", "test/cut/0.png", "test/hole/0.png")
        high = sample.is_anomalous != missed_or_false
        lines.append(result(sample, score=(0.6 if high else 0.1) + number / 100))
    (run_dir / "split.jsonl").write_text(dump_labels(samples))
    (run_dir / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root, run_dir, samples


def result(sample: Sample, *, score: float) -> dict:
    """The line of predictions.jsonl for a sample."""
    decision = score >= THRESHOLD
    stem = str(Path(sample.filename).with_suffix(""))
    return {
        "filename": sample.filename,
        "ground_truth": {"type": "anomaly", "is_anomalous": sample.is_anomalous},
        "prediction": {
            "is_anomalous": decision,
            "anomaly_score": score,
            "normalized_score": score,
            "heatmap_path": f"heatmaps/{stem}.png",
            "uncertainty_path": None,
            "map_path": f"maps/{stem}.tiff",
        },
        "correct": decision == sample.is_anomalous,
    }


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    """Save a picture and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
