"""What decides each artifact: the settings and inputs by which a stage knows whether its result is up to date.

Every command checks its inputs with these recipes before it reads them, so that a split, backbone, teacher or
configuration other than the one in force is refused and never silently mixed.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from us_anomaly.commands.data_inputs import DataInputs
from us_anomaly.commands.named_files import hash_of_teacher, hash_of_weights
from us_anomaly.errors import DataError, ResourceError, WeightsError
from us_anomaly.reporting.pages.files import pages_hash
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import Recipe, recorded_file
from us_anomaly.run_dir.staleness import require
from us_anomaly.settings import DEFAULT_WEIGHTS, TRAIN, Settings, TeacherPositions
from us_anomaly.settings.off import OFF, without_what_is_off
from us_anomaly.settings.plain import flat, plain

NOT_DECISIVE = ("cache", "min_explained_variance", "statistics_positions", "whitening_floor")
"""Settings of the group `teacher` that change nothing about a teacher."""


def _kept(describe: Callable[["Recipes", int], Recipe]) -> Callable[["Recipes", int], Recipe]:
    """Keep what a method answers for each patch size, in its object and for as long as that."""

    @functools.wraps(describe)
    def asked(self: "Recipes", patch_size: int) -> Recipe:
        place = (describe.__name__, patch_size)
        if place not in self.answers:
            self.answers[place] = describe(self, patch_size)
        return self.answers[place]

    return asked


class Recipes:
    """The recipes of one run directory under the settings in force.

    Asking for the recipe of an artifact checks its inputs: a missing or stale one raises. Each answer is kept, so an object
    of this class serves one stage and is made anew for the next.
    """

    def __init__(self, settings: Settings, *, with_data: bool = True) -> None:
        """Describe what `settings` make of their run directory.

        Args:
            settings: The settings in force.
            with_data: Check that the split is that of the pictures under `data.root`; False where only the detector
                matters, which may have been carried away from its data.
        """
        self.settings = settings
        self._with_data = with_data
        self.run_dir = RunDir(settings.run_dir)
        self.answers: dict[tuple[str, int], Recipe] = {}
        self.data = DataInputs(settings, is_there=with_data)

    @property
    def split(self) -> Recipe:
        """What decides `split.jsonl`."""
        return self.data.split

    @property
    def _reading(self) -> dict[str, Any]:
        """The setting that decides what the bytes of a picture mean, for all that looks at pictures of the data set."""
        return without_what_is_off({"data.white_level": self.settings.data.white_level})

    def _with_training_pictures(self, **inputs: str) -> dict[str, Any]:
        """Return the inputs of what learns from the training pictures, and what older notes mention in their place."""
        return {"inputs": inputs | self.data.training_pictures, "before": self.data.split_itself}

    def _weights(self, artifact: Path) -> dict[str, str]:
        """Return the content hash of the backbone's weights where they come from a file of the user's."""
        weights = self.settings.backbone.weights
        if weights == DEFAULT_WEIGHTS:
            return {}
        return self._named(artifact, "backbone.weights", weights, lambda: hash_of_weights(weights))

    def _named(self, artifact: Path, key: str, path: str, hash_file: Callable[[], str]) -> dict[str, str]:
        """Return the content hash of a file that a setting names.

        A detector that was carried away from it remembers that, and is believed where a file of the same name was meant.
        """
        try:
            return {key: hash_file()}
        except (DataError, WeightsError, ResourceError):
            noted = None if self._with_data else recorded_file(self.run_dir, artifact, key)
            if noted is None or Path(noted.path).name != Path(path).name:
                raise
            return {key: noted.content_hash}

    @functools.cached_property
    def backbone(self) -> Recipe:
        """What decides the fine-tuned backbone."""
        return Recipe(
            command="finetune-backbone",
            format_version=_version_of_tensors(),
            settings={
                **flat("finetuning", self.settings.finetuning, without=("enabled",)),
                **flat("backbone", self.settings.backbone, without=("input_size_px",)),
                "augmentation.evaluation": plain(self.settings.augmentation.evaluation),
                "seed": self.settings.seed,
                **self._reading,
            },
            when_absent=OFF,
            **self._with_training_pictures(**self._weights(self.run_dir.backbone), **self.data.training_groups),
        )

    @_kept
    def teacher(self, patch_size: int) -> Recipe:
        """Return what decides the teacher of one patch size; a reused one is decided by its file alone."""
        teacher = self.settings.teacher
        command, version = "distill-teacher", _version_of_tensors()
        if teacher.checkpoint is not None:
            return Recipe(
                command=command,
                format_version=version,
                settings={"teacher.checkpoint": teacher.checkpoint},
                inputs=self._named_teacher("checkpoint", teacher.checkpoint, patch_size),
            )
        inputs = self._weights(self.run_dir.teacher(patch_size))
        if self.settings.finetuning.enabled:
            inputs |= self._checked(self.run_dir.backbone, self.backbone)
        if teacher.start_from is not None:
            inputs |= self._named_teacher("start_from", teacher.start_from, patch_size)
        learned: dict[str, Any] = {"inputs": inputs}
        reading = {}
        if TRAIN in teacher.image_sources():
            learned, reading = self._with_training_pictures(**inputs), self._reading
        decisive = {
            **flat("teacher", teacher, without=NOT_DECISIVE),
            **flat("backbone", self.settings.backbone),
            "augmentation.teacher": plain(self.settings.augmentation.teacher),
            "augmentation.evaluation": plain(self.settings.augmentation.evaluation),
            "finetuning.enabled": self.settings.finetuning.enabled,
            "seed": self.settings.seed,
        }
        drawn_size = self._drawn_size()
        return Recipe(
            command=command,
            format_version=version,
            settings=without_what_is_off(decisive) | drawn_size | reading,
            when_absent=OFF | drawn_size,
            **learned,
        )

    def _drawn_size(self) -> dict[str, Any]:
        """Return the size of the pictures that patches are cut from, where a stream draws them; older notes lack it."""
        teacher = self.settings.teacher
        if teacher.positions is not TeacherPositions.patches or list(teacher.image_sources()) == [TRAIN]:
            return {}
        height, width = self.settings.input_size()
        return {"image_size": height if height == width else [height, width]}

    def _named_teacher(self, key: str, name: str, patch_size: int) -> dict[str, str]:
        artifact = self.run_dir.teacher(patch_size)
        return self._named(artifact, f"teacher.{key}", name, lambda: hash_of_teacher(key, name, patch_size))

    @_kept
    def statistics(self, patch_size: int) -> Recipe:
        """Return what decides the teacher statistics of one patch size."""
        return Recipe(
            command="normalize",
            format_version=_version_of_tensors(),
            settings={
                "teacher.statistics_positions": plain(self.settings.teacher.statistics_positions),
                "teacher.whitening_floor": self.settings.teacher.whitening_floor,
                "augmentation.evaluation": plain(self.settings.augmentation.evaluation),
                **self._reading,
            },
            when_absent=OFF,
            **self._with_training_pictures(**self._checked(self.run_dir.teacher(patch_size), self.teacher(patch_size))),
        )

    @_kept
    def students(self, patch_size: int) -> Recipe:
        """Return what decides the students of one patch size."""
        validates = self.settings.students.validate_every_steps is not None
        validation = self.data.split_itself | self.data.reference_pictures if validates else {}
        return Recipe(
            command="train-students",
            format_version=_version_of_tensors(),
            settings={
                **without_what_is_off(flat("students", self.settings.students)),
                "augmentation.students": plain(self.settings.augmentation.students),
                "seed": self.settings.seed,
                **self._reading,
            },
            inputs={
                **self.statistics(patch_size).inputs,
                **self._checked(self.run_dir.teacher_statistics(patch_size), self.statistics(patch_size)),
                **validation,
            },
            when_absent=OFF,
            before=self.statistics(patch_size).before,
        )

    @_kept
    def position_statistics(self, patch_size: int) -> Recipe:
        """Return what decides the position statistics of one patch size."""
        return Recipe(
            command="calibrate",
            format_version=_version_of_tensors(),
            settings={
                "scoring.stride_px": self.settings.scoring.stride_px,
                "scoring.border_px": self.settings.scoring.border_px,
                **without_what_is_off({"scoring.position_components": self.settings.scoring.position_components}),
                "augmentation.evaluation": plain(self.settings.augmentation.evaluation),
                **self._reading,
            },
            inputs={
                **self.students(patch_size).inputs,
                **self._checked(self.run_dir.students(patch_size), self.students(patch_size)),
            },
            when_absent=OFF,
            before=self.statistics(patch_size).before,
        )

    @functools.cached_property
    def calibration(self) -> Recipe:
        """What decides `calibration.json`."""
        inputs = self.data.split_itself | self.data.reference_pictures
        for patch_size in self.settings.scales:
            positions = self.position_statistics(patch_size)
            inputs |= positions.inputs  # the networks, which make the maps with positions or without
            if self.settings.scoring.per_position:
                inputs |= self._checked(self.run_dir.position_statistics(patch_size), positions)
        return Recipe(
            command="calibrate",
            format_version=_version_of_calibration(),
            settings={
                "scales": list(self.settings.scales),
                **without_what_is_off(flat("scoring", self.settings.scoring, without=("position_components",))),
                **flat("calibration", self.settings.calibration),
                "augmentation.evaluation": plain(self.settings.augmentation.evaluation),
                **self._reading,
            },
            inputs=inputs,
            when_absent=OFF,
        )

    @functools.cached_property
    def predictions(self) -> Recipe:
        """What decides `predictions.jsonl` and the pictures it vouches for."""
        return Recipe(
            command="infer",
            settings={**flat("inference", self.settings.inference, without=("input", "output")), **self._reading},
            when_absent=OFF,
            inputs={
                **self.data.split_itself,
                **self._checked(self.run_dir.calibration, self.calibration),
                **self.data.scored_pictures,
            },
        )

    @functools.cached_property
    def evaluation(self) -> Recipe:
        """What decides `evaluation.json` and `evaluation.csv`."""
        name = {"data.name": self.settings.data.name}  # figures and pages are headed by it; older notes lack it
        return Recipe(
            command="evaluate",
            format_version=_version_of_evaluation(),
            settings={**flat("evaluation", self.settings.evaluation), "seed": self.settings.seed, **name},
            when_absent=name,
            inputs={
                **self._checked(self.run_dir.predictions, self.predictions),
                **self.data.test_labels,
                **self.data.test_masks,
                **self.data.saturation_table,
            },
        )

    @functools.cached_property
    def onnx_model(self) -> Recipe:
        """What decides the exported detector."""
        return Recipe(
            command="export",
            settings={"runtime.precision": plain(self.settings.runtime.precision)},  # of what it is compared with
            inputs=self._checked(self.run_dir.calibration, self.calibration),
        )

    @functools.cached_property
    def report(self) -> Recipe:
        """What decides the pages: the results, and how this version shows them."""
        place = {"data.root": str(self.data.root.resolve())}  # pages link to pictures there
        return Recipe(
            command="report",
            settings=place,
            when_absent=place,
            inputs={
                **self.data.split_itself,
                **self._checked(self.run_dir.calibration, self.calibration),
                **self._checked(self.run_dir.predictions, self.predictions),
                **self._checked(self.run_dir.evaluation_json, self.evaluation),
                **self.data.scored_masks,
                "version of the pages": pages_hash(),
            },
        )

    def _checked(self, artifact: Path, recipe: Recipe) -> dict[str, str]:
        """Return the content hash of an up-to-date artifact by its name in the run directory."""
        name = artifact.relative_to(self.run_dir.root).as_posix()
        return {name: require(self.run_dir, artifact, recipe)}


def _version_of_tensors() -> int:
    from us_anomaly.training.artifacts import FORMAT_VERSION  # brings torch, which the recipe of a split can do without

    return FORMAT_VERSION


def _version_of_calibration() -> int:
    from us_anomaly.scoring.calibration import FORMAT_VERSION  # as above

    return FORMAT_VERSION


def _version_of_evaluation() -> int:
    from us_anomaly.scoring.evaluation import FORMAT_VERSION  # as above

    return FORMAT_VERSION
