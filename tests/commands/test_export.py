"""`usad export`: an ONNX file that says what the detector says, on one way of pictures and many settings."""

import dataclasses
import json
import logging
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_below
from PIL import Image
from torchvision.transforms import v2

import us_anomaly
from us_anomaly.commands import export, parity
from us_anomaly.commands.run import run as run_all
from us_anomaly.data.transform_factory import make_transform
from us_anomaly.errors import ArtifactError, SettingsError, StaleArtifactError
from us_anomaly.graph import OUTPUTS, DetectorGraph
from us_anomaly.onnx_model import METADATA, OnnxDetector, require_packages
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.calibration_file import load_calibration
from us_anomaly.settings import TransformSettings
from us_anomaly.version import __version__

onnx = pytest.importorskip("onnx")


def documented_programs():
    """Return the Python programs of the page on deployment: a station, and one without torch."""
    page = (Path(__file__).parents[2] / "docs/deployment.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def exported(compose, tiny, trained, tmp_path_factory):
    """A complete run directory with its exported detector, which no test may change."""
    run_dir = shutil.copytree(trained, tmp_path_factory.mktemp("exported") / "run")
    export.run(compose("export", *tiny(run_dir)))
    return run_dir


@pytest.mark.slow
def test_the_file_gives_what_the_detector_gives_for_pictures_of_its_own(exported, parts):
    detector = us_anomaly.load(exported, device="cpu", precision="float32")
    other = OnnxDetector((exported / "onnx/detector.onnx").read_bytes(), num_threads=1)
    for path in sorted((parts / "images").rglob("*.png")):
        with Image.open(path) as picture:
            prepared = detector.pipeline.prefix(np.asarray(picture.convert("RGB")))
        expected = detector.predict_prepared(prepared, height=48, width=48)
        answer = other.predict(prepared.numpy())
        assert answer.is_anomalous == expected.is_anomalous
        assert answer.anomaly_score == pytest.approx(expected.anomaly_score, rel=1e-4)
        assert answer.normalized_score == pytest.approx(expected.normalized_score, abs=1e-4)
        np.testing.assert_allclose(answer.anomaly_map, expected.anomaly_map, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(answer.uncertainty_map, expected.uncertainty_map, rtol=1e-3, atol=1e-4)


def test_the_file_describes_itself_and_is_valid(exported):
    model = onnx.load(exported / "onnx/detector.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == list(OUTPUTS)
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA]
    told = json.loads(entry.value)
    calibration = load_calibration(exported / "calibration.json")
    assert told == {
        "us_anomaly": __version__,
        "input": {"name": "image", "type": "uint8", "shape": [1, 3, 48, 48], "channels": "RGB"},
        "before_the_input": [{"name": "Resize", "params": {"size": [48, 48]}}],
        "white_level": None,
        "image_threshold": calibration.image_threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "color_range": list(calibration.color_range),
        "uncertainty_color_range": list(calibration.uncertainty_color_range),
    }


def test_the_report_tells_how_far_both_agree(exported):
    told = json.loads((exported / "onnx/parity.json").read_text())
    assert (told["pictures"], told["precision"], told["num_decisions_that_differ"]) == ("val", "float32", 0)
    assert told["num_pictures"] == (exported / "split.jsonl").read_text().count('"split": "val"')
    assert told["max_score_difference"] <= told["max_map_difference"] < 1e-3 * told["score_scale"]
    assert told["max_score_difference_as_used"] == told["max_score_difference"]
    assert 0 <= told["max_score_difference_by_pillow"] < told["score_scale"]


@pytest.mark.parametrize("interpolation", [None, "bilinear", "bicubic", "nearest-exact"])
def test_pillow_resizes_with_the_filter_of_the_transform_list(interpolation):
    params = {"size": [24, 32]} | ({} if interpolation is None else {"interpolation": interpolation})
    entry = TransformSettings(name="Resize", params=params)
    picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    resample = parity.filter_of_pillow([entry])
    expected = make_transform(entry, key="x", patch_size=None)(torch.tensor(picture).permute(2, 0, 1)).numpy()
    ours = parity.resized_by_pillow(picture, resample, height=24, width=32)
    assert np.abs(ours.astype(int) - expected).mean() < 1  # Pillow clips after each direction, torch at the end
    assert parity.filter_of_pillow([entry, entry]) is None
    assert parity.filter_of_pillow([TransformSettings(name="CenterCrop", params={"size": 24})]) is None


def test_no_filter_of_pillow_stands_for_one_that_it_lacks():
    entry = TransformSettings(name="Resize", params={"size": [24, 32], "interpolation": "of the future"})
    assert parity.filter_of_pillow([entry]) is None


def test_the_program_that_the_documentation_shows_runs(exported, parts, tmp_path, monkeypatch, capsys):
    _, program = documented_programs()
    (tmp_path / "R").symlink_to(exported)
    shutil.copy(next((parts / "images/cut").iterdir()), tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/deployment.md", "exec"), {})
    (expected,) = us_anomaly.load(exported, device="cpu", precision="float32").predict("photo.png")
    verdict, score, word, threshold = capsys.readouterr().out.split()
    assert (verdict, word) == ("ANOMALOUS" if expected.is_anomalous else "normal", "threshold")
    assert float(score) == pytest.approx(expected.anomaly_score, rel=0.02)
    assert float(threshold) == load_calibration(exported / "calibration.json").image_threshold


def test_the_station_that_the_documentation_shows_sorts_pictures(exported, parts, tmp_path, monkeypatch, capsys):
    station, _ = documented_programs()
    (tmp_path / "R").symlink_to(exported)
    (tmp_path / "inbox").mkdir()
    arrived = {kind: next((parts / f"images/{kind}").iterdir()) for kind in ("good", "cut")}
    for kind, picture in arrived.items():
        shutil.copy(picture, tmp_path / f"inbox/{kind}.png")
    (tmp_path / "inbox/torn.png").write_bytes(b"half a picture")
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable/torn.png").write_bytes(b"of yesterday")
    (tmp_path / "stop").touch()  # of yesterday, too
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: Path("stop").touch())
    exec(compile(station, "docs/deployment.md", "exec"), {})
    detector = us_anomaly.load(exported)
    verdicts = {kind: detector.predict(picture)[0].is_anomalous for kind, picture in arrived.items()}
    for kind, is_anomalous in verdicts.items():
        assert (tmp_path / ("anomalous" if is_anomalous else "normal") / f"{kind}.png").exists()
    assert (tmp_path / "unreadable/torn.png").read_bytes() == b"of yesterday"
    assert [path.read_bytes() for path in (tmp_path / "unreadable").glob("torn-*.png")] == [b"half a picture"]
    assert not list((tmp_path / "inbox").iterdir())
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["cut.png", "good.png", "torn.png"]


def test_nothing_is_done_again_until_the_detector_changes(compose, tiny, exported, tmp_path, caplog):
    run_dir = shutil.copytree(exported, tmp_path / "run")
    caplog.set_level(logging.INFO)
    export.run(compose("export", *tiny(run_dir)))
    assert caplog.messages == [f"{run_dir / 'onnx/detector.onnx'} is up to date"]
    with pytest.raises(StaleArtifactError, match=r"calibration\.json was made from something else"):
        export.run(compose("export", *tiny(run_dir), "scoring.stride_px=2"))


def test_only_the_file_and_the_report_are_written(exported, trained):
    new = {"onnx/detector.onnx", "onnx/parity.json", "provenance/onnx/detector.onnx.json"}
    assert files_below(exported) - files_below(trained) == new


NARROW = ("students.steps=2", "students.width=0.1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["scoring.stride_px=1", "scoring.border_px=0", "scoring.smoothing_sigma_px=2", "scoring.image_score=quantile"],
        [
            *["scales=[33,66]", "image_size=[72,96]", "scoring.normalization=quantile", "scoring.image_score=top_mean"],
            *["teacher.whitening_floor=0.01", "scoring.per_position=true", "scoring.per_picture=true"],
        ],
    ],
)
def test_other_ways_from_maps_to_scores_agree_too(compose, tiny, tmp_path, overrides):
    settings = compose("run", *tiny(tmp_path / "run"), "teacher.checkpoint=builtin", *NARROW, *overrides)
    run_all(settings)
    export.run(settings)  # refuses what does not agree
    told = json.loads((tmp_path / "run/onnx/parity.json").read_text())
    assert told["num_decisions_that_differ"] == 0


@pytest.mark.parametrize(("precision", "is_told"), [("bfloat16", True), ("float32", False)])
def test_where_the_number_format_decides_otherwise_the_way_out_is_told(exported, tmp_path, caplog, precision, is_told):
    run_dir = RunDir(shutil.copytree(exported, tmp_path / "run"))
    told = json.loads(run_dir.onnx_parity.read_text()) | {"num_decisions_that_differ": 1, "precision": precision}
    run_dir.onnx_parity.write_text(json.dumps(told))
    export._summarize(run_dir)
    assert ("decides 1 of " in caplog.text and "runtime.precision=float32 overwrite=true" in caplog.text) == is_told


def test_without_the_data_set_pictures_are_drawn(compose, tiny, trained_copy, monkeypatch, caplog):
    settings = compose("export", *tiny(trained_copy), "data.root=nowhere")
    source, pictures = parity.reference_pictures(settings)
    assert source == "drawn"
    assert {picture.shape for picture in pictures} == {(256, 256, 3), (128, 256, 3)}
    assert "compared on drawn pictures" in caplog.text
    export.run(settings)
    assert json.loads((trained_copy / "onnx/parity.json").read_text())["pictures"] == "drawn"


def test_a_size_that_only_the_data_set_knows_is_not_guessed(compose, tiny, trained_copy):
    detector = us_anomaly.load(trained_copy, device="cpu", precision="float32")
    _, pictures = parity.reference_pictures(compose("export", *tiny(trained_copy), "data.root=nowhere"))
    with pytest.raises(SettingsError, match=r"several sizes .* or give data\.root="):
        export._one_size([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures])
    assert export._one_size([detector.pipeline.prefix(picture) for picture in pictures]) == (48, 48)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("anomaly_score", lambda score: score + 1),
        ("anomaly_score", lambda score: math.nan),
        ("anomaly_map", lambda values: values + 1),
        ("uncertainty_map", lambda values: values + 1),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_file_that_says_something_else_is_not_written(
    compose, tiny, exported, tmp_path, monkeypatch, part, wrong, number
):
    run_dir = shutil.copytree(exported, tmp_path / "run")
    before = {name: (run_dir / name).read_bytes() for name in files_below(run_dir) if "onnx" in name}
    monkeypatch.setattr(export, "to_onnx", lambda *_, **__: before["onnx/detector.onnx"])
    genuine, calls = OnnxDetector.predict, []

    def otherwise(self, prepared):
        calls.append(prepared)
        answer = genuine(self, prepared)
        is_wrong = len(calls) == 2 * number - 1  # each picture is asked about twice
        return dataclasses.replace(answer, **{part: wrong(getattr(answer, part))}) if is_wrong else answer

    monkeypatch.setattr(OnnxDetector, "predict", otherwise)
    kind = "scores" if part == "anomaly_score" else "maps"
    with pytest.raises(
        ArtifactError, match=rf"differs from the original by up to .*\b(1|nan) in {kind}\b.*nothing was written"
    ):
        export.run(compose("export", *tiny(run_dir), "overwrite=true"))
    assert {name: (run_dir / name).read_bytes() for name in files_below(run_dir) if "onnx" in name} == before


def test_a_file_that_cannot_be_run_is_told_in_one_line():
    with pytest.raises(ArtifactError, match=r"^onnxruntime cannot run the exported detector: .+"):
        OnnxDetector(b"no model", num_threads=1)


def test_the_file_says_nothing_about_the_machine_that_recorded_it(exported):
    content = (exported / "onnx/detector.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_pictures_of_several_sizes_are_refused():
    with pytest.raises(SettingsError, match=r"makes pictures of several sizes \(40x40, 40x60\)"):
        export._one_size([torch.zeros(3, 40, side, dtype=torch.uint8) for side in (60, 40, 60)])


@pytest.mark.parametrize(
    "transform", [torch.nn.Softmax(dim=0), v2.Grayscale(num_output_channels=3), v2.GaussianBlur(9), v2.CenterCrop(8)]
)
def test_transforms_that_a_graph_cannot_hold_are_refused(trained, transform):
    detector = us_anomaly.load(trained, device="cpu", precision="float32")
    detector.pipeline._tail.append(transform)
    with pytest.raises(
        SettingsError, match=r"`augmentation\.evaluation` must end with transforms that scale and shift"
    ):
        DetectorGraph(detector)


def test_a_missing_package_is_told_before_anything_is_done(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"`usad export` needs a package .*pip install 'us-anomaly\[export\]'"):
        require_packages()
