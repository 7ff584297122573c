"""One picture of a data set and what is known about it: the currency between adapters, splits and commands."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from us_anomaly.errors import ArtifactError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
NORMAL_TYPE = "good"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One picture of a data set."""

    filename: str
    """Path relative to `data.root`, with forward slashes; absolute only with `data.allow_outside_root`."""
    is_anomalous: bool
    """The label."""
    defect_type: str = NORMAL_TYPE
    """Name of the defect; `good` for normal pictures."""
    mask_path: str | None = None
    """Mask relative to `data.root`: one picture, or a folder of pictures that are united."""
    split: Split | None = None
    """The split that the data set prescribes, or that `usad split` decided; None before."""
    group: str | None = None
    """Name of the physical part; pictures of one group never cross the border between splits."""


def to_label(sample: Sample) -> dict[str, Any]:
    """Return the line of `split.jsonl` that describes `sample`."""
    return {
        "filename": sample.filename,
        "split": sample.split,
        "label": {"type": "anomaly", "is_anomalous": sample.is_anomalous},
        "defect_type": sample.defect_type,
        "mask_path": sample.mask_path,
        "group": sample.group,
    }


def from_label(label: dict[str, Any]) -> Sample:
    """Return the sample that a line of `split.jsonl` describes.

    Raises:
        KeyError, TypeError: The line does not follow the schema.
    """
    return Sample(
        filename=label["filename"],
        is_anomalous=bool(label["label"]["is_anomalous"]),
        defect_type=label["defect_type"],
        mask_path=label["mask_path"],
        split=label["split"],
        group=label["group"],
    )


def dump_labels(samples: Iterable[Sample]) -> str:
    """Return the text of `split.jsonl`."""
    return "".join(json.dumps(to_label(sample), ensure_ascii=False) + "\n" for sample in samples)


def text_lines(text: str) -> list[str]:
    """Return the lines of a JSONL text; `str.splitlines` would also split inside of file names, at U+2028 for one."""
    return [line for line in text.split("\n") if line]


def parse_labels(text: str) -> list[Sample]:
    """Return the samples of a `split.jsonl` text.

    Raises:
        ArtifactError: A line is not a label; the message names its number.
    """
    samples = []
    for number, line in enumerate(text_lines(text), start=1):
        try:
            samples.append(from_label(json.loads(line)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"split.jsonl, line {number} is not a label ({type(error).__name__}: {error}); "
                "delete the file and run `usad split` again"
            ) from error
    return samples


def of_split(samples: Iterable[Sample], split: Split) -> list[Sample]:
    """Return the samples that belong to `split`, in order."""
    return [sample for sample in samples if sample.split == split]
