"""Which mask belongs to which picture, by its name."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from us_anomaly.data.listing import list_images, relative, some, without_suffix
from us_anomaly.errors import DataError

log = logging.getLogger(__name__)


class MaskIndex:
    """The masks below one folder, by where they lie and what they are called."""

    def __init__(self, root: Path, folder: Path) -> None:
        """List the masks in `folder`, which may be missing; masks are named relative to `root`."""
        self._folder = folder
        self._by_key: dict[str, str] = {}
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._used: set[str] = set()
        masks = list_images(folder)
        for mask in masks:
            place = mask.relative_to(folder)
            key = without_suffix(place)
            name = relative(root, mask)
            self._by_key.setdefault(key, name)
            self._by_stem[place.stem].append(name)
        for picture_folder in {mask.parent for mask in masks}:  # one folder of masks per picture, as MVTec LOCO has
            key = picture_folder.relative_to(folder).as_posix()
            self._by_key.setdefault(key, relative(root, picture_folder))
        self._count = len(masks)

    def find(self, key: str) -> str | None:
        """Return the mask of the picture `key`, its path below the images without its suffix.

        It is `<key>_mask.*`, `<key>.*` or the folder `<key>/`.
        """
        for candidate in (f"{key}_mask", key):
            if mask := self._by_key.get(candidate):
                self._used.add(mask)
                return mask
        return None

    def find_by_stem(self, stem: str, owners: Iterable[str]) -> str | None:
        """Return the only mask called `stem` (or `<stem>_mask`) wherever it lies; None if all such were found by their path.

        Args:
            stem: Name of the picture without its suffix.
            owners: All pictures of that name that could claim the mask.

        Raises:
            DataError: Several masks or several pictures have the name.
        """
        masks = self._by_stem.get(f"{stem}_mask", []) + self._by_stem.get(stem, [])
        if all(self._is_used(mask) for mask in masks):
            return None
        claimants = sorted(owners)
        if len(masks) > 1 or len(claimants) > 1:
            raise DataError(
                f"masks are matched by name, but the masks {some(masks)} and the pictures {some(claimants)} "
                f"share the name {stem!r}: put masks at the same relative path as their pictures, "
                f"as in {self._folder}/<defect>/{stem}.png"
            )
        self._used.add(masks[0])
        return masks[0]

    def _is_used(self, mask: str) -> bool:
        return mask in self._used or PurePosixPath(mask).parent.as_posix() in self._used

    def warn_about_unused(self) -> None:
        """Warn when masks were found and none of them belongs to a picture."""
        if self._count and not self._used:
            log.warning(
                "none of the %d masks in %s has the name of a picture: they are not used",
                self._count,
                self._folder,
            )
