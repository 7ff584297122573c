"""Every kind of bad picture at once, through the commands; adapters fed with any tree of names; a fuzz run."""

import json
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_parts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_fuzz import fuzz, held
from PIL import Image

from us_anomaly.commands import run, split
from us_anomaly.data.folder import read_folder
from us_anomaly.data.kolektor_sdd import read_kolektor_sdd
from us_anomaly.data.mvtec import read_mvtec
from us_anomaly.data.sample import parse_labels
from us_anomaly.data.visa import read_visa
from us_anomaly.errors import DataError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring.scored_images import parse_predictions

BAD = {
    "truncated.png": "truncated",
    "empty.png": "it is empty",
    "text.jpg": "it is not a PNG, JPEG, BMP, TIFF or WebP picture",
    "bomb.png": "pixels are more than data.max_image_pixels=",
    "not-a-number.tiff": "not-a-number",
    "circle.png": "link that leads back to itself",
    "gone.png": "it does not exist",
}
ODD = ("one-pixel.png", "very-wide.png", "animated.png", "cmyk.jpg", "deep.png", "float.tiff", "wrongly-named.bmp")


def png_of_claimed_size(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its data does not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


@pytest.fixture
def zoo(tmp_path) -> Path:
    """Parts, and among the good ones every kind of picture that is bad or odd."""
    root = draw_parts(tmp_path / "zoo", num_normal=12)
    good = root / "images" / "good"
    whole = (good / "000.png").read_bytes()
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    (good / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (good / "empty.png").write_bytes(b"")
    (good / "text.jpg").write_text("dear colleague, the pictures are on the other disk")
    (good / "bomb.png").write_bytes(png_of_claimed_size(60_000, 60_000))
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(good / "not-a-number.tiff")
    (good / "circle.png").symlink_to(good / "circle.png")
    (good / "gone.png").symlink_to(good / "nowhere.png")
    rgb.resize((1, 1)).save(good / "one-pixel.png")
    rgb.resize((30_000, 2)).save(good / "very-wide.png")
    rgb.save(good / "animated.png", save_all=True, append_images=[rgb.rotate(90)])
    rgb.convert("CMYK").save(good / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65536, (40, 40), dtype=np.uint16)).save(good / "deep.png")
    Image.fromarray(rng.random((40, 40), dtype=np.float32)).save(good / "float.tiff")
    rgb.save(good / "wrongly-named.bmp", "PNG")
    return root


def test_every_bad_picture_is_told_at_once_and_no_split_is_written(zoo, tmp_path, compose, tiny):
    arguments = tiny(tmp_path / "run", f"data.root={zoo}")
    with pytest.raises(DataError) as caught:
        split.run(compose("split", *arguments))
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"{len(BAD)} pictures cannot be used (repair or remove them, or leave them out with data.on_bad_image=skip):"
    )
    assert len(lines) == 1 + len(BAD)
    for name, reason in BAD.items():
        (line,) = [line for line in lines if f"images/good/{name}: " in line]
        assert reason in line
    assert not (tmp_path / "run" / "split.jsonl").exists()


def test_bad_pictures_are_skipped_counted_and_named_and_odd_ones_go_through_the_whole_pipeline(
    zoo, tmp_path, compose, tiny, caplog
):
    arguments = tiny(tmp_path / "run", f"data.root={zoo}", "data.on_bad_image=skip")
    run.run(compose("run", *arguments))
    named = read_json(tmp_path / "run" / "bad_images.json")["bad_images"]
    assert {entry["filename"] for entry in named} == {f"images/good/{name}" for name in BAD}
    assert f"{len(BAD)} pictures left out" in caplog.text
    used = {sample.filename for sample in parse_labels((tmp_path / "run" / "split.jsonl").read_text())}
    assert {f"images/good/{name}" for name in ODD} <= used
    assert not {f"images/good/{name}" for name in BAD} & used
    predictions = parse_predictions((tmp_path / "run" / "predictions.jsonl").read_text())
    assert {line["filename"] for line in predictions} <= used


def test_all_of_many_bad_pictures_are_written_down_and_earlier_artifacts_stay(tmp_path, compose, tiny):
    root = draw_parts(tmp_path / "parts", num_normal=30)
    for number in range(25):
        (root / f"images/good/{number:03}.png").write_bytes(b"")
    with pytest.raises(DataError, match="25 pictures cannot be used") as caught:
        split.run(compose("split", *tiny(tmp_path / "run", f"data.root={root}")))
    assert "and 5 more" in str(caught.value)
    listed = json.loads((tmp_path / "run" / ".hydra" / "split" / "bad_images.json").read_text())
    assert [entry["filename"] for entry in listed["bad_images"]] == [
        f"images/good/{number:03}.png" for number in range(25)
    ]
    assert not (tmp_path / "run" / "bad_images.json").exists()


LAYOUT_NAMES = [
    "good",
    "ok",
    "cut",
    "train",
    "test",
    "ground_truth",
    "images",
    "masks",
    "Data",
    "Images",
    "Normal",
    "Anomaly",
    "000",
]
FILE_NAMES = [
    "a.png",
    "b.PNG",
    "a_mask.png",
    "a_label.bmp",
    "x.txt",
    ".hidden.png",
    "ü.png",
    "a b.jpg",
    "Part0_label.bmp",
]
NAMES = st.sampled_from([*LAYOUT_NAMES, *FILE_NAMES])
TREES = st.lists(
    st.tuples(
        st.lists(NAMES, min_size=1, max_size=5), st.sampled_from(["file", "file", "file", "folder", "link up", "loop"])
    ),
    max_size=12,
)


def grow(root: Path, tree: list[tuple[list[str], str]]) -> None:
    for parts, kind in tree:
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                path.touch()
            elif kind == "folder":
                path.mkdir(exist_ok=True)
            else:
                path.symlink_to("../.." if kind == "link up" else path.name)
        except OSError:  # something else has the name
            continue


@given(TREES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_gives_samples_inside_of_it_each_once_or_one_clear_error(tree):
    with tempfile.TemporaryDirectory() as name:
        root = Path(os.path.realpath(name)) / "outer" / "data"  # so deep that links up end here, not in all of /tmp
        root.mkdir(parents=True)
        (root.parent / "outside.png").touch()
        grow(root, tree)
        for read in (
            lambda: read_folder(root, images="images", masks="masks", normal="good"),
            lambda: read_mvtec(root, category=None, normal="good"),
            lambda: read_mvtec(root, category="test", normal="ok"),
            lambda: read_visa(root, category="cut", table="split.csv"),
            lambda: read_kolektor_sdd(root, max_pixels=1000),
        ):
            try:
                samples = read()
            except DataError as error:
                assert str(error)  # noqa: PT017
                continue
            filenames = [sample.filename for sample in samples]
            assert filenames == sorted(set(filenames))
            for sample in samples:
                for path in filter(None, (sample.filename, sample.mask_path)):
                    assert Path(os.path.realpath(root / path)).is_relative_to(root)


@pytest.mark.slow
def test_three_thousand_damaged_files_give_pictures_or_clear_lines_and_leak_nothing(tmp_path):
    fuzz(500, seed=1, folder=tmp_path)
    files, threads, memory = held()
    outcomes = fuzz(3000, seed=0, folder=tmp_path)
    files_after, threads_after, memory_after = held()
    assert outcomes.total() == 9000
    assert min(outcomes["read"], outcomes["refused"]) > 500  # the damage is neither harmless nor hopeless
    assert (files_after, threads_after) == (files, threads)
    assert memory_after < memory + 40
