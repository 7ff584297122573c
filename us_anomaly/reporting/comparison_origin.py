"""What made the figures of a run: all settings that decided them, as the provenance notes of its artifacts tell.

The notes are a chain: that of `evaluation.json` names the hash of the predictions that were evaluated, theirs the hash of the
calibration, and so on. Only a note that describes just the file that was used is believed, so what an earlier
attempt left in the same folder takes no part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from us_anomaly.errors import ArtifactError, UsadError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.layout import is_inside
from us_anomaly.run_dir.provenance import (
    CONTENTS,
    LIST_OF_PICTURES,
    OF_THE_DATA_SET,
    SATURATION_TABLE,
    SCORED_PICTURES,
    TEST_MASKS,
    content_hash,
)
from us_anomaly.settings import NAMED_FILES
from us_anomaly.settings.off import OFF

_FROM_OUTSIDE = (*OF_THE_DATA_SET, *NAMED_FILES)
"""Inputs that no stage makes, as the notes call them."""
_NOT_DECISIVE = ("inference.", "evaluation.bootstrap_samples", "data.name")
"""Settings in the notes that change no figure: which pictures are written, how intervals are resampled, what is called how."""
_GROUPS_OF = {
    "split": ("data.",),
    "distill-teacher": ("teacher.", "finetuning."),
    "train-students": ("students.",),
    "calibrate": ("scoring.",),
}
"""Settings that may be absent in the notes of a command, by what their names begin with."""

Note = dict[str, Any]
"""Content of a provenance note."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What decided the figures of one run."""

    settings: dict[str, Any]
    """Plain values by dotted key; without those that had no say, such as the teacher's where a finished one was taken."""
    pictures: str | None
    """Hash of the list of pictures with their labels."""
    contents: str | None
    """Hash of what all pictures and masks of the split hold; None in notes of version 0.2.0, which do not tell."""
    scored: str | None
    """Hash of what those pictures hold that were scored, of validation and test; None alike."""
    test_masks: str | None
    """Hash of what the masks of the test pictures hold; None where there are none, and alike."""
    saturation: str | None
    """Hash of the table of saturated defects, `none` where there is none; None in notes of before version 0.6.0."""
    files: dict[str, str]
    """Hash of each other file from outside, by setting and artifact: `teacher.checkpoint (p33/teacher.pt)`."""


def read_origin(run_dir: RunDir) -> Origin | None:
    """Return what decided the figures of an evaluated run; None where its notes do not tell all of it."""
    try:
        notes = _notes(run_dir)
        outside = {
            (name, artifact): digest
            for artifact, note in notes.items()
            for name, digest in note["inputs"].items()
            if name in _FROM_OUTSIDE
        }
        split, predictions, evaluation = map(
            run_dir.name_of, (run_dir.split, run_dir.predictions, run_dir.evaluation_json)
        )
        return Origin(
            settings=_with_image_size(_settings(notes)),
            pictures=outside.get((LIST_OF_PICTURES, split)),
            contents=outside.get((CONTENTS, split)),
            scored=outside.get((SCORED_PICTURES, predictions)),
            test_masks=outside.get((TEST_MASKS, evaluation)),
            saturation=outside.get((SATURATION_TABLE, evaluation)),
            files={
                f"{name} ({artifact})": str(digest)
                for (name, artifact), digest in outside.items()
                if name in NAMED_FILES
            },
        )
    except (UsadError, OSError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _notes(run_dir: RunDir) -> dict[str, Note]:
    """Return the notes of the evaluation and of all that it was made from, by artifact.

    Raises:
        ArtifactError: One is missing, or describes another file than the one that was used.
    """
    evaluation = run_dir.evaluation_json
    wanted = {run_dir.name_of(evaluation): content_hash(evaluation)}
    notes: dict[str, Note] = {}
    while wanted:
        name, digest = wanted.popitem()
        path = run_dir.provenance(run_dir.root / name)
        if not is_inside(name) or not path.is_file() or (note := read_json(path))["sha256"] != digest:
            raise ArtifactError(f"no note describes the {name} that was used")
        notes[name] = note
        wanted |= {
            part: part_digest
            for part, part_digest in note["inputs"].items()
            if part not in _FROM_OUTSIDE and part not in notes
        }
    return notes


def _settings(notes: Mapping[str, Note]) -> dict[str, Any]:
    """Return the settings of all notes together, and those that the notes leave out because they are off."""
    written: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    for note in notes.values():
        command, settings = note["command"], note["settings"]
        written |= {key: value for key, value in settings.items() if not key.startswith(_NOT_DECISIVE)}
        if settings.get("teacher.checkpoint") is None:  # a finished teacher is decided by nothing else
            left_out |= {key: value for key, value in OFF.items() if key.startswith(_GROUPS_OF.get(command, ()))}
    merged = left_out | written
    if not merged.get("scoring.per_position"):
        merged.pop("scoring.position_components", None)  # it has no say
    return merged


def _with_image_size(settings: dict[str, Any]) -> dict[str, Any]:
    """Name the size of the network's input, which the notes hold in the transform lists only, and refer to it there."""
    sizes = [entry["params"].get("size") for entry in settings.get("augmentation.evaluation", [])]
    pairs = [size for size in sizes if isinstance(size, list) and len(size) == 2]
    if not pairs:
        return settings
    size = pairs[-1]  # a crop may follow a resize
    lists = {
        key: [
            {
                **entry,
                "params": entry["params"] | ({"size": "image_size"} if entry["params"].get("size") == size else {}),
            }
            for entry in entries
        ]
        for key, entries in settings.items()
        if key.startswith("augmentation.")
    }
    return {**settings, **lists, "image_size": size[0] if size[0] == size[1] else size}
