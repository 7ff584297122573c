"""Finding picture files in folders: always in the same order, never out of the data set, never in circles."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from us_anomaly.data.images import IMAGE_SUFFIXES
from us_anomaly.data.sample import NORMAL_TYPE
from us_anomaly.errors import DataError
from us_anomaly.run_dir import RunDir

MAX_NAMED = 20
_NO_PICTURES = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".md", ".rst", ".html", ".htm", ".log", ".ini", ".cfg",
    ".toml", ".db", ".py", ".ipynb", ".sh", ".xls", ".xlsx", ".ods", ".doc", ".docx", ".pt", ".pth", ".safetensors",
)  # fmt: skip
"""Endings, in lower case, of files that nobody takes for pictures."""
_NO_PICTURES_BY_NAME = ("readme", "license", "licence")


@dataclass(slots=True)
class Listing:
    """What there is below a folder."""

    pictures: list[Path] = field(default_factory=list)
    """Files whose names look like pictures."""
    others: list[Path] = field(default_factory=list)
    """Other files that somebody may take for pictures: of other formats, or without a suffix."""
    results: list[Path] = field(default_factory=list)
    """Folders of results that were left out."""

    def extend(self, other: "Listing") -> None:
        """Take over what another listing holds."""
        self.pictures += other.pictures
        self.others += other.others
        self.results += other.results

    def in_order(self) -> "Listing":
        """Return it with each path once, sorted by paths with forward slashes."""
        return Listing(*(sorted(set(paths), key=Path.as_posix) for paths in (self.pictures, self.others, self.results)))


def list_images(folder: Path) -> list[Path]:
    """Return all pictures below `folder`, sorted by their path with forward slashes; as `look_through`."""
    return look_through(folder).pictures


def look_through(folder: Path, *, without_results: bool = False) -> Listing:
    """Return what there is below `folder`, sorted by paths with forward slashes.

    Links to folders are followed, but every folder on the disk is visited once, so that circles end. Real
    folders come before links to them. Names that begin with a dot and `__MACOSX` are left out. A missing
    folder holds no pictures.

    Args:
        folder: Where to look.
        without_results: Leave out folders below it in which `holds_results` finds the results of commands.
    """
    found = Listing()
    visited: set[str] = set()
    links = [folder]
    while links:
        linked = [link for link in links if os.path.realpath(link) not in visited]
        links = []
        for start in sorted(linked):
            _walk(start, visited, found, links, without_results=without_results)
    return found.in_order()


def subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in `folder`, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in _entries(folder) if is_visible(entry.name) and _is_folder(entry))


def folders_of_pictures(folder: Path, *, kept: str = "") -> list[str]:
    """Return the names of the folders in `folder`, sorted, without those that hold results, but for the one called `kept`."""
    return [name for name in subfolders(folder) if name == kept or not holds_results(folder / name)]


def is_visible(name: str) -> bool:
    """Return whether a file or folder of this name counts; what operating systems leave behind does not."""
    return not name.startswith(".") and name != "__MACOSX"


def exists(path: Path) -> bool:
    """Return whether there is something of this name, also for names that no file system takes."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_image(path: Path) -> bool:
    """Return whether the name looks like a picture's."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def may_be_picture(path: Path) -> bool:
    """Return whether somebody may take a file for a picture although its name does not look like one that is read."""
    is_plain = path.suffix.lower() in _NO_PICTURES or path.name.lower() in _NO_PICTURES_BY_NAME
    return not is_plain and is_visible(path.name) and os.path.isfile(path)  # noqa: PTH113 (which never raises)


def holds_results(folder: Path) -> bool:
    """Return whether commands write into `folder`: a run directory, or one of its folders of results."""
    folder = Path(os.path.realpath(folder))
    above = RunDir(folder.parent)
    if RunDir(folder).is_certain:
        return True
    return folder in (*above.result_folders, above.report, above.inputs) and above.is_certain


def refuse_outside(root: Path, paths: Iterable[str], *, allow_outside_root: bool) -> None:
    """Refuse paths relative to `root` that leave it, by `..`, by being absolute, or through a link.

    Raises:
        DataError: Some leave it; the first 20 are named.
    """
    if allow_outside_root:
        return
    inside = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 (with its closing slash)
    real_folders: dict[str, str] = {}
    outside = []
    for path in paths:
        real = _real(str(root / path), real_folders)
        masks = list_images(root / path) if os.path.isdir(real) else []  # noqa: PTH112 (a folder of masks)
        leaving = [
            one for one in (real, *(_real(str(mask), real_folders) for mask in masks)) if not one.startswith(inside)
        ]
        outside += [f"{path} (is {leaving[0]})"] if leaving else []
    if outside:
        raise DataError(
            f"{some(outside)} outside data.root={root}: copy what is meant into it, "
            "or allow it with data.allow_outside_root=true"
        )


def without_suffix(path: Path) -> str:
    """Return a path with forward slashes and without the suffix of its name; any name will do, unlike for `with_suffix`."""
    return path.as_posix().removesuffix(path.suffix)


def relative(root: Path, path: Path) -> str:
    """Return `path` relative to `root` with forward slashes, or as it is where it lies elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def refuse_hidden_defect(folder: Path, kinds: Iterable[str], normal: str) -> None:
    """Refuse a folder of defects called `good` where good pictures are called something else.

    Raises:
        DataError: There is such a folder.
    """
    if normal != NORMAL_TYPE and NORMAL_TYPE in kinds:
        raise DataError(
            f"{folder} holds {NORMAL_TYPE}/ besides data.normal={normal}: it cannot be the name of a defect"
        )


def some(names: list[str], *, limit: int = MAX_NAMED) -> str:
    """Return the first names in a row, with the count of the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def contents(folder: Path) -> str:
    """Say in words what a folder holds, for error messages."""
    if not exists(folder):
        return "it does not exist"
    if not folder.is_dir():
        return "it is a file, not a folder"
    files = [Path(entry) for entry in _entries(folder) if is_visible(entry.name) and not _is_folder(entry)]
    others = sorted(file.name for file in files if not is_image(file))
    num_pictures = len(files) - len(others)
    names = subfolders(folder)
    parts = []
    if names:
        parts.append(f"{_counted(len(names), 'folder')}: {some(names)}")
    if num_pictures:
        parts.append(_counted(num_pictures, "picture"))
    if others:
        parts.append(f"{_counted(len(others), 'other file')}: {some(others)}")
    return "found " + "; ".join(parts) if parts else "it is empty"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _real(path: str, real_folders: dict[str, str]) -> str:
    """Return `os.path.realpath(path)`, asking the disk once per folder; `real_folders` remembers."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    if folder not in real_folders:
        real_folders[folder] = os.path.realpath(folder)
    real = os.path.join(real_folders[folder], name)  # noqa: PTH118
    return os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114


def _walk(folder: Path, visited: set[str], found: Listing, links: list[Path], *, without_results: bool) -> None:
    """Collect what is below `folder` without following links to folders, which are collected in `links`."""
    pending = [folder]
    while pending:
        current = pending.pop()
        real = os.path.realpath(current)
        if real in visited or not current.is_dir():
            continue
        visited.add(real)
        for entry in _entries(current):
            path = current / entry.name
            if not is_visible(entry.name):
                continue
            if not _is_folder(entry):
                if is_image(path):
                    found.pictures.append(path)
                elif may_be_picture(path):
                    found.others.append(path)
            elif without_results and holds_results(path):
                found.results.append(path)
            elif entry.is_symlink():
                links.append(path)
            else:
                pending.append(path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False
