"""No leakage: what is said about one test picture depends on no other test picture."""

import json
import shutil

import numpy as np
from PIL import Image

from us_anomaly.commands.run import run


def results(run_dir):
    """Score, decision and the bytes of map and heatmap by picture."""
    found = {}
    for line in (run_dir / "predictions.jsonl").read_text().splitlines():
        record = json.loads(line)
        prediction = record["prediction"]
        files = [(run_dir / prediction[key]).read_bytes() for key in ("map_path", "heatmap_path", "uncertainty_path")]
        said = (prediction["anomaly_score"], prediction["normalized_score"], prediction["is_anomalous"])
        found[record["filename"]] = (said, files)
    return found


def test_replacing_a_test_picture_changes_no_other_score_decision_map_or_colour(
    compose, tiny, parts, trained, tmp_path
):
    data = shutil.copytree(parts, tmp_path / "data")
    lines = [json.loads(line) for line in (trained / "split.jsonl").read_text().splitlines()]
    test = sorted(line["filename"] for line in lines if line["split"] == "test")
    replaced = data / test[0]
    with Image.open(replaced) as picture:
        shape = (picture.height, picture.width, 3)
    noise = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise).save(replaced)
    run(compose("run", *tiny(tmp_path / "run", f"data.root={data}")))
    before, after = results(trained), results(tmp_path / "run")
    assert before.keys() == after.keys()
    assert before[test[0]] != after[test[0]]
    assert {name: said for name, said in before.items() if name != test[0]} == {
        name: said for name, said in after.items() if name != test[0]
    }
    calibration = (trained / "calibration.json").read_bytes()
    assert (tmp_path / "run" / "calibration.json").read_bytes() == calibration


def test_a_panel_of_a_picture_of_the_data_set_shows_the_truth(compose, tiny, parts, trained_copy):
    from us_anomaly.commands.infer import run as infer

    lines = [json.loads(line) for line in (trained_copy / "split.jsonl").read_text().splitlines()]
    masked = next(line for line in lines if line["mask_path"] is not None)
    plain = next(line for line in lines if line["mask_path"] is None)
    widths = {}
    for line in (masked, plain):
        infer(compose("infer", *tiny(trained_copy), f'inference.input="{parts / line["filename"]}"'))
        newest = max(trained_copy.glob("inference/*/panels/*.png"), key=lambda path: path.stat().st_mtime_ns)
        with Image.open(newest) as panel:
            widths[line["filename"]] = panel.width
    assert widths[masked["filename"]] > widths[plain["filename"]]
