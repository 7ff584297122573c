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
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._owners: dict[str, str] = {}
        masks = list_images(folder)
        for mask in masks:
            place = mask.relative_to(folder)
            key = without_suffix(place)
            name = relative(root, mask)
            self._by_key[key].append(name)
            self._by_stem[place.stem].append(name)
        for picture_folder in {mask.parent for mask in masks}:  # one folder of masks per picture, as MVTec LOCO has
            key = picture_folder.relative_to(folder).as_posix()
            if key not in self._by_key:
                self._by_key[key].append(relative(root, picture_folder))
        self._count = len(masks)

    def find(self, picture: Path) -> str | None:
        """Return the mask of a picture, given by its path below the images.

        It is `<path>_mask.*`, `<path>.*` or the folder `<path>/`, each without the picture's suffix; of several, the one
        with that suffix.

        Raises:
            DataError: Several masks could be meant, or the mask is that of another picture.
        """
        key = without_suffix(picture)
        for candidate in (f"{key}_mask", key):
            if masks := self._by_key.get(candidate):
                return self._claimed(masks, picture)
        return None

    def _claimed(self, masks: list[str], picture: Path) -> str:
        """Return the one of `masks` that belongs to a picture, which no other picture may then have."""
        alike = [mask for mask in masks if PurePosixPath(mask).suffix == picture.suffix] if len(masks) > 1 else masks
        if len(alike) != 1:
            raise DataError(
                f"the masks {some(masks)} have the name of the picture {picture.as_posix()}: leave one of them in {self._folder}"
            )
        owner = self._owners.setdefault(alike[0], picture.as_posix())
        if owner != picture.as_posix():
            raise DataError(
                f"the mask {alike[0]} has the name of two pictures, {owner} and {picture.as_posix()}: rename one of them, "
                "and its mask"
            )
        return alike[0]

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
        self._owners[masks[0]] = claimants[0]
        return masks[0]

    def _is_used(self, mask: str) -> bool:
        return mask in self._owners or PurePosixPath(mask).parent.as_posix() in self._owners

    def warn_about_unused(self) -> None:
        """Warn when masks were found and none of them belongs to a picture."""
        if self._count and not self._owners:
            log.warning(
                "none of the %d masks in %s has the name of a picture: they are not used",
                self._count,
                self._folder,
            )
