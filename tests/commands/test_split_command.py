import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from composition import composed
from PIL import Image

from us_anomaly.cli import config_dir, register_schemas, to_settings
from us_anomaly.commands import split
from us_anomaly.data.sample import of_split, parse_labels
from us_anomaly.errors import DataError, StaleArtifactError
from us_anomaly.settings import DATA_LAYOUTS, Settings


def settings_of(*overrides: str) -> Settings:
    register_schemas()
    settings = to_settings(composed("split", *overrides))
    assert isinstance(settings, Settings)
    return settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    generator = np.random.default_rng(0)
    for kind, count in (("good", 20), ("crack", 4), ("dent", 3)):
        (root / "images" / kind).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, size=(8, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / kind / f"{number}.png")
    return root


def run(root: Path, *overrides: str) -> Path:
    run_dir = root.parent / "run"
    split.run(settings_of(f"data.root={root}", f"run_dir={run_dir}", *overrides))
    return run_dir


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_split_writes_labels_and_where_they_came_from_and_nothing_else(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(root)
    assert files(run_dir) == [".hydra/contents.json", "provenance/split.jsonl.json", "split.jsonl"]
    samples = parse_labels((run_dir / "split.jsonl").read_text())
    assert len(samples) == 27
    assert [len(of_split(samples, name)) for name in ("train", "val", "test")] == [14, 3 + 4, 3 + 3]
    first = json.loads((run_dir / "split.jsonl").read_text().splitlines()[0])
    assert first == {
        "filename": "images/crack/0.png",
        "split": samples[0].split,
        "label": {"type": "anomaly", "is_anomalous": True},
        "defect_type": "crack",
        "mask_path": None,
        "group": None,
    }
    shown = capsys.readouterr().out
    assert "crack" in shown
    assert f"{run_dir}/split.jsonl" in shown
    assert "usad distill-teacher" in shown


def test_a_second_run_leaves_the_file_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = run(root)
    before = (run_dir / "split.jsonl").stat()
    with caplog.at_level(logging.INFO):
        run(root, "runtime.num_workers=0")
    assert f"{run_dir}/split.jsonl is up to date" in caplog.text
    after = (run_dir / "split.jsonl").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


@pytest.mark.parametrize("change", ["seed=1", "split.ratios=60-30-10", "split.mode=ratio", "data.normal=crack"])
def test_other_settings_are_refused_with_the_reason_and_replace_it_on_request(root: Path, change: str) -> None:
    run_dir = run(root)
    before = (run_dir / "split.jsonl").read_bytes()
    key, _, value = change.partition("=")
    if change == "data.normal=crack":
        (root / "images/good").rename(root / "images/fine")  # `good` cannot name a defect
    with pytest.raises(StaleArtifactError, match=rf"{key}=\S+, now {key}={value}") as caught:
        run(root, change)
    assert "overwrite=true" in str(caught.value)
    assert (run_dir / "split.jsonl").read_bytes() == before
    if change != "data.normal=crack":  # four pictures are too few to train
        run(root, change, "overwrite=true")
        run(root, change)


def test_a_new_picture_makes_the_split_stale(root: Path) -> None:
    run(root)
    (root / "images/good/0.png").rename(root / "images/good/new.png")
    with pytest.raises(StaleArtifactError, match="another list of pictures"):
        run(root)


def test_bad_pictures_stop_the_split_and_all_are_named(root: Path) -> None:
    for name in ("good/1.png", "dent/2.png"):
        (root / "images" / name).write_bytes(b"")
    with pytest.raises(DataError, match="2 pictures cannot be used") as caught:
        run(root)
    assert "images/dent/2.png: it is empty\n  images/good/1.png: it is empty" in str(caught.value)
    assert not (root.parent / "run" / "split.jsonl").exists()


def test_skipped_pictures_are_written_down_and_forgotten_when_repaired(root: Path) -> None:
    content = (root / "images/dent/2.png").read_bytes()
    (root / "images/dent/2.png").write_bytes(b"")
    run_dir = run(root, "data.on_bad_image=skip")
    assert json.loads((run_dir / "bad_images.json").read_text()) == {
        "format_version": 1,
        "bad_images": [{"filename": "images/dent/2.png", "reason": "it is empty"}],
    }
    assert len(parse_labels((run_dir / "split.jsonl").read_text())) == 26
    (root / "images/dent/2.png").write_bytes(content)
    run(root, "overwrite=true")
    assert files(run_dir) == [".hydra/contents.json", "provenance/split.jsonl.json", "split.jsonl"]
    assert len(parse_labels((run_dir / "split.jsonl").read_text())) == 27


def test_the_same_picture_in_two_splits_is_warned_about(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1, 20):
        (root / f"images/good/{number}.png").write_bytes((root / "images/good/0.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        run(root)
    (warning,) = caplog.messages
    assert warning.startswith("the same picture in more than one split: images/good/0.png, images/good/1.png")


def copy(root: Path, name: str, *, to: str) -> None:
    (root / to).parent.mkdir(parents=True, exist_ok=True)
    (root / to).write_bytes((root / name).read_bytes())


def test_the_same_picture_as_good_and_as_a_defect_is_told_in_one_line(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        copy(root, f"images/good/{number}.png", to=f"images/crack/{number}.png")
    for number in range(2):
        copy(root, f"images/good/{number + 4}.png", to=f"images/dent/{number}.png")
    copy(root, "images/good/0.png", to="images/dent/again.png")
    copy(root, "images/good/8.png", to="images/good/9.png")  # of one label
    run(root)
    assert [message for message in caplog.messages if "more than one split" not in message] == [
        "labels contradict, the same picture is there as anomalous and as normal: "
        "images/crack/0.png = images/good/0.png, images/crack/1.png = images/good/1.png, "
        "images/crack/2.png = images/good/2.png, images/crack/3.png = images/good/3.png, "
        "images/dent/0.png = images/good/4.png and 1 more. "
        "Remove the wrong one of each pair and run `usad split` again with overwrite=true"
    ]


def test_defects_without_a_mask_where_others_have_one_are_told_in_one_line(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "masks/crack").mkdir(parents=True)
    Image.fromarray(np.full((8, 9), 255, np.uint8)).save(root / "masks/crack/2.png")
    run(root)
    assert caplog.messages == [
        "6 of 7 anomalous pictures have no mask: images/crack/0.png, images/crack/1.png, images/crack/3.png, "
        "images/dent/0.png, images/dent/1.png and 1 more. Those in test count for the image metrics, "
        "but are left out of the pixel metrics"
    ]


@pytest.mark.parametrize(
    ("shape", "image_size", "told"),
    [
        ((8, 32), "256", ["4 times as wide as they are high", "[256,256]", "factor of 4:", "image_size=[128,512] "]),
        ((40, 30), "[192,256]", ["0.75 times", "[192,256] (height, width)", "factor of 1.8", "image_size=[256,192] "]),
        ((8, 32), "[128,512]", None),
        ((30, 40), "256", None),
    ],
)
def test_an_image_size_that_squeezes_most_pictures_is_told_with_one_that_does_not(
    root: Path, caplog: pytest.LogCaptureFixture, shape: tuple[int, int], image_size: str, told: list[str] | None
) -> None:
    generator = np.random.default_rng(1)
    for path in list((root / "images").glob("*/*.png"))[:20]:
        Image.fromarray(generator.integers(0, 256, size=(*shape, 3), dtype=np.uint8)).save(path)
    run(root, f"image_size={image_size}")
    assert len(caplog.messages) == (told is not None)
    assert all(text in caplog.text for text in told or [])


def test_the_rate_counts_pictures_also_where_all_are_looked_at_in_one_go(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=10.0)
    monkeypatch.setattr("us_anomaly.reporting.progress.time.monotonic", lambda: next(seconds))
    with caplog.at_level(logging.INFO):
        run(root, "runtime.progress=true")
    (line,) = [message for message in caplog.messages if message.startswith("checking pictures: 27 of 27")]
    assert line == "checking pictures: 27 of 27 in 0:20, 0.9/s"  # the clock goes on between both figures


def test_pictures_that_are_not_resized_are_not_squeezed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (root / "images").glob("*/*.png"):
        Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, size=(8, 90), dtype=np.uint8)).save(path)
    list_of_one = "{name: ToDtype, params: {dtype: float32, scale: true}}"
    run(root, f"augmentation.evaluation=[{list_of_one}]")
    assert "squeezes" not in caplog.text


def test_no_masks_at_all_or_one_for_every_defect_are_not_remarked_upon(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(root)
    for path in sorted((root / "images").glob("[cd]*/*.png")):
        mask = root / "masks" / path.parent.name / path.name
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 9), 255, np.uint8)).save(mask)
    run(root, "overwrite=true")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_column_split_without_test_is_refused_and_ratio_mode_divides_anew(root: Path) -> None:
    rows = [f"images/good/{number}.png,0,{'train' if number < 15 else 'validation'}" for number in range(20)]
    (root / "badsplit.csv").write_text("\n".join(["filename,is_anomalous,split", *rows]))
    with pytest.raises(DataError, match="it has no test, only train and val"):
        run(root, "data=csv", "data.file=badsplit.csv")
    samples = parse_labels(
        (run(root, "data=csv", "data.file=badsplit.csv", "split.mode=ratio") / "split.jsonl").read_text()
    )
    assert [len(of_split(samples, name)) for name in ("train", "val", "test")] == [14, 3, 3]


@pytest.mark.parametrize("folder", ["train", "validation"])
def test_folders_without_a_test_are_no_split(root: Path, folder: str) -> None:
    (root / "train").mkdir()
    (root / "images/good").rename(root / "train/good")
    copy(root, "images/crack/0.png", to=f"{folder}/good/new.png")
    with pytest.raises(DataError, match="it has no test, only train"):
        run(root, "data=mvtec")


def test_the_split_does_not_depend_on_the_number_of_workers(root: Path) -> None:
    first = (run(root, "runtime.num_workers=0") / "split.jsonl").read_bytes()
    (root.parent / "run").rename(root.parent / "first")
    assert (run(root, "runtime.num_workers=4") / "split.jsonl").read_bytes() == first


@pytest.mark.parametrize("path", sorted((config_dir() / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_preset_fits_its_layout_and_is_called_after_its_file(path: Path) -> None:
    root = [] if path.stem == "demo" else ["data.root=/data"]
    data = settings_of(f"data={path.stem}", *root).data
    assert type(data) in DATA_LAYOUTS
    assert data.name == path.stem
