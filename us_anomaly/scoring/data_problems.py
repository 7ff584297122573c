"""What is odd about the data that is evaluated, counted by kind, and the rule for each kind.

Nothing here stops an evaluation: the rule says what is done, `evaluation.json` says how often. What does stop
it is a mask that cannot be read, or one whose proportions are not those of its image: such a mask belongs to
another picture.
"""

import logging
from collections import defaultdict

log = logging.getLogger(__name__)

RULES = {
    "masks_resized": "masks of another size than their image were resized to it, nearest neighbour",
    "masks_not_binary": "masks are not binary: half of their range and above counts as defect",
    "anomalous_with_empty_mask": (
        "images labelled anomalous have a mask that marks nothing: left out of the pixel metrics"
    ),
    "normal_with_defect_mask": (
        "images labelled normal have a mask that marks a defect: the label counts, and they are left out of "
        "the pixel metrics"
    ),
    "anomalous_without_mask": ("anomalous images have no mask where others have one: left out of the pixel metrics"),
    "defects_lost_by_resizing": ("defects vanish at the resolution of the network: left out of the pixel metrics"),
    "images_without_prediction": (
        "images have no prediction, because they could not be read when they were scored: left out"
    ),
    "duplicates_across_splits": (
        "images are, byte for byte, also in another split: the figures are too good by what training saw"
    ),
}
"""Kinds of problems, each with its rule as a sentence without its number."""

_LEFT_OUT = (
    "anomalous_with_empty_mask",
    "normal_with_defect_mask",
    "anomalous_without_mask",
    "defects_lost_by_resizing",
)
_MAX_EXAMPLES = 5


class DataProblems:
    """Collect filenames by kind; telling the same thing twice changes nothing."""

    def __init__(self) -> None:
        """Start with none."""
        self._filenames: dict[str, set[str]] = defaultdict(set)

    def add(self, kind: str, filename: str) -> None:
        """Note a problem of `kind`, one of `RULES`, with one image; the first of its kind is logged."""
        assert kind in RULES
        if not self._filenames[kind]:
            log.warning("%s: %s (said once; evaluation.json has the count)", filename, RULES[kind])
        self._filenames[kind].add(filename)

    def counts(self) -> dict[str, int]:
        """Return how many images each kind concerns; kinds that did not occur count 0."""
        return {kind: len(self._filenames[kind]) for kind in RULES}

    def num_left_out(self) -> int:
        """Return how many images the pixel metrics do without."""
        return len(set().union(*(self._filenames[kind] for kind in _LEFT_OUT)))

    def examples(self) -> dict[str, list[str]]:
        """Return the first few filenames of each kind that occurred, sorted."""
        return {kind: sorted(names)[:_MAX_EXAMPLES] for kind, names in self._filenames.items() if names}
