"""The rows of the study of single changes: what each is called, what it changes, from where it starts."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: what it changes in the row it starts from, which is the one above unless it names another."""

    name: str
    says: str
    changes: dict[str, Any]
    start: str | None = None


PATH = (
    Row("as_described", "the method as described, with the backbone that needs no download", {
        "experiment": "as_described", "backbone": "efficientnet_lite0",
    }),
    Row("grid", "positions of a stride-4 grid instead of all", {"students.positions": "grid", "scoring.stride_px": 4}),
    Row("small", "half the width, 128 dimensions", {"teacher.width": 0.5, "teacher.descriptor_dim": 128}),
    Row("layers", "distilled from three intermediate layers, from whole crops", {
        "backbone.layers": "[2,3,4]", "teacher.positions": "dense", "teacher.crop_size_px": 160, "teacher.batch_size": 8,
        "teacher.steps": 4000, "teacher.optimizer": "muon", "teacher.learning_rate": 0.002, "teacher.schedule": "cosine",
        "teacher.compactness_weight": 0.1, "teacher.max_gradient_norm": 1.0,
    }),
    Row("generic", "distilled on generic pictures (the teacher that ships) instead of the target's own", {
        "teacher.checkpoint": "builtin",
    }),
    Row("schedule", "students learn ten times as fast, falling, in 1500 steps", {
        "students.learning_rate": 0.001, "students.schedule": "cosine", "students.steps": 1500,
    }),
    Row("border", "the outer 16 pixels of a map take the scores beside them (the default)", {"scoring.border_px": 16}),
    Row("hard", "only the hardest tenth of the elements trains", {"students.hard_fraction": 0.1}),
    Row("zscore", "error and uncertainty by z-score", {"scoring.normalization": "zscore"}),
    Row("error", "the regression error alone, without the uncertainty", {"scoring.uncertainty_weight": 0.0}),
    Row("whitened", "students learn the whitened teacher", {"teacher.whitening_floor": 0.01}),
    Row("positions", "maps in relation to what is normal at each position", {
        "scoring.per_position": True, "scoring.position_components": 0,
    }),
    Row("components", "less how normal maps vary together, where parts lie in one place", {
        "scoring.position_components": 16,
    }),
    Row("levels", "and to how high the picture's map lies as a whole", {"scoring.per_picture": True}),
    Row("longer", "students of a quarter of the width, which train 4000 steps at about the same cost", {
        "students.width": 0.25, "students.steps": 4000,
    }),
    Row("scales", "patches of 33 and 65 pixels, and of 66 at half the resolution", {"scales": "[33,65,66]"}),
    Row("half_border", "half the border", {"scoring.border_px": 8}),
    Row("top", "mean of the highest 3 % of the map instead of its maximum", {
        "scoring.image_score": "top_mean", "scoring.image_score_fraction": 0.03,
    }),
    Row("accurate", "maps smoothed by 4 pixels: experiment=accurate", {"experiment": "accurate"}, start=""),
)  # fmt: skip
"""From the method as described to the recipe that finds most; every row adds one change to the row above."""

ALONE = (
    Row("photographs", "distilled on photographs that packages carry", {"teacher.images": "photographs"}, start="layers"),
    Row("procedural", "distilled on drawn pictures", {"teacher.images": "procedural"}, start="layers"),
    Row("mixed", "distilled on the target's own pictures and on generic ones", {
        "teacher.images": "{train:0.3,generic:0.7}",
    }, start="layers"),
    Row("finetuned", "distilled from a backbone that is fine-tuned on the target's pictures", {
        "finetuning.enabled": True,
    }, start="layers"),
    Row("adam", "distilled by Adam, for as many steps", {"teacher.optimizer": "adam"}, start="layers"),
    Row("whitened_targets", "distilled from whitened feature maps", {"teacher.whiten_targets": True}, start="layers"),
    Row("one_student", "one student: no uncertainty", {"students.num_students": 1}, start="accurate"),
    Row("five_students", "five students", {"students.num_students": 5}, start="accurate"),
    Row("wide", "students of half the width, which train 1500 steps", {
        "students.width": 0.5, "students.steps": 1500,
    }, start="accurate"),
    Row("all_elements", "all elements train", {"students.hard_fraction": 1.0}, start="accurate"),
    Row("hardest", "only the hardest hundredth trains", {"students.hard_fraction": 0.01}, start="accurate"),
    Row("penalty", "answers on generic pictures are penalised", {
        "students.penalty_images": "generic", "students.penalty_weight": 1.0,
    }, start="accurate"),
    Row("noise", "students see noise of a tenth of a deviation", {"students.noise": 0.1}, start="accurate"),
    Row("deeper", "students have one more layer", {"students.extra_layers": 1}, start="accurate"),
    Row("students_muon", "students learn by Muon", {"students.optimizer": "muon"}, start="accurate"),
    Row("stopped", "students stop by the validation normals", {
        "students.validate_every_steps": 250, "students.patience": 3,
    }, start="accurate"),
    Row("twice_as_long", "students train twice as long", {"students.steps": 8000}, start="accurate"),
    Row("quantile", "error and uncertainty by quantiles", {"scoring.normalization": "quantile"}, start="accurate"),
    Row("with_uncertainty", "error and uncertainty", {"scoring.uncertainty_weight": 1.0}, start="accurate"),
    Row("one_scale", "patches of 33 pixels alone", {"scales": "[33]"}, start="accurate"),
    Row("larger_patches", "patches of 65 pixels alone", {"scales": "[65]"}, start="accurate"),
    Row("half_resolution", "patches of 66 pixels, seen at half the resolution, alone", {"scales": "[66]"}, start="accurate"),
    Row("two_scales", "patches of 33 and 65 pixels", {"scales": "[33,65]"}, start="accurate"),
    Row("larger_scales", "patches of 65 pixels, and of 66 at half the resolution", {"scales": "[65,66]"}, start="accurate"),
    Row("alike", "all positions alike", {"scoring.per_position": False}, start="accurate"),
    Row("no_components", "how normal maps vary together is not taken off", {
        "scoring.position_components": 0,
    }, start="accurate"),
    Row("own_level", "each picture as high as it lies", {"scoring.per_picture": False}, start="accurate"),
    Row("hundredth", "mean of the highest hundredth of the map", {
        "scoring.image_score_fraction": 0.01,
    }, start="accurate"),
    Row("maximum", "the maximum of the map", {"scoring.image_score": "max"}, start="accurate"),
    Row("no_border", "positions up to the border", {"scoring.border_px": 0}, start="accurate"),
    Row("bordered", "the outer 16 pixels of a map take the scores beside them", {"scoring.border_px": 16}, start="accurate"),
    Row("sharp", "maps as they are", {"scoring.smoothing_sigma_px": 0.0}, start="accurate"),
    Row("fast", "the recipe for 20 pictures a second", {"experiment": "fast"}, start="accurate"),
)  # fmt: skip
"""The recipe with one thing changed; `--rows` takes them by name, or `all`."""

QUICK = {
    "image_size": 64, "teacher.epochs": 1, "teacher.steps": 1, "teacher.width": 0.1, "teacher.batch_size": 2,
    "teacher.crop_size_px": 64, "teacher.min_explained_variance": -1, "students.steps": 2, "students.width": 0.1,
    "students.num_students": 2, "scoring.stride_px": 8, "evaluation.bootstrap_samples": 0, "runtime.num_threads": 1,
    "runtime.num_workers": 1, "runtime.progress": False, "runtime.log_level": "warning",
}  # fmt: skip
"""For --quick: shows that everything works, and nothing else."""


def row_changes(row: Row) -> dict[str, Any]:
    """Return all overrides of a row: its own and those of the rows it starts from."""
    everything = (*PATH, *ALONE)
    if row.start is None:
        position = PATH.index(row)
        before = PATH[position - 1] if position else None
    else:
        before = next((other for other in everything if other.name == row.start), None)
    return {**(row_changes(before) if before else {}), **row.changes}


def overrides_of(changes: dict[str, Any]) -> list[str]:
    """Return overrides as they are typed."""
    return [f"{key}={_typed(value)}" for key, value in changes.items()]


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
