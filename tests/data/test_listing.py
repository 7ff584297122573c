import os
from pathlib import Path

import pytest

from us_anomaly.data.listing import contents, list_images, refuse_outside, some, subfolders, without_suffix
from us_anomaly.errors import DataError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


def test_pictures_of_all_suffixes_are_found_at_any_depth_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpeg", "a.JPG", "c/d/e/f.tiff", "x.webp", "y.tif", "z.bmp"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.JPG", "b/1.jpeg", "b/2.PNG", "c/d/e/f.tiff", "x.webp", "y.tif", "z.bmp"]


def test_what_is_no_picture_or_hidden_is_left_out(tmp_path: Path) -> None:
    for name in ("a.txt", ".b.png", "._c.png", ".cache/d.png", "__MACOSX/e.png", "f.png.part", "png", "Thumbs.db"):
        touch(tmp_path / name)
    assert names(tmp_path) == []
    assert subfolders(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.png", "a/b"),
        ("a.d/b.c.PNG", "a.d/b.c"),
        ("a/..png", "a/."),
        ("...png", ".."),
        ("a/.png", "a/.png"),
        ("a.png/b", "a.png/b"),
        ("a..png", "a."),
    ],
)
def test_any_name_loses_its_last_suffix_and_nothing_else(path: str, expected: str) -> None:
    assert without_suffix(Path(path)) == expected


def test_a_missing_folder_holds_nothing(tmp_path: Path) -> None:
    assert list_images(tmp_path / "none") == []
    assert subfolders(tmp_path / "none") == []


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/1.png", "a/2.png", "c.png"):
        touch(tmp_path / name)
    expected = names(tmp_path)
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self._entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert names(tmp_path) == expected == ["a/2.png", "b/1.png", "c.png"]


def test_circles_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path / "a/1.png")
    touch(tmp_path / "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert names(tmp_path) == ["a/1.png", "b/2.png"]


def test_a_thicket_of_links_is_walked_once_per_folder(tmp_path: Path) -> None:
    for number in range(12):
        touch(tmp_path / f"{number:02d}/picture.png")
    for number in range(12):
        for other in range(12):
            (tmp_path / f"{number:02d}/to{other}").symlink_to(tmp_path / f"{other:02d}")
    assert len(names(tmp_path)) == 12


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "real/1.png")
    touch(tmp_path / "set/2.png")
    (tmp_path / "set/more").symlink_to(tmp_path / "real")
    (tmp_path / "set/3.png").symlink_to(tmp_path / "real/1.png")
    assert names(tmp_path / "set") == ["2.png", "3.png", "more/1.png"]
    assert subfolders(tmp_path / "set") == ["more"]


def test_a_folder_that_looks_like_a_picture_is_walked(tmp_path: Path) -> None:
    touch(tmp_path / "a.png/b.png")
    assert names(tmp_path) == ["a.png/b.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=f"the folder {tmp_path} cannot be listed: Permission denied"):
        list_images(tmp_path)


@pytest.mark.parametrize("path", ["../secret.png", "in/../../secret.png", "link.png", "folder/secret.png"])
def test_paths_that_leave_the_root_are_refused_with_where_they_lead(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    touch(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    with pytest.raises(DataError) as caught:
        refuse_outside(root, ["in/a.png", path], allow_outside_root=False)
    assert str(caught.value) == (
        f"{path} (is {tmp_path / 'secret.png'}) outside data.root={root}: copy what is meant into it, "
        "or allow it with data.allow_outside_root=true"
    )
    refuse_outside(root, [path], allow_outside_root=True)


def test_a_folder_of_masks_is_refused_for_one_mask_that_leaves_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "secret.png")
    touch(tmp_path / "root/masks/0.png")
    refuse_outside(tmp_path / "root", ["masks"], allow_outside_root=False)
    (tmp_path / "root/masks/1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"masks \(is .*secret\.png\) outside data\.root"):
        refuse_outside(tmp_path / "root", ["masks"], allow_outside_root=False)


def test_absolute_paths_outside_are_refused_and_inside_accepted(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    refuse_outside(tmp_path / "root", [str(tmp_path / "root/a.png")], allow_outside_root=False)
    with pytest.raises(DataError, match=r"outside data.root"):
        refuse_outside(tmp_path / "root", ["/etc/passwd"], allow_outside_root=False)


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match=r"outside data.root"):
        refuse_outside(tmp_path / "root", ["../rooted/a.png"], allow_outside_root=False)


def test_links_within_the_root_and_a_linked_root_are_accepted(tmp_path: Path) -> None:
    touch(tmp_path / "root/real/a.png")
    (tmp_path / "root/link").symlink_to(tmp_path / "root/real")
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    refuse_outside(tmp_path / "root", ["link/a.png", "real/a.png"], allow_outside_root=False)
    refuse_outside(tmp_path / "alias", ["link/a.png", "real/a.png"], allow_outside_root=False)


def test_contents_are_told_in_words(tmp_path: Path) -> None:
    assert contents(tmp_path / "none") == "it does not exist"
    assert contents(tmp_path / ("x" * 5000)) == "it does not exist"
    assert contents(tmp_path) == "it is empty"
    touch(tmp_path / "b/x.png")
    assert contents(tmp_path) == "found 1 folder: b"
    touch(tmp_path / "a/x.png")
    touch(tmp_path / "1.png")
    touch(tmp_path / "2.png")
    touch(tmp_path / "notes.txt")
    assert contents(tmp_path) == "found 2 folders: a, b; 2 pictures; 1 other file: notes.txt"
    assert contents(tmp_path / "notes.txt") == "it is a file, not a folder"


def test_long_lists_are_cut_with_their_count() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some([str(number) for number in range(23)]).endswith("18, 19 and 3 more")
