"""Images that lie in two splits at once, found by the content of their files."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from us_anomaly.data.sample import Sample


def duplicates_across_splits(samples: Iterable[Sample], *, data_root: Path) -> list[list[Sample]]:
    """Return groups of samples of several splits whose files are equal byte for byte.

    Only files of equal size are read. Files that are gone are passed over: the evaluation does not need them.
    """
    by_size: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        path = data_root / sample.filename
        if path.is_file():
            by_size[path.stat().st_size].append(sample)
    groups = []
    for candidates in by_size.values():
        if _num_splits(candidates) > 1:
            by_content: dict[str, list[Sample]] = defaultdict(list)
            for sample in candidates:
                with (data_root / sample.filename).open("rb") as file:
                    by_content[hashlib.file_digest(file, "sha256").hexdigest()].append(sample)
            groups += [group for group in by_content.values() if _num_splits(group) > 1]
    return groups


def _num_splits(samples: Iterable[Sample]) -> int:
    return len({sample.split for sample in samples})
