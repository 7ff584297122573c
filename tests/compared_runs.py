"""Run directories that can be compared: an evaluation and the provenance notes of all that it was made from, nothing else."""

import json
from pathlib import Path
from typing import Any

from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import Recipe, content_hash, record


def write_run(
    folder: Path,
    *,
    category: str | None = "tile",
    name: str = "mvtec",
    metrics: dict[str, float] | None = None,
    pictures: str | None = None,
    contents: str | None = None,
    scored: str | None = None,
    saturation: str | None = None,
    teacher: str = "teacher",
    settings: dict[str, Any] | None = None,
    image_size: int | list[int] = 64,
) -> Path:
    """Write an evaluated run.

    Args:
        folder: Its folder, which is returned.
        category: Of the data set.
        name: Of the data set.
        metrics: Its figures.
        pictures: Hash of the list of pictures; by default each category has its own.
        contents: Hash of what they hold; by default it is not known.
        scored: Hash of what those hold that are scored; by default it is not known.
        saturation: Hash of the table of saturated defects; by default it is not known.
        teacher: Hash of the finished teacher.
        settings: What differs from the settings below.
        image_size: Side of the network's input, or its height and width.
    """
    run_dir = RunDir(folder)
    given = dict(settings or {})
    resize = {
        "name": "Resize",
        "params": {"size": image_size if isinstance(image_size, list) else [image_size, image_size]},
    }
    flip = {"name": "RandomHorizontalFlip", "params": {"p": 0.5}}
    recipes: dict[Path, tuple[str, dict[str, Any], dict[str, str]]] = {
        run_dir.split: (
            "split",
            {"data.root": f"/data/{name}", "data.category": category, "data.normal": "good", "seed": 0},
            {
                "list of pictures": pictures or f"pictures of {category}",
                **({"data.root": contents} if contents else {}),
            },
        ),
        run_dir.teacher(33): ("distill-teacher", {"teacher.checkpoint": "builtin"}, {"teacher.checkpoint": teacher}),
        run_dir.students(33): (
            "train-students",
            {"students.num_students": 3, "students.steps": 10, "augmentation.students": [resize, flip], "seed": 0},
            {"split.jsonl": "", "p33/teacher.pt": ""},
        ),
        run_dir.calibration: (
            "calibrate",
            {"scales": [33], "scoring.image_score": "max", "augmentation.evaluation": [resize]},
            {"split.jsonl": "", "p33/students.pt": ""},
        ),
        run_dir.predictions: (
            "infer",
            {"inference.save_maps": True},
            {"split.jsonl": "", "calibration.json": "", **({"scored pictures": scored} if scored else {})},
        ),
        run_dir.evaluation_json: (
            "evaluate",
            {"evaluation.resolution": "original", "evaluation.bootstrap_samples": 10, "seed": 0},
            {"predictions.jsonl": "", **({"table of saturated defects": saturation} if saturation else {})},
        ),
    }
    evaluation = {
        "format_version": 1,
        "data_set": {"name": name, "category": category},
        "metrics": {"image_auroc": 0.9, "deployed_false_positive_rate": 0.1} if metrics is None else metrics,
        "resolution": "original",
        "threshold": {"value": 0.5},
        "counts": {"images": 3},
        "per_defect_type": {},
        "bootstrap": {"num_resamples": 10, "seed": 0},
    }
    made: dict[str, str] = {}
    for path, (command, usual, inputs) in recipes.items():
        own = {key: given[key] for key in given if key in usual or key.startswith(_PREFIXES[command])}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(evaluation if path == run_dir.evaluation_json else [str(folder), path.name, own]))
        recipe = Recipe(
            command=command, settings=usual | own, inputs={one: made.get(one, inputs[one]) for one in inputs}
        )
        record(run_dir, path, recipe, seconds=0.0)
        made[run_dir.name_of(path)] = content_hash(path)
        if path != run_dir.evaluation_json:
            path.unlink()
    return folder


_PREFIXES = {
    "split": ("data.", "split."),
    "distill-teacher": ("teacher.", "backbone."),
    "train-students": ("students.", "augmentation.students"),
    "calibrate": ("scoring.", "calibration.", "scales"),
    "infer": ("inference.",),
    "evaluate": ("evaluation.",),
}
"""Settings that each note may hold besides those above."""


def rewrite_note(run: Path, artifact: str, **changes: Any) -> None:
    """Change the provenance note of an artifact."""
    path = run / "provenance" / f"{artifact}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
