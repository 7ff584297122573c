"""The run directory: every file name that a command reads or writes is defined here and nowhere else."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

TEMPORARY_PREFIX = ".partial-"
"""Begins the names of files and folders that are not whole yet; what a killed process leaves is found by it."""


def is_inside(name: str) -> bool:
    """Return whether a relative name stays below the folder it is relative to, on every operating system.

    Names come from files that somebody else may have written; `..`, absolute names, drives and backslashes are refused.
    """
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    return bool(path.parts) and not (
        path.is_absolute()
        or ".." in path.parts
        or windows.drive
        or windows.root
        or ".." in windows.parts
        or "\0" in name
    )


class RunDir:
    """Name the files of one run directory; nothing is created by asking for a name."""

    def __init__(self, root: Path | str) -> None:
        """Describe the run directory at `root`, which need not exist yet."""
        self.root = Path(root)

    @property
    def is_known(self) -> bool:
        """Whether a command ever worked here, even if it failed at once."""
        try:
            return self.evaluation_json.is_file() or self.split.is_file() or self._has_records
        except OSError:  # a folder that may not be entered
            return False

    @property
    def is_certain(self) -> bool:
        """Whether commands worked here by more than the names of single files, which other programs may give to theirs."""
        try:
            return self.is_known and (self._has_records or (self.root / "provenance").is_dir())
        except OSError:
            return False

    @property
    def _has_records(self) -> bool:
        """Whether a command left its record here; every program that is made with Hydra has a folder of the name of ours."""
        if self.made_with.is_file() or self.scored_input.is_file():
            return True
        return any(path.is_file() for path in self.records.glob("*/log.txt"))

    @property
    def split(self) -> Path:
        """Labels and splits of every picture."""
        return self.root / "split.jsonl"

    @property
    def bad_images(self) -> Path:
        """Pictures that `usad split` left out and why; absent if there are none."""
        return self.root / "bad_images.json"

    @property
    def backbone(self) -> Path:
        """Fine-tuned weights of the backbone; absent unless `finetuning.enabled`."""
        return self.root / "backbone.pt"

    def scale(self, patch_size: int) -> Path:
        """Folder of one patch size."""
        return self.root / f"p{patch_size}"

    @property
    def patch_sizes(self) -> list[int]:
        """Patch sizes that have a folder, ascending."""
        names = (folder.name[1:] for folder in self.root.glob("p*") if folder.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def teacher(self, patch_size: int) -> Path:
        """Distilled patch network."""
        return self.scale(patch_size) / "teacher.pt"

    def teacher_statistics(self, patch_size: int) -> Path:
        """Mean and standard deviation of each descriptor dimension."""
        return self.scale(patch_size) / "teacher_statistics.pt"

    def students(self, patch_size: int) -> Path:
        """The ensemble."""
        return self.scale(patch_size) / "students.pt"

    def position_statistics(self, patch_size: int) -> Path:
        """What is normal at each position of a map; made and used with `scoring.per_position` only."""
        return self.scale(patch_size) / "position_statistics.pt"

    def training_state(self, artifact: Path) -> Path:
        """State from which an interrupted training of `artifact` resumes; removed when it is complete."""
        return artifact.with_name(artifact.stem + ".resume.pt")

    def loss_curve(self, artifact: Path) -> Path:
        """Losses by step of the training of `artifact`, one JSON object per line."""
        return artifact.with_name(artifact.stem + ".losses.jsonl")

    @property
    def calibration(self) -> Path:
        """Score statistics, thresholds and colour range."""
        return self.root / "calibration.json"

    @property
    def predictions(self) -> Path:
        """One result per picture; written last, it vouches for maps, heatmaps and uncertainty pictures."""
        return self.root / "predictions.jsonl"

    @property
    def maps(self) -> Path:
        """Float32 TIFF anomaly maps at the original resolution."""
        return self.root / "maps"

    @property
    def heatmaps(self) -> Path:
        """PNG heatmaps in a palette of RGBA colours: as a picture the same as RGBA, eight times as fast to write."""
        return self.root / "heatmaps"

    @property
    def uncertainty(self) -> Path:
        """Pictures of the predictive uncertainty, of the same kind."""
        return self.root / "uncertainty"

    @property
    def result_folders(self) -> tuple[Path, ...]:
        """Folders of the files that `predictions` vouches for."""
        return (self.maps, self.heatmaps, self.uncertainty, self.panels, self.exports)

    @property
    def result_files(self) -> list[Path]:
        """The files in these folders as they lie there now."""
        return [path for folder in self.result_folders for path in folder.rglob("*") if path.is_file()]

    @property
    def panels(self) -> Path:
        """Explained pictures of `inference.input=`: image, heatmap with the strongest regions, uncertainty."""
        return self.root / "panels"

    @property
    def exports(self) -> Path:
        """Results in the form of other tools."""
        return self.root / "exports"

    @property
    def predictions_csv(self) -> Path:
        """Results per picture for spreadsheets."""
        return self.exports / "predictions.csv"

    @property
    def regions(self) -> Path:
        """Regions above the pixel threshold in the form of COCO detections."""
        return self.exports / "regions.json"

    @property
    def evaluation_json(self) -> Path:
        """Metrics."""
        return self.root / "evaluation.json"

    @property
    def evaluation_csv(self) -> Path:
        """Metrics, one row per group of pictures."""
        return self.root / "evaluation.csv"

    @property
    def report(self) -> Path:
        """Static web pages."""
        return self.root / "report"

    @property
    def onnx_model(self) -> Path:
        """The detector for programs without torch."""
        return self.root / "onnx" / "detector.onnx"

    @property
    def onnx_parity(self) -> Path:
        """How far `onnx_model` and the detector agree."""
        return self.root / "onnx" / "parity.json"

    @property
    def inputs(self) -> Path:
        """Results of `inference.input=`, a run directory of their own for each input."""
        return self.root / "inference"

    @property
    def records(self) -> Path:
        """What commands were told and said, and what they remember."""
        return self.root / ".hydra"

    def command_folder(self, command: str) -> Path:
        """Configuration and log of the last call of a command."""
        return self.records / command

    def command_log(self, command: str) -> Path:
        """What the last call of a command said."""
        return self.command_folder(command) / "log.txt"

    def command_settings(self, command: str) -> Path:
        """What was typed for it."""
        return self.command_folder(command) / "overrides.yaml"

    def command_configuration(self, command: str) -> Path:
        """All settings that it took."""
        return self.command_folder(command) / "config.yaml"

    def of_all_commands(self, file: Callable[[str], Path]) -> list[Path]:
        """Return one file, such as `command_log`, of each command that has it, the latest at the end."""
        return sorted(self.records.glob(f"*/{file('').name}"), key=lambda path: path.stat().st_mtime)

    @property
    def made_with(self) -> Path:
        """The settings of the last command that made something here."""
        return self.records / "made_with.json"

    @property
    def scored_input(self) -> Path:
        """In a folder of `inference.output=`: the input whose results it holds or is about to hold; absent in run directories."""
        return self.records / "scored_input.json"

    @property
    def contents(self) -> Path:
        """Hashes of the pictures and masks, for as long as size and time of their files stay the same."""
        return self.records / "contents.json"

    def notes(self) -> dict[Path, int]:
        """Return the provenance notes with the times at which they were written: others, once a command has made something."""
        return {path: path.stat().st_mtime_ns for path in sorted(self.root.glob("provenance/**/*.json"))}

    @property
    def lock(self) -> Path:
        """Held by the process that works here."""
        return self.root / ".lock"

    @property
    def folders_written_to(self) -> list[Path]:
        """Folders below the root in which single files are replaced; `maps` and its like are replaced as a whole."""
        scales = [
            folder for folder in self.root.glob("p[0-9]*") if not RunDir(folder).is_known
        ]  # else somebody works there
        return [
            *scales,
            self.root / "provenance",
            self.records,
            self.onnx_model.parent,
            self.report,
            self.inputs,
        ]

    def name_of(self, artifact: Path) -> str:
        """Return the name of a file relative to the root, with forward slashes."""
        return artifact.relative_to(self.root).as_posix()

    def provenance(self, artifact: Path) -> Path:
        """What `artifact` was made from; written after it."""
        relative = artifact.relative_to(self.root)
        return self.root / "provenance" / relative.parent / (relative.name + ".json")
