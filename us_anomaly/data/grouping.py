"""Which pictures show the same physical part, read from the names of their files."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError


def grouped(samples: Sequence[Sample], *, pattern: str) -> list[Sample]:
    """Return samples with their groups; a group that the data set itself gives stays.

    Args:
        samples: As the adapter of the layout gives them.
        pattern: Regular expression that is searched in the name of each file, without its folders. What its first pair of
            brackets holds, or all that it matches, names the part. Where it matches nothing, a picture is a part of its own.

    Raises:
        DataError: It matches no name at all.
    """
    found = [_part(sample, pattern) for sample in samples]
    if samples and not any(found):
        raise DataError(
            f"`data.group_pattern`={pattern!r} matches no file name, for example not {PurePosixPath(samples[0].filename).name}: "
            "write a regular expression for the part, such as '^part[0-9]+'"
        )
    return [
        dataclasses.replace(sample, group=part) if sample.group is None and part else sample
        for sample, part in zip(samples, found, strict=True)
    ]


def _part(sample: Sample, pattern: str) -> str | None:
    match = re.search(pattern, PurePosixPath(sample.filename).name)
    if match is None:
        return None
    part: str | None = match.group(1 if match.re.groups else 0)
    return part
