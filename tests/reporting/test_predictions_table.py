import csv
import io

from drawn_run import result

from us_anomaly.data.sample import Sample
from us_anomaly.reporting.predictions_table import predictions_csv


def test_each_result_is_a_row_with_truth_values_as_numbers():
    sample = Sample(filename="test/cut, deep/0.png", is_anomalous=True)
    (row,) = csv.DictReader(io.StringIO(predictions_csv([result(sample, score=0.25)], threshold=0.5)))
    assert row["filename"] == "test/cut, deep/0.png"
    assert (row["label_is_anomalous"], row["is_anomalous"], row["correct"]) == ("1", "0", "0")
    assert row["anomaly_score"] == "0.25"
    assert row["map_path"] == "maps/test/cut, deep/0.tiff"
    assert row["uncertainty_path"] == ""
    assert row["threshold"] == "0.5"


def test_without_label_its_cells_are_empty():
    prediction = result(Sample(filename="a.png", is_anomalous=True), score=0.9)["prediction"]
    (row,) = csv.DictReader(
        io.StringIO(predictions_csv([{"filename": "a.png", "prediction": prediction}], threshold=0.5))
    )
    assert (row["label_is_anomalous"], row["correct"], row["is_anomalous"]) == ("", "", "1")
