from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data.kolektor_sdd import read_kolektor_sdd
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError


def draw(root: Path, name: str, *, defect: int = 0) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6), 90).save(root / f"{name}.jpg")
    label = np.zeros((6, 8), dtype=np.uint8)
    label[2, 3] = defect
    Image.fromarray(label).save(root / f"{name}_label.bmp")


def test_labels_that_mark_anything_make_a_picture_anomalous(tmp_path: Path) -> None:
    draw(tmp_path, "kos01/Part0")
    draw(tmp_path, "kos01/Part1", defect=255)
    draw(tmp_path, "kos02/Part0", defect=1)
    assert read_kolektor_sdd(tmp_path, max_pixels=100) == [
        Sample(filename="kos01/Part0.jpg", is_anomalous=False),
        Sample(
            filename="kos01/Part1.jpg",
            is_anomalous=True,
            defect_type="anomaly",
            mask_path="kos01/Part1_label.bmp",
        ),
        Sample(
            filename="kos02/Part0.jpg",
            is_anomalous=True,
            defect_type="anomaly",
            mask_path="kos02/Part0_label.bmp",
        ),
    ]


def test_run_directories_beside_the_parts_are_left_out(tmp_path: Path) -> None:
    draw(tmp_path, "kos01/Part0")
    for run_dir in ("out", "runs/kolektor_sdd"):
        (tmp_path / run_dir / "heatmaps").mkdir(parents=True)
        (tmp_path / run_dir / "split.jsonl").touch()
        (tmp_path / run_dir / "provenance").mkdir()
        (tmp_path / run_dir / "heatmaps/Part0.png").touch()
    assert [sample.filename for sample in read_kolektor_sdd(tmp_path, max_pixels=100)] == ["kos01/Part0.jpg"]


def test_missing_and_unreadable_labels_are_told_at_once(tmp_path: Path) -> None:
    draw(tmp_path, "kos01/Part0")
    for name in ("kos01/Part1", "kos02/Part0"):
        draw(tmp_path, name)
        (tmp_path / f"{name}_label.bmp").write_bytes(b"BM")
    with pytest.raises(DataError) as caught:
        read_kolektor_sdd(tmp_path, max_pixels=100)
    assert str(caught.value).startswith("2 label pictures cannot be read, so their pictures have no label: ")
    assert "kos01/Part1_label.bmp: it begins like a BMP file" in str(caught.value)
    for name in ("kos01/Part1", "kos02/Part0"):
        (tmp_path / f"{name}_label.bmp").unlink()
    with pytest.raises(
        DataError, match=r"2 pictures in .* have no <name>_label picture: kos01/Part1\.jpg, kos02/Part0\.jpg"
    ):
        read_kolektor_sdd(tmp_path, max_pixels=100)


def test_nothing_usable_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError) as caught:
        read_kolektor_sdd(tmp_path, max_pixels=100)
    assert str(caught.value) == (
        f"data.root={tmp_path}: looked for kos01/Part0.jpg with kos01/Part0_label.bmp, but found 1 folder: train"
    )


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    draw(tmp_path, "elsewhere/kos01/Part0")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/kos01").symlink_to(tmp_path / "elsewhere/kos01")
    with pytest.raises(DataError, match=r"outside data\.root"):
        read_kolektor_sdd(tmp_path / "set", max_pixels=100)
