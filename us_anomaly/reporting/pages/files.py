"""Names in the report folder, and links from its pages to other files of the run directory."""

import hashlib
from pathlib import Path, PurePosixPath
from urllib.parse import quote

DRAWING_VERSION = 1
"""Raised when pictures are drawn differently, so that old ones are not taken for new."""

OF_NO_PAGE = ("comparison", "run_collection", "panel", "summary", "trackers")
"""Modules beside the pages, by what their names begin with, from which no page takes anything."""


class ReportFiles:
    """Name the files of one report; nothing is created by asking for a name."""

    def __init__(self, root: Path) -> None:
        """Describe the report in the folder `root` of a run directory."""
        self.root = root

    @property
    def index(self) -> Path:
        """The page to open; written last, it vouches for the rest."""
        return self.root / "index.html"

    @property
    def vouched_for(self) -> list[Path]:
        """Pages, data, style, scripts and pictures that are there."""
        folders = (self.root, self.assets, self.data, self.pictures, self.values)
        files = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file())
        return sorted(path for path in files if path != self.index)

    @property
    def assets(self) -> Path:
        """Style and scripts."""
        return self.root / "assets"

    @property
    def data(self) -> Path:
        """Lists of images and predictions, as scripts that hand them over: a page from disk may load nothing else."""
        return self.root / "data"

    @property
    def pictures(self) -> Path:
        """Small copies of images, masks and heatmaps, by key."""
        return self.root / "pictures"

    @property
    def values(self) -> Path:
        """Scores per pixel for the read-out of the large view, by key."""
        return self.root / "values"


def picture_key(name: str, path: Path) -> str:
    """Return the name of what is drawn of a file, or of a folder of masks: it changes with name, size and time of change.

    So pictures are drawn once, and no character of a file name ever reaches a name in the report.
    """
    text = f"{DRAWING_VERSION}\0{name}\0{_state(path)}"
    if path.is_dir():
        text += "".join(f"\0{file.name}\0{_state(file)}" for file in sorted(path.iterdir()))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}\0{status.st_mtime_ns}"


def link(relative: str) -> str:
    """Return a relative path with forward slashes as a link: `#`, `?`, `%`, quotes and spaces are only characters of a name."""
    return quote(relative.encode("utf-8", "surrogateescape"), safe="/")


def link_into_run_dir(path: str | None) -> str | None:
    """Return the link from a page to a file of the run directory, or None where the path leaves it."""
    if path is None:
        return None
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        return None
    return "../" + link(str(pure))


def link_into_data_root(filename: str, root: Path) -> str | None:
    """Return the link to an original image, or None where it lies outside the data root or there is no such file."""
    path = root / filename
    try:
        inside = path.resolve(strict=True).is_relative_to(root.resolve())
    except OSError:
        return None
    return path.absolute().as_uri() if inside else None


def pages_hash() -> str:
    """Return a hash of everything that shapes a report besides the results: another one makes old reports stale."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".svg")):
        if path.parent == package and path.stem.startswith(OF_NO_PAGE):
            continue
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
