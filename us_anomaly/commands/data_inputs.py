"""What the data set gives to the recipes: its split, and which pictures and masks with which content a stage looks at."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from us_anomaly.commands.picture_contents import PictureContents, files_of, mask_files
from us_anomaly.commands.picture_list import counted, what_changed
from us_anomaly.commands.stage import read_split
from us_anomaly.data.sample import Sample, dump_labels, of_split, parse_labels
from us_anomaly.data.sources import read_samples
from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import (
    CONTENTS,
    LIST_OF_PICTURES,
    REFERENCE_PICTURES,
    SATURATION_TABLE,
    SCORED_MASKS,
    SCORED_PICTURES,
    TEST_LABELS,
    TEST_MASKS,
    TRAINING_GROUPS,
    TRAINING_PICTURES,
    Recipe,
    content_hash,
)
from us_anomaly.run_dir.staleness import require
from us_anomaly.scoring.saturation import saturation_file
from us_anomaly.settings import OnBadImage, Settings, category_of
from us_anomaly.settings.off import OFF, without_what_is_off
from us_anomaly.settings.plain import flat

_SPLIT_AGAIN = "delete it and run `usad split`"


class DataInputs:
    """The data set of one run directory under the settings in force.

    Inputs are mappings from the name that a note gives to them to a hash; empty where it cannot be known, because the data set
    is gone. Each answer is kept.
    """

    def __init__(self, settings: Settings, *, is_there: bool) -> None:
        """Describe a data set.

        Args:
            settings: The settings in force.
            is_there: Check that the split is that of the pictures under `data.root`, and look at them; else what the run
                directory says is believed.
        """
        self.settings = settings
        self._is_there = is_there
        self.run_dir = RunDir(settings.run_dir)
        self.root = Path(settings.data.root)

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """The pictures of the data set as they lie on disk now.

        Raises:
            DataError: The data set cannot be used.
        """
        return read_samples(self.settings.data)

    @functools.cached_property
    def split(self) -> Recipe:
        """What decides `split.jsonl`: settings, seed, and which pictures with which labels there are."""
        without: tuple[str, ...] = ("name", "allow_outside_root")
        limit = {"data.max_image_pixels": self.settings.data.max_image_pixels}
        if self.settings.data.on_bad_image is not OnBadImage.skip:  # else it decides which pictures there are
            without += ("max_image_pixels",)
        data = without_what_is_off(flat("data", self.settings.data, without=without))
        data["data.root"] = str(self.root.resolve())
        listing = _hash_of(dump_labels(self.samples))
        names = files_of(self.samples, self.root)
        return Recipe(
            command="split",
            settings={**data, **flat("split", self.settings.split), "seed": self.settings.seed},
            inputs={LIST_OF_PICTURES: listing, **self._digest(CONTENTS, names)},
            when_absent=OFF | limit,
            explain={
                LIST_OF_PICTURES: lambda: what_changed(self.run_dir, self.samples),
                CONTENTS: lambda: _replaced(self.contents.changed(names)),
            },
        )

    @functools.cached_property
    def contents(self) -> PictureContents:
        """What pictures and masks hold."""
        shows_progress = self.settings.runtime.progress
        return PictureContents(self.run_dir, self.root, is_there=self._is_there, shows_progress=shows_progress)

    def _digest(self, input_name: str, names: Sequence[str]) -> dict[str, str]:
        """Return the hash of some files of the data set by the name of the input; nothing where it is not known."""
        digest = self.contents.digest(names)
        return {} if digest is None else {input_name: digest}

    @functools.cached_property
    def training_pictures(self) -> dict[str, str]:
        """What a training sees of the data set: its pictures, and not how others are divided."""
        self.split_hash  # noqa: B018 (refuses a split that is not the one in force)
        return self._pictures(TRAINING_PICTURES, of_split(self._divided, "train"))

    @functools.cached_property
    def reference_pictures(self) -> dict[str, str]:
        """The pictures of validation."""
        return self._pictures(REFERENCE_PICTURES, of_split(self._divided, "val"))

    @functools.cached_property
    def scored_pictures(self) -> dict[str, str]:
        """The pictures that `usad infer` scores."""
        return self._pictures(SCORED_PICTURES, self._scored)

    @functools.cached_property
    def split_hash(self) -> str:
        """Content hash of `split.jsonl`, which must be up to date and name pictures of the data set only.

        Raises:
            MissingArtifactError, StaleArtifactError: It is not up to date.
            ArtifactError: It names something else. So what it says is never followed out of `data.root`.
        """
        if not self._is_there and self.run_dir.split.exists():
            return content_hash(self.run_dir.split)
        found = require(self.run_dir, self.run_dir.split, self.split)
        known = {dataclasses.replace(sample, split=None) for sample in self.samples}
        try:
            labels = parse_labels(self.run_dir.split.read_text(encoding="utf-8"))
            strangers = [label.filename for label in labels if dataclasses.replace(label, split=None) not in known]
        except TypeError as error:  # a list where a name should be
            raise ArtifactError(f"{self.run_dir.split} holds labels of no picture ({error}); {_SPLIT_AGAIN}") from error
        if strangers:
            raise ArtifactError(
                f"{self.run_dir.split} names {len(strangers)} pictures that the data set does not hold as it says, for example "
                f"{strangers[0]}; {_SPLIT_AGAIN}"
            )
        return found

    @property
    def split_itself(self) -> dict[str, str]:
        """The split as an input; raises as `split_hash`."""
        return {self.run_dir.name_of(self.run_dir.split): self.split_hash}

    @functools.cached_property
    def test_masks(self) -> dict[str, str]:
        """The masks of the test pictures, where there are any."""
        return self._masks(TEST_MASKS, of_split(self._divided, "test"))

    @functools.cached_property
    def test_labels(self) -> dict[str, str]:
        """The test pictures with their labels, defect types and the names of their masks."""
        self.split_hash  # noqa: B018 (as above)
        return {TEST_LABELS: _hash_of(dump_labels(of_split(self._divided, "test")))}

    @functools.cached_property
    def training_groups(self) -> dict[str, str]:
        """Which training pictures show one part, for what holds some of them out."""
        self.split_hash  # noqa: B018
        return {TRAINING_GROUPS: _hash_of(repr([sample.group for sample in of_split(self._divided, "train")]))}

    @functools.cached_property
    def saturation_table(self) -> dict[str, str]:
        """The table of the data set that says how much of each kind of defect counts as all of it, or that there is none."""
        path = saturation_file(self.root, category_of(self.settings.data))
        return {SATURATION_TABLE: "none" if path is None else content_hash(path)}

    @functools.cached_property
    def scored_masks(self) -> dict[str, str]:
        """The masks of the pictures that `usad infer` scores, where there are any."""
        return self._masks(SCORED_MASKS, self._scored)

    def _pictures(self, input_name: str, samples: Sequence[Sample]) -> dict[str, str]:
        return self._digest(input_name, [sample.filename for sample in samples])

    def _masks(self, input_name: str, samples: Sequence[Sample]) -> dict[str, str]:
        names = [name for sample in samples for name in mask_files(sample, self.root)]
        return self._digest(input_name, names) if names else {}

    @property
    def _scored(self) -> list[Sample]:
        return [sample for sample in self._divided if sample.split in self.settings.inference.splits]

    @functools.cached_property
    def _divided(self) -> list[Sample]:
        return read_split(self.run_dir)


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _replaced(names: list[str]) -> str:
    """Say which files were replaced in their place; nothing where none was."""
    return counted("replaced", names) if names else ""
