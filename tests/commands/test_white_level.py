"""`data.white_level`: pictures of more than 8 bits are read alike by every stage, however dark they are."""

import json
import logging

import numpy as np
import pytest
import tifffile
from PIL import Image

import us_anomaly
from us_anomaly.commands import infer, split
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.run import run as run_all
from us_anomaly.errors import StaleArtifactError
from us_anomaly.run_dir.staleness import state

DEEP = 10
"""How many times as large the values of the deep pictures are, so that 2550 is white."""


@pytest.fixture(scope="module")
def deep_parts(parts, tmp_path_factory):
    """Return a copy of the data set with 16 bits per channel: TIFF, whatever the names say, which decide the split."""
    root = tmp_path_factory.mktemp("deep")
    for path in sorted(parts.rglob("*.png")):
        target = root / path.relative_to(parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(path))
        is_mask = pixels.ndim == 2
        tifffile.imwrite(target, pixels if is_mask else pixels.astype(np.uint16) * DEEP, photometric=None)
    return root


@pytest.fixture(scope="module")
def run_dir(deep_parts, compose, tiny, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "deep"
    run_all(compose("run", *tiny(run_dir), f"data.root={deep_parts}", "data.white_level=2550"))
    return run_dir


def scores(run_dir):
    lines = map(json.loads, (run_dir / "predictions.jsonl").read_text().splitlines())
    return {line["filename"]: line["prediction"]["anomaly_score"] for line in lines}


def test_deep_pictures_are_trained_on_and_scored_as_the_same_in_8_bits(run_dir, trained):
    assert scores(run_dir) == scores(trained)


def test_a_loaded_detector_knows_the_white_level(run_dir, deep_parts, trained):
    detector = us_anomaly.load(run_dir, device="cpu", precision="float32", num_threads=1)
    for name, score in list(scores(run_dir).items())[:3]:
        assert detector.predict(deep_parts / name)[0].anomaly_score == pytest.approx(score, rel=1e-6)
    dark = tifffile.imread(deep_parts / "images/good/000.png") // 4  # its largest value would be white otherwise
    tifffile.imwrite(run_dir.parent / "dark.tif", dark, photometric="rgb")
    of_8_bits = us_anomaly.load(trained, device="cpu", precision="float32", num_threads=1)
    expected = of_8_bits.predict(np.rint(dark / DEEP).astype(np.uint8))[0].anomaly_score
    assert detector.predict(run_dir.parent / "dark.tif")[0].anomaly_score == pytest.approx(expected, rel=1e-6)


def test_another_white_level_makes_everything_stale_that_saw_a_picture(run_dir, deep_parts, compose, tiny):
    settings = compose("run", *tiny(run_dir), f"data.root={deep_parts}", "data.white_level=4095")
    with pytest.raises(StaleArtifactError, match=r"data\.white_level"):
        run_all(settings)
    split.run(compose("split", *tiny(run_dir), f"data.root={deep_parts}", "data.white_level=4095", "overwrite=true"))
    recipes = Recipes(settings)
    with pytest.raises(StaleArtifactError, match=r"data\.white_level"):
        state(recipes.run_dir, recipes.run_dir.students(33), recipes.students(33))
    split.run(compose("split", *tiny(run_dir), f"data.root={deep_parts}", "data.white_level=2550", "overwrite=true"))


def test_pictures_are_not_scored_with_another_white_level_than_the_threshold_was_chosen_with(
    run_dir, deep_parts, compose, tiny, tmp_path
):
    picture = deep_parts / "images/good/000.png"
    with pytest.raises(StaleArtifactError, match=r"data\.white_level"):
        infer.run(compose("infer", *tiny(run_dir), f"data.root={deep_parts}", f"inference.input={picture}"))


def test_the_split_says_what_was_taken_for_white(deep_parts, compose, tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        split.run(compose("split", *tiny(tmp_path / "run"), f"data.root={deep_parts}"))
    assert "4095 was taken for white" in caplog.text
    assert "data.white_level=4095" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        split.run(
            compose(
                "split", *tiny(tmp_path / "run"), f"data.root={deep_parts}", "data.white_level=3000", "overwrite=true"
            )
        )
    assert "taken for white" not in caplog.text


def test_a_picture_beyond_the_white_level_is_a_bad_one(deep_parts, compose, tiny, tmp_path):
    with pytest.raises(
        us_anomaly.errors.DataError, match=r"good/000\.png: its values, .* go beyond 0 to data\.white_level=900"
    ):
        split.run(compose("split", *tiny(tmp_path / "run"), f"data.root={deep_parts}", "data.white_level=900"))
