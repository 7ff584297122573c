"""The list of pictures behind a split: which of them were left out, and how the list has changed since."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from us_anomaly.data.sample import Sample, parse_labels
from us_anomaly.errors import ArtifactError, ResourceError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.run_dir.format_version import check_format

FORMAT_VERSION = 1
"""Of `bad_images.json`."""


def write_left_out(path: Path, reasons: Mapping[str, str]) -> None:
    """Write down pictures that cannot be used and why, by filename."""
    entries = [{"filename": filename, "reason": reason} for filename, reason in reasons.items()]
    write_json(path, {"format_version": FORMAT_VERSION, "bad_images": entries})


def read_left_out(path: Path) -> list[str]:
    """Return the filenames of pictures that were left out; none where there is no such file.

    Raises:
        ArtifactError: The file is damaged or of another format version.
        ResourceError: The file cannot be read.
    """
    if not path.exists():
        return []
    content = read_json(path)
    if isinstance(content, dict):
        check_format(path, content.get("format_version"), reads=FORMAT_VERSION, command="split")
        content = content.get("bad_images")
    try:  # before there were versions the file was the list alone
        return [_filename(entry) for entry in content]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is no list of pictures ({error!r}); make it again with `usad split overwrite=true`"
        ) from error


def what_changed(run_dir: RunDir, samples: Iterable[Sample]) -> str:
    """Say in words how the pictures of now differ from those that were divided.

    Args:
        run_dir: Its `split.jsonl` and `bad_images.json` tell the pictures of then.
        samples: The pictures of now.

    Returns:
        For example `1 missing: images/good/003.png; 2 new, the first images/good/900.png`. Empty where the files of then
        cannot be read, which must not hide that the list changed, or where only the order or the prescribed splits differ.
    """
    try:
        labels = parse_labels(run_dir.split.read_text(encoding="utf-8"))
        then = {label.filename: dataclasses.replace(label, split=None) for label in labels}
        left_out = set(read_left_out(run_dir.bad_images))
    except (OSError, ValueError, TypeError, ArtifactError, ResourceError):
        return ""
    now = {sample.filename: dataclasses.replace(sample, split=None) for sample in samples}
    relabelled = [name for name in then if name in now and then[name] != now[name]]
    kinds = (
        ("missing", [name for name in (*then, *sorted(left_out)) if name not in now]),
        ("new", [name for name in now if name not in then and name not in left_out]),
        ("with another label, mask or group", relabelled),
    )
    return "; ".join(counted(kind, names) for kind, names in kinds if names)


def counted(kind: str, names: list[str]) -> str:
    """Say how many there are of a kind, and the first."""
    return f"1 {kind}: {names[0]}" if len(names) == 1 else f"{len(names)} {kind}, the first {names[0]}"


def _filename(entry: Any) -> str:
    filename = entry["filename"]
    if not isinstance(filename, str):
        raise TypeError(f"filename {filename!r}")
    return filename
