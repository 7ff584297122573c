"""The run directory: every file name that a command reads or writes is defined here and nowhere else."""

from pathlib import Path


class RunDir:
    """Name the files of one run directory; nothing is created by asking for a name."""

    def __init__(self, root: Path | str) -> None:
        """Describe the run directory at `root`, which need not exist yet."""
        self.root = Path(root)

    @property
    def split(self) -> Path:
        """Labels and splits of every picture."""
        return self.root / "split.jsonl"

    @property
    def bad_images(self) -> Path:
        """Pictures that `usad split` left out and why; absent if there are none."""
        return self.root / "bad_images.json"

    def scale(self, patch_size: int) -> Path:
        """Folder of one patch size."""
        return self.root / f"p{patch_size}"

    def teacher(self, patch_size: int) -> Path:
        """Distilled patch network."""
        return self.scale(patch_size) / "teacher.pt"

    def teacher_statistics(self, patch_size: int) -> Path:
        """Mean and standard deviation of each descriptor dimension."""
        return self.scale(patch_size) / "teacher_statistics.pt"

    def students(self, patch_size: int) -> Path:
        """The ensemble."""
        return self.scale(patch_size) / "students.pt"

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
        """RGBA PNG heatmaps."""
        return self.root / "heatmaps"

    @property
    def uncertainty(self) -> Path:
        """RGBA PNG pictures of the predictive uncertainty."""
        return self.root / "uncertainty"

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
    def lock(self) -> Path:
        """Held by the process that works here."""
        return self.root / ".lock"

    def provenance(self, artifact: Path) -> Path:
        """What `artifact` was made from; written after it."""
        relative = artifact.relative_to(self.root)
        return self.root / "provenance" / relative.parent / (relative.name + ".json")
