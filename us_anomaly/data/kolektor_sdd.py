"""Layout *kolektor_sdd*: KolektorSDD as downloaded, `kos01/Part0.jpg` with `kos01/Part0_label.bmp`."""

from pathlib import Path

from us_anomaly.data.images import read_mask
from us_anomaly.data.listing import (
    contents,
    folders_of_pictures,
    look_through,
    refuse_outside,
    relative,
    some,
    without_suffix,
)
from us_anomaly.data.other_files import tell_left_out
from us_anomaly.data.sample import NORMAL_TYPE, Sample
from us_anomaly.data.table import ANOMALOUS_TYPE
from us_anomaly.errors import BadImageError, DataError

_LABEL = "_label"


def read_kolektor_sdd(root: Path, *, max_pixels: int, allow_outside_root: bool = False) -> list[Sample]:
    """Return all pictures, sorted by filename; those whose label picture marks anything are anomalous.

    Pictures have no group although each folder shows one part: the data set was made of 50 defective parts, so with
    groups every part would hold an anomalous picture and nothing would be left to train on. The pictures of a part
    show surfaces that do not overlap.

    Raises:
        DataError: There are no pictures, a label picture is missing or unreadable, or a path leaves `root`.
    """
    pairs: list[tuple[str, str]] = []
    unlabelled = []
    listings = {part: look_through(root / part, without_results=True) for part in folders_of_pictures(root)}
    tell_left_out(root, listings, root=root)
    for listing in listings.values():
        files = {without_suffix(path.relative_to(root)): path for path in listing.pictures}
        for key, path in files.items():
            filename = relative(root, path)
            if key.endswith(_LABEL):
                continue
            label = files.get(key + _LABEL)
            if label is None:
                unlabelled.append(filename)
            else:
                pairs.append((filename, relative(root, label)))
    if not pairs:
        raise DataError(
            f"data.root={root}: looked for kos01/Part0.jpg with kos01/Part0_label.bmp, but {contents(root)}"
        )
    if unlabelled:
        raise DataError(f"{len(unlabelled)} pictures in {root} have no <name>_label picture: {some(unlabelled)}")
    refuse_outside(root, [path for pair in pairs for path in pair], allow_outside_root=allow_outside_root)
    return sorted(_labelled(root, pairs, max_pixels), key=lambda sample: sample.filename)


def _labelled(root: Path, pairs: list[tuple[str, str]], max_pixels: int) -> list[Sample]:
    samples = []
    unreadable = []
    for filename, label in pairs:
        try:
            is_anomalous = bool(read_mask(root / label, max_pixels=max_pixels).any())
        except BadImageError as error:
            unreadable.append(str(error))
            continue
        samples.append(
            Sample(
                filename=filename,
                is_anomalous=is_anomalous,
                defect_type=ANOMALOUS_TYPE if is_anomalous else NORMAL_TYPE,
                mask_path=label if is_anomalous else None,
            )
        )
    if unreadable:
        raise DataError(
            f"{len(unreadable)} label pictures cannot be read, so their pictures have no label: {some(unreadable)}"
        )
    return samples
