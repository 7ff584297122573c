"""What the first page says: counts, figures with intervals, times and the configuration that matters."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from us_anomaly.data.sample import SPLITS
from us_anomaly.errors import ArtifactError
from us_anomaly.reporting.metric_names import (
    HEADLINES,
    LABELS,
    LOWER_IS_BETTER,
    THRESHOLDS,
    columns_per_type,
    interval_text,
    shown,
)
from us_anomaly.reporting.pages.figures import Figure, Scores, image_figures, overlap_figure, training_figure
from us_anomaly.reporting.pages.source import ReportSource
from us_anomaly.reporting.tables import evaluation_notes, resolution_text
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring.evaluation import WHOLE_NUMBERS
from us_anomaly.settings.plain import typed

MAX_HEADLINES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One figure as text, with its interval as text and as a bar."""

    label: str
    value: str
    interval: str
    bar: tuple[float, float, float] | None
    """Lower end, value, upper end as percentages of a bar from 0 to 1; None where the figure is not a share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """How long one stage took."""

    name: str
    duration: str
    percent: float
    made_at: str


def overview(source: ReportSource) -> dict[str, Any]:
    """Return the content of the template `index.html`."""
    evaluation = source.evaluation
    metrics = {name: _metric(name, evaluation) for name in LABELS if name in evaluation["metrics"]}
    stages = _stages(source)
    return {
        "verdict": _verdict(evaluation),
        "headlines": [metrics[name] for name in HEADLINES if name in metrics][:MAX_HEADLINES],
        "metrics": list(metrics.values()),
        "confidence": f"{evaluation['bootstrap']['confidence']:.0%}" if evaluation["intervals"] else None,
        "notes": evaluation_notes(evaluation),
        "resolution": resolution_text(evaluation),
        "algorithm": evaluation["algorithm"],
        "splits": SPLITS,
        "counts": _counts(source),
        "type_names": list(columns_per_type(evaluation).values()),
        "types": _types(evaluation),
        "figures": _figures(source),
        "training": _training(source),
        "stages": stages,
        "total_duration": duration_text(sum(seconds for _, seconds, _ in _notes(source))),
        "configuration": {
            group: {key: typed(value) for key, value in values.items()}
            for group, values in source.configuration.items()
        },
        "threshold": evaluation["threshold"],
        "calibration": source.calibration,
        "files": _files(source),
    }


def duration_text(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _verdict(evaluation: Mapping[str, Any]) -> str:
    """Say in a sentence what the detector does to the test images."""
    counts, metrics, threshold = evaluation["counts"], evaluation["metrics"], evaluation["threshold"]["value"]
    parts = []
    if counts["anomalous"]:
        misses = metrics["misses"]
        found = counts["anomalous"] - misses
        parts.append(f"{found} of {counts['anomalous']} anomalous test images are found ({misses} missed)")
    if counts["normal"]:
        alarms = metrics["false_positives"]
        verb, noun = ("raise", "false alarms") if alarms > 1 else ("raises", "a false alarm")
        parts.append(f"{alarms or 'none'} of {counts['normal']} normal ones {verb} {noun}")
    return f"At the threshold {threshold:.4g}, {', and '.join(parts)}."


def _metric(name: str, figures: Mapping[str, Any]) -> Metric:
    value = figures["metrics"][name]
    low, high = figures["intervals"].get(name, (None, None))
    is_share = name not in WHOLE_NUMBERS and name not in THRESHOLDS and 0 <= value <= 1
    ends = (value, value) if low is None else (low, high)
    return Metric(
        label=LABELS[name] + (" (lower is better)" if name in LOWER_IS_BETTER else ""),
        value=shown(name, value),
        interval=interval_text(name, figures),
        bar=(100 * ends[0], 100 * value, 100 * ends[1]) if is_share else None,
    )


def _types(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each defect type, with a link to its images."""
    return [
        {
            "name": name,
            "count": one["count"],
            "cells": [shown(metric, one["metrics"].get(metric)) for metric in columns_per_type(evaluation)],
            "link": "evaluation.html#" + urlencode({"type": name}),
        }
        for name, one in evaluation["per_defect_type"].items()
    ]


def _counts(source: ReportSource) -> list[dict[str, Any]]:
    """Return rows of the table of splits: normal, anomalous, and each defect type."""
    by_label = Counter((sample.split, sample.is_anomalous) for sample in source.samples)
    by_type = Counter((sample.split, sample.defect_type) for sample in source.samples if sample.is_anomalous)
    rows = [
        {"name": name, "kind": name, "cells": [by_label[split, is_anomalous] for split in SPLITS]}
        for name, is_anomalous in (("normal", False), ("anomalous", True))
    ]
    for name in sorted({name for _, name in by_type}):
        rows.append({"name": name, "kind": "type", "cells": [by_type[split, name] for split in SPLITS]})
    return rows


def _figures(source: ReportSource) -> list[Figure]:
    samples = {sample.filename: sample for sample in source.samples if sample.split == "test"}
    tested = [record for record in source.predictions if record["filename"] in samples]
    scores = Scores(
        values=np.array([record["prediction"]["anomaly_score"] for record in tested], dtype=np.float64),
        labels=np.array([samples[record["filename"]].is_anomalous for record in tested], dtype=bool),
        threshold=source.calibration.image_threshold,
    )
    overlap = overlap_figure(source.pixels)
    return image_figures(scores) + ([overlap] if overlap else [])


def _training(source: ReportSource) -> list[Figure]:
    run_dir, several = source.run_dir, len(source.scales) > 1
    wanted = [("Backbone", run_dir.loss_curve(run_dir.backbone))]
    wanted += [
        (f"{name}, patch size {patch_size}" if several else name, run_dir.loss_curve(artifact))
        for patch_size in source.scales
        for name, artifact in (("Teacher", run_dir.teacher(patch_size)), ("Students", run_dir.students(patch_size)))
    ]
    return [figure for title, path in wanted if (figure := training_figure(title, path)) is not None]


def _notes(source: ReportSource) -> list[tuple[str, float, str]]:
    """Return name, seconds and date of every stage from its provenance."""
    run_dir = source.run_dir
    artifacts = [("split", run_dir.split), ("backbone", run_dir.backbone)]
    for size in source.scales:
        suffix = f", patch size {size}" if len(source.scales) > 1 else ""
        artifacts += [
            (f"teacher{suffix}", run_dir.teacher(size)),
            (f"teacher statistics{suffix}", run_dir.teacher_statistics(size)),
            (f"students{suffix}", run_dir.students(size)),
            (f"positions{suffix}", run_dir.position_statistics(size)),
        ]
    artifacts += [
        ("calibration", run_dir.calibration),
        ("inference", run_dir.predictions),
        ("evaluation", run_dir.evaluation_json),
    ]
    notes = []
    for name, artifact in artifacts:
        path = run_dir.provenance(artifact)
        if path.exists():
            try:
                note = read_json(path)
                notes.append((name, float(note["seconds"]), str(note["made_at"])))
            except (KeyError, TypeError, ValueError) as error:
                raise ArtifactError(f"{path} is not a provenance note ({error!r}); delete {artifact} and it") from error
    return notes


def _stages(source: ReportSource) -> list[Stage]:
    notes = _notes(source)
    longest = max([seconds for _, seconds, _ in notes], default=0.0) or 1.0
    return [
        Stage(
            name=name,
            duration=duration_text(seconds),
            percent=100 * seconds / longest,
            made_at=made_at[:16].replace("T", " "),
        )
        for name, seconds, made_at in notes
    ]


def _files(source: ReportSource) -> list[tuple[str, str]]:
    """Return link and description of the files to go on with."""
    run_dir = source.run_dir
    candidates = (
        (run_dir.evaluation_json, "every figure"),
        (run_dir.evaluation_csv, "the same as a table"),
        (run_dir.predictions, "score and decision of each image"),
        (run_dir.split, "label and split of each image"),
        (run_dir.calibration, "thresholds and statistics"),
        (run_dir.bad_images, "images that could not be read"),
    )
    return [(path.name, text) for path, text in candidates if path.exists()]
