import copy
import csv
import io

import pytest
from rich.console import Console

from us_anomaly.reporting.metric_names import LABELS, shown
from us_anomaly.reporting.tables import evaluation_csv, evaluation_notes, evaluation_tables, resolution_text
from us_anomaly.scoring.image_metrics import image_metrics
from us_anomaly.scoring.pixel_curve import figure_names

EVALUATION = {
    "resolution": "original",
    "resolution_px": {"smallest": [103, 200], "largest": [632, 400]},
    "algorithm": "exact",
    "bootstrap": {"num_resamples": 1000, "seed": 0, "confidence": 0.95},
    "counts": {"images": 10, "normal": 4, "anomalous": 6},
    "metrics": {
        "image_auroc": 0.98765,
        "misses": 2,
        "deployed_threshold": 12.3456,
        "aupro_0.3": 0.5,
        "oracle_f1": 0.9,
    },
    "intervals": {"image_auroc": [0.9, 1.0], "misses": [0.0, 4.0], "oracle_f1": [0.8, 1.0]},
    "absent": {"pixel_auroc": "no masks", "pixel_f1_max": "no masks", "oracle_recall": "hidden"},
    "per_defect_type": {
        "cut": {"count": 3, "metrics": {"image_auroc": 1.0, "misses": 0}, "intervals": {}, "absent": {}},
        "hole": {
            "count": 3,
            "metrics": {"image_auroc": 0.9},
            "intervals": {"image_auroc": [0.7, 1]},
            "absent": {},
        },
    },
    "threshold": {
        "value": 12.3456,
        "rule": "quantile",
        "requested": "f1",
        "reason": "validation has no anomaly",
    },
    "warnings": {"masks_resized": 3, "masks_not_binary": 0},
}


def printed(evaluation):
    console = Console(file=io.StringIO(), width=120)
    for table in evaluation_tables(evaluation):
        console.print(table)
    return console.file.getvalue()


def test_the_table_shows_values_intervals_resolution_and_algorithm():
    text = printed(EVALUATION)
    assert "10 test images (4 normal, 6 anomalous)" in text
    row = next(line for line in text.splitlines() if "image AUROC" in line)
    assert "0.988" in row
    assert "0.900 to 1.000" in row
    assert "resolution: original, 103x200 to 632x400; algorithm: exact" in " ".join(text.split())


def test_each_defect_type_has_a_row_and_absent_figures_a_dash():
    row = next(line for line in printed(EVALUATION).splitlines() if "hole" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["hole", "3", "0.900", "–"]


def test_a_defect_type_with_brackets_is_printed_as_it_is():
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["per_defect_type"]["[red]"] = evaluation["per_defect_type"].pop("cut")
    assert "│ [red] " in printed(evaluation)


def test_one_defect_type_needs_no_table_of_its_own():
    evaluation = copy.deepcopy(EVALUATION)
    del evaluation["per_defect_type"]["cut"]
    assert len(evaluation_tables(evaluation)) == 1


def test_notes_tell_the_fallback_what_is_absent_and_what_is_odd():
    assert evaluation_notes(EVALUATION) == [
        "The threshold was chosen by the rule quantile: validation has no anomaly.",
        "Absent (no masks): pixel AUROC, pixel F1 at best threshold.",
        "Odd data: masks resized 3; see warnings in evaluation.json.",
    ]


def test_the_csv_has_a_row_per_group_and_empty_cells_for_absent_figures():
    rows = list(csv.DictReader(io.StringIO(evaluation_csv(EVALUATION))))
    assert [row["group"] for row in rows] == ["all", "cut", "hole"]
    assert [row["images"] for row in rows] == ["10", "3", "3"]
    assert rows[0]["image_auroc"] == "0.98765"
    assert (rows[2]["image_auroc_low"], rows[2]["image_auroc_high"]) == ("0.7", "1")
    assert rows[2]["misses"] == rows[1]["aupro_0.3"] == rows[1]["image_auroc_low"] == ""
    assert {row["resolution"] for row in rows} == {"original"}


def test_figures_that_peek_at_the_test_labels_say_so_in_the_csv():
    evaluation = copy.deepcopy(EVALUATION)
    peeking = {"f1": 0.9, "precision": 0.8, "recall": 0.7, "optimal_threshold": 3.5}
    evaluation["metrics"] |= peeking | {"deployed_f1": 0.6}
    evaluation["intervals"]["f1"] = [0.85, 0.95]
    rows = list(csv.DictReader(io.StringIO(evaluation_csv(evaluation))))
    assert not {*peeking, "f1_low", "f1_high"} & rows[0].keys()
    figures = {name: rows[0][f"oracle_{name}"] for name in ("f1", "precision", "recall", "threshold")}
    assert figures == {"f1": "0.9", "precision": "0.8", "recall": "0.7", "threshold": "3.5"}
    assert (rows[0]["oracle_f1_low"], rows[0]["oracle_f1_high"], rows[1]["oracle_f1"]) == ("0.85", "0.95", "")
    assert rows[0]["deployed_f1"] == "0.6"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("misses", 2, "2"), ("deployed_threshold", 12.3456, "12.35"), ("f1", 0.5, "0.500"), ("f1", None, "–")],
)
def test_counts_thresholds_and_shares_are_shown_as_such(name, value, text):
    assert shown(name, value) == text


def test_without_pixel_figures_the_resolution_says_so():
    assert resolution_text({"resolution": "original", "resolution_px": None}) == "no pixel metrics"


def test_images_of_one_size_give_one_resolution():
    one_size = {"smallest": [256, 256], "largest": [256, 256]}
    assert resolution_text({"resolution": "network", "resolution_px": one_size}) == "network, 256x256"


def test_every_figure_has_a_label():
    names = set(image_metrics([0.1, 0.9], [False, True], deployed_threshold=0.5).values)
    names |= {*figure_names(saturated=True), *figure_names(saturated=False)}
    assert {name for name in names if not name.startswith("oracle_")} == set(LABELS)
