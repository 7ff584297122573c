import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from us_anomaly.data.sample import Sample
from us_anomaly.data.table import read_rows, read_table
from us_anomaly.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("images/a.png", "images/b.png", "images/c.png", "masks/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(root: Path, text: str, *, encoding: str = "utf-8") -> list[Sample]:
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return read_table(root, file="labels.csv")


def complaint(root: Path, text: str) -> str:
    with pytest.raises(DataError) as caught:
        read(root, text)
    return str(caught.value).replace(str(root), "ROOT")


MINIMAL = "filename,is_anomalous\nimages/b.png,1\nimages/a.png,0\n"
EXPECTED = [
    Sample(filename="images/a.png", is_anomalous=False),
    Sample(filename="images/b.png", is_anomalous=True, defect_type="anomaly"),
]


def test_the_two_required_columns_suffice(root: Path) -> None:
    assert read(root, MINIMAL) == EXPECTED


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiters_byte_order_marks_and_line_ends_make_no_difference(
    root: Path, delimiter: str, encoding: str, newline: str
) -> None:
    text = MINIMAL.replace(",", delimiter).replace("\n", newline)
    assert read(root, text, encoding=encoding) == EXPECTED


def test_all_columns_are_read_and_others_ignored(root: Path) -> None:
    text = (
        "Group; filename ;note;is_anomalous;mask_path;defect_type;split\n"
        "p1;images/b.png;x;TRUE;masks/b.png;crack;Validation\n"
        ";images/a.png;;false;;;train\n"
        "p2;images/c.png;;0;masks/b.png;good;test\n"
    )
    assert read(root, text) == [
        Sample(filename="images/a.png", is_anomalous=False, split="train"),
        Sample(
            filename="images/b.png",
            is_anomalous=True,
            defect_type="crack",
            mask_path="masks/b.png",
            split="val",
            group="p1",
        ),
        Sample(filename="images/c.png", is_anomalous=False, mask_path="masks/b.png", split="test", group="p2"),
    ]


@pytest.mark.parametrize(
    ("cell", "label"), [("0", False), ("1", True), ("true", True), ("False", False), (" 1 ", True)]
)
def test_labels_are_0_1_true_or_false(root: Path, cell: str, *, label: bool) -> None:
    assert read(root, f"filename,is_anomalous\nimages/a.png,{cell}\n")[0].is_anomalous is label


def test_paths_are_relative_to_the_table_or_to_the_root(root: Path) -> None:
    (root / "tables").mkdir()
    (root / "tables/d.png").touch()
    (root / "tables/labels.csv").write_text("filename,is_anomalous,mask_path\nd.png,1,masks/b.png\nimages/a.png,0,\n")
    samples = read_table(root, file="tables/labels.csv")
    assert [(sample.filename, sample.mask_path) for sample in samples] == [
        ("images/a.png", None),
        ("tables/d.png", "masks/b.png"),
    ]


def test_a_table_elsewhere_may_list_pictures_of_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = tmp_path_factory.mktemp("tables") / "labels.csv"
    table.write_text(MINIMAL)
    assert read_table(root, file=str(table)) == EXPECTED


def test_equivalent_spellings_of_a_path_are_one_picture(root: Path) -> None:
    text = f"filename,is_anomalous\n./images/../images/a.png,0\n{root}/images/b.png,1\n"
    assert [sample.filename for sample in read(root, text)] == ["images/a.png", "images/b.png"]


def test_a_relative_root_gives_the_same_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "labels.csv").write_text(f"filename,is_anomalous\nimages/a.png,0\n{root}/images/b.png,1\n")
    monkeypatch.chdir(root)
    assert read_table(Path(), file="labels.csv") == EXPECTED
    assert read_table(Path(), file=str(root / "labels.csv")) == EXPECTED


def test_quoted_cells_may_hold_delimiters_and_line_breaks_and_lines_are_still_counted(root: Path) -> None:
    (root / "images/x, y.png").touch()
    text = 'filename,is_anomalous,note\n"images/x, y.png",0,"two\nlines"\nimages/none.png,0,\n'
    assert complaint(root, text) == (
        "ROOT/labels.csv: 1 row cannot be used: line 4: images/none.png does not exist in ROOT"
    )
    assert read(root, text.replace("images/none.png,0,\n", ""))[0].filename == "images/x, y.png"


def test_empty_lines_and_surplus_empty_cells_are_skipped(root: Path) -> None:
    assert read(root, "filename,is_anomalous,,\n\nimages/b.png,1,,,,\n,,\nimages/a.png,0\n\n") == EXPECTED


def test_a_picture_listed_twice_names_both_lines(root: Path) -> None:
    text = MINIMAL + "./images/b.png,0\n"
    assert complaint(root, text) == ("ROOT/labels.csv: 1 row cannot be used: line 4: images/b.png is already in line 2")


def test_all_missing_files_are_told_at_once_with_the_places_looked_in(root: Path) -> None:
    (root / "tables").mkdir()
    (root / "tables/labels.csv").write_text(
        "filename,is_anomalous,mask_path\nx.png,0,\nimages/a.png,1,y.png\nz.png,1,\n"
    )
    with pytest.raises(DataError) as caught:
        read_table(root, file="tables/labels.csv")
    places = f"{root}/tables nor in {root}"
    assert str(caught.value) == (
        f"{root}/tables/labels.csv: 3 rows cannot be used:\n"
        f"  line 2: x.png exists neither in {places}\n"
        f"  line 3: y.png exists neither in {places}\n"
        f"  line 4: z.png exists neither in {places}"
    )


def test_wrong_cells_are_quoted_with_their_line(root: Path) -> None:
    text = (
        "filename,is_anomalous,split,defect_type\n"
        "images/a.png,maybe,train,\n"
        "images/b.png,1,dev,crack\n"
        ",0,,\n"
        "images/c.png,0,,crack\n"
        "images/a.png,1,,good\n"
    )
    assert complaint(root, text) == (
        "ROOT/labels.csv: 5 rows cannot be used:\n"
        "  line 2: is_anomalous must be 0 (good) or 1 (anomalous), got 'maybe'\n"
        "  line 3: split must be train, val or test, got 'dev'\n"
        "  line 4: filename is empty\n"
        "  line 5: is_anomalous=0 contradicts defect_type=crack\n"
        "  line 6: is_anomalous=1 contradicts defect_type=good"
    )


def test_labels_of_another_kind_are_told_in_one_line_with_what_is_right(root: Path) -> None:
    rows = "".join(f"images/{name}.png,{label}\n" for name in "abc" for label in ("OK", "NOK", "nok"))
    assert complaint(root, "filename,is_anomalous\n" + rows) == (
        "ROOT/labels.csv: 9 rows cannot be used: lines 2, 3, 4, 5, 6 and 4 more: "
        "is_anomalous must be 0 (good) or 1 (anomalous), got 'OK', 'NOK', 'nok'"
    )


def test_rows_with_the_same_fault_are_told_together_and_a_row_with_two_faults_counts_once(root: Path) -> None:
    text = "filename,is_anomalous,split\nimages/a.png,yes,dev\nimages/b.png,no,\n,0,\n,1,training\n"
    assert complaint(root, text) == (
        "ROOT/labels.csv: 4 rows cannot be used:\n"
        "  lines 2, 3: is_anomalous must be 0 (good) or 1 (anomalous), got 'yes', 'no'\n"
        "  lines 2, 5: split must be train, val or test, got 'dev', 'training'\n"
        "  lines 4, 5: filename is empty"
    )


def test_paths_with_backslashes_are_read_where_only_those_with_slashes_exist(root: Path) -> None:
    text = "filename,is_anomalous,mask_path\nimages\\b.png,1,masks\\b.png\n"
    (sample,) = read(root, text)
    assert (sample.filename, sample.mask_path) == ("images/b.png", "masks/b.png")
    assert "line 3: images/b.png is already in line 2" in complaint(root, f"{text}images/b.png,1,\n")
    assert r"images\none.png does not exist in ROOT" in complaint(root, "filename,is_anomalous\nimages\\none.png,0\n")
    with pytest.raises(DataError, match=r"outside data\.root"):
        read(root / "images", "filename,is_anomalous\n..\\masks\\b.png,0\n")


@pytest.mark.skipif(os.name == "nt", reason="a backslash cannot be in a file name there")
def test_a_file_whose_name_holds_a_backslash_is_taken_first(root: Path) -> None:
    (root / "images\\b.png").touch()
    assert read(root, "filename,is_anomalous\nimages\\b.png,0\n")[0].filename == "images\\b.png"


def test_only_twenty_faults_are_told(root: Path) -> None:
    text = "filename,is_anomalous\n" + "".join(f"none{number}.png,0\n" for number in range(25))
    lines = complaint(root, text).splitlines()
    assert len(lines) == 22
    assert lines[0] == "ROOT/labels.csv: 25 rows cannot be used:"
    assert lines[-1] == "  and 5 more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "ROOT/labels.csv is empty; its first line must name the columns filename, is_anomalous"),
        ("\n\n", "ROOT/labels.csv, line 1: no column filename and no column is_anomalous; "
                 "the first line must name the columns, it holds: "),
        ("images/a.png,0\n", "ROOT/labels.csv, line 1: no column filename and no column is_anomalous; "
                             "the first line must name the columns, it holds: images/a.png, 0"),
        ("filename,label\n", "ROOT/labels.csv, line 1: no column is_anomalous; "
                             "the first line must name the columns, it holds: filename, label"),
        ("filename,is_anomalous,filename\n", "ROOT/labels.csv, line 1: the column filename appears twice"),
        ("filename,is_anomalous\n", "ROOT/labels.csv has a header and no rows"),
        ("filename,is_anomalous\nimages/a.png,0,more\n", "ROOT/labels.csv, line 2: 3 cells under 2 column names"),
        ('filename,is_anomalous\n"images/a.png,0\n', "ROOT/labels.csv, line 2: not a table (unexpected end of data)"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_pictures_says_why(root: Path, text: str, expected: str) -> None:
    assert complaint(root, text) == expected


def test_another_encoding_is_refused_with_its_line(root: Path) -> None:
    (root / "labels.csv").write_bytes(MINIMAL.encode() + "images/ä.png,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels\.csv, line 4: not UTF-8; save the table as CSV in UTF-8"):
        read_table(root, file="labels.csv")


def test_an_unreadable_table_says_why(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "labels.csv").write_text(MINIMAL)

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_text", broken)
    with pytest.raises(DataError, match=r"labels\.csv cannot be read: Input/output error"):
        read_table(root, file="labels.csv")


def test_a_missing_table_says_what_lies_there(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_table(root, file="labels.csv")
    assert str(caught.value) == (
        f"{root}/labels.csv does not exist; in its folder, found 2 folders: images, masks. Name it with data.file="
    )


@pytest.mark.parametrize("column", ["filename", "mask_path"])
def test_paths_out_of_the_root_are_refused_unless_allowed(root: Path, column: str) -> None:
    inside = root / "images"
    cells = {"filename": "a.png", "is_anomalous": "1", "mask_path": "b.png"} | {column: "../masks/b.png"}
    (inside / "labels.csv").write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n")
    with pytest.raises(DataError) as caught:
        read_table(inside, file="labels.csv")
    outside = root / "masks/b.png"
    assert str(caught.value).startswith(f"{outside} (is {outside}) outside data.root={inside}")
    sample = read_table(inside, file="labels.csv", allow_outside_root=True)[0]
    assert getattr(sample, column) == str(outside)


def test_absolute_paths_and_links_out_of_the_root_are_refused(root: Path) -> None:
    (root / "images/link.png").symlink_to("/etc/passwd")
    for path in ("/etc/passwd", "images/link.png"):
        assert "outside data.root=ROOT" in complaint(root, f"filename,is_anomalous\n{path},0\n")


@pytest.mark.parametrize("path", ["a\0b.png", "x" * 5000, "images/" + "y/" * 3000 + "z.png"])
def test_names_that_no_file_system_takes_do_not_exist(root: Path, path: str) -> None:
    assert "does not exist in ROOT" in complaint(root, f"filename,is_anomalous\n{path},0\n")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(
    st.lists(st.fixed_dictionaries({"filename": CELLS, "is_anomalous": CELLS, "note": CELLS}), max_size=6),
    st.sampled_from([",", ";", "\t"]),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_as_a_csv_writer_wrote_them(tmp_path: Path, rows: list[dict[str, str]], delimiter: str) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["filename", "is_anomalous", "note"], delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    rows = [{key: value.replace("\r", "") for key, value in row.items()} for row in rows]
    writer.writerows(rows)
    table = tmp_path / "t.csv"
    table.write_bytes(buffer.getvalue().encode())
    expected = [{key: value.strip() for key, value in row.items()} for row in rows]
    assert [row.cells for row in read_rows(table, required=("filename", "is_anomalous"))] == [
        row for row in expected if any(row.values())
    ]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
        st.text(max_size=120).map(lambda text: MINIMAL.encode() + text.encode("utf-8", "replace")),
    )
)
@example(b"filename,is_anomalous\n" + b"a" * 200_000 + b",0\n")
@example(b"\xef\xbb\xbf")
@example(b"filename,is_anomalous\n=cmd|' /C calc'!A0,0\n")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_samples_of_files_that_exist_or_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).touch()
    (tmp_path / "labels.csv").write_bytes(content)
    try:
        samples = read_table(tmp_path, file="labels.csv")
    except DataError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017
    else:
        assert all((tmp_path / sample.filename).exists() for sample in samples)
