"""Which mask belongs to which picture, by its name."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from us_anomaly.data.listing import list_images, relative, some, without_suffix
from us_anomaly.data.other_files import say_once
from us_anomaly.errors import DataError

log = logging.getLogger(__name__)


class MaskIndex:
    """The masks below one folder, by where they lie and what they are called."""

    def __init__(self, root: Path, folder: Path) -> None:
        """List the masks in `folder`, which may be missing; masks are named relative to `root`."""
        self._root = root
        self._folder = folder
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._owners: dict[str, list[str]] = defaultdict(list)
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

    def find(self, picture: Path, *, below: Path) -> str | None:
        """Return the mask of a picture; with `<path>` for its path in the folder `below`, without the suffix.

        It is `<path>_mask.*`, `<path>.*` or the folder `<path>/`; of several, the one with the picture's suffix. Two pictures
        may have one mask, as two files of one shot do.

        Raises:
            DataError: Several masks could be meant.
        """
        key = without_suffix(picture.relative_to(below))
        for candidate in (f"{key}_mask", key):
            if masks := self._by_key.get(candidate):
                mask = self._chosen(masks, picture)
                self._owners[mask].append(relative(self._root, picture))
                return mask
        return None

    def _chosen(self, masks: list[str], picture: Path) -> str:
        """Return the only one of `masks`, or the only one with the suffix of a picture."""
        if len(masks) == 1:
            return masks[0]
        suffixes = {mask: PurePosixPath(mask).suffix for mask in masks}
        alike = [mask for mask in masks if suffixes[mask] == picture.suffix] or [
            mask for mask in masks if suffixes[mask].lower() == picture.suffix.lower()
        ]
        if len(alike) != 1:
            raise DataError(
                f"the masks {some(masks)} have the name of the picture {relative(self._root, picture)}: leave one of them in "
                f"{self._folder}"
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
        self._owners[masks[0]] += claimants
        return masks[0]

    def _is_used(self, mask: str) -> bool:
        return mask in self._owners or PurePosixPath(mask).parent.as_posix() in self._owners

    def warn(self) -> None:
        """Warn about masks that several pictures have, and when masks were found and none of them belongs to a picture."""
        shared = [f"{mask} ({' and '.join(owners)})" for mask, owners in self._owners.items() if len(owners) > 1]
        if shared:
            say_once(
                logging.WARNING,
                f"{len(shared)} masks have the names of several pictures, which all get them: {some(sorted(shared), limit=3)}. "
                "Where the pictures show different things, rename them and give each a mask of its own",
                root=self._root,
            )
        if self._count and not self._owners:
            log.warning(
                "none of the %d masks in %s has the name of a picture: they are not used",
                self._count,
                self._folder,
            )
