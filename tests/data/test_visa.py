from pathlib import Path

import pytest

from us_anomaly.data.sample import Sample
from us_anomaly.data.visa import read_visa, visa_categories
from us_anomaly.errors import DataError

TABLE = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0000.JPG,
candle,test,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for category in ("candle", "pcb1"):
        for name in (
            "Images/Normal/0000.JPG",
            "Images/Normal/0001.JPG",
            "Images/Anomaly/000.JPG",
            "Masks/Anomaly/000.png",
        ):
            path = tmp_path / category / "Data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def write_table(root: Path, text: str) -> None:
    (root / "split_csv").mkdir(exist_ok=True)
    (root / "split_csv/1cls.csv").write_text(text)


def read(root: Path, category: str | None = "candle") -> list[Sample]:
    return read_visa(root, category=category, table="split_csv/1cls.csv")


def complaint(root: Path, text: str) -> str:
    write_table(root, text)
    with pytest.raises(DataError) as caught:
        read(root)
    return str(caught.value).replace(str(root), "ROOT")


def test_the_table_gives_the_split_of_one_category(root: Path) -> None:
    write_table(root, TABLE)
    assert read(root) == [
        Sample(
            filename="candle/Data/Images/Anomaly/000.JPG",
            is_anomalous=True,
            defect_type="anomaly",
            mask_path="candle/Data/Masks/Anomaly/000.png",
            split="test",
        ),
        Sample(filename="candle/Data/Images/Normal/0000.JPG", is_anomalous=False, split="train"),
        Sample(filename="candle/Data/Images/Normal/0001.JPG", is_anomalous=False, split="test"),
    ]


def test_without_the_table_pictures_have_no_split(root: Path) -> None:
    samples = read(root)
    assert {sample.split for sample in samples} == {None}
    assert [(sample.filename, sample.mask_path) for sample in samples if sample.is_anomalous] == [
        ("candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png")
    ]
    assert len(samples) == 3


def test_a_category_must_be_chosen_from_those_there_are(root: Path) -> None:
    assert visa_categories(root) == ["candle", "pcb1"]
    with pytest.raises(
        DataError, match=r"holds 2 categories: candle, pcb1\. Choose one, for example data\.category=candle"
    ):
        read(root, None)
    with pytest.raises(DataError, match=r"has no category 'candles', it has candle, pcb1; did you mean"):
        read(root, "candles")


def test_nothing_usable_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError) as caught:
        read(tmp_path, None)
    assert str(caught.value) == (
        f"data.root={tmp_path}: looked for <category>/Data/Images/Normal/, but found 1 folder: stuff"
    )


def test_wrong_rows_are_told_at_once_with_their_lines(root: Path) -> None:
    text = TABLE + (
        "candle,dev,normal,candle/Data/Images/Normal/0000.JPG,\n"
        "candle,test,odd,candle/Data/Images/Normal/0000.JPG,\n"
        "candle,test,normal,,\n"
        "candle,test,normal,candle/Data/Images/Normal/0000.JPG,\n"
        "candle,test,normal,candle/none.JPG,none.png\n"
        "pcb1,dev,odd,,\n"
    )
    assert complaint(root, text) == (
        "ROOT/split_csv/1cls.csv: 5 rows cannot be used:\n"
        "  line 6: split must be train or test, got 'dev'\n"
        "  line 7: label must be normal or anomaly, got 'odd'\n"
        "  line 8: image is empty\n"
        "  line 9: candle/Data/Images/Normal/0000.JPG is already in line 2\n"
        "  line 10: candle/none.JPG, none.png does not exist in ROOT"
    )


def test_a_table_without_the_category_or_without_its_columns_is_refused(root: Path) -> None:
    assert "no pictures of candle" in complaint(root, TABLE.replace("candle,", "other,"))
    assert "no column split" in complaint(root, TABLE.replace("split", "part"))


def test_paths_out_of_the_root_are_refused(root: Path) -> None:
    (root.parent / "secret.png").touch()
    text = TABLE + "candle,test,normal,../secret.png,\n"
    assert "../secret.png (is " in complaint(root, text)
