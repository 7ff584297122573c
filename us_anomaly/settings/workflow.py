"""Settings of the work around the method: what is inferred, evaluated, saved, and on which hardware."""

from dataclasses import dataclass
from enum import Enum

from us_anomaly.errors import SettingsError
from us_anomaly.settings.checks import at_least, device_name, expanded, not_empty

INFERENCE_SPLITS = ("train", "val", "test")


@dataclass(kw_only=True, slots=True)
class InferenceSettings:
    """What `usad infer` scores and which pictures it writes."""

    input: str | None
    """A file, a folder or a glob to score instead of the data set; null scores `inference.splits`."""
    output: str | None
    """Folder for the results of `inference.input`; null takes one of its name under `inference/` in the run directory. With a
    folder nothing is written into the run directory, which may then be read-only, and used by several processes at once."""
    splits: list[str]
    """Splits of the data set to score: val, test, train."""
    save_maps: bool
    """Write float32 TIFF maps at the original resolution; pixel metrics need them."""
    save_heatmaps: bool
    """Write PNG heatmaps (a palette of RGBA colours) to lay over the images."""
    save_uncertainty: bool
    """Write PNG pictures of the predictive uncertainty, of the same kind."""

    def __post_init__(self) -> None:
        """Check the splits and the folder of the results."""
        self.input = None if self.input is None else expanded("inference.input", self.input)
        if self.output is not None:
            not_empty("inference.output", self.output, "results")
            self.output = expanded("inference.output", self.output)
            if self.input is None:
                raise SettingsError(
                    "`inference.output` is where the results of inference.input go, which is not set: add inference.input=..., "
                    "or leave inference.output out"
                )
        not_empty("inference.splits", self.splits, "[val,test]")
        for split in self.splits:
            if split not in INFERENCE_SPLITS:
                raise SettingsError(f"`inference.splits` may hold {', '.join(INFERENCE_SPLITS)}, got {split!r}")


class MetricAlgorithm(Enum):
    """How pixel metrics are computed."""

    auto = "auto"
    exact = "exact"
    streaming = "streaming"


class MapResolution(Enum):
    """Resolution at which maps and masks are compared."""

    original = "original"
    network = "network"


@dataclass(kw_only=True, slots=True)
class EvaluationSettings:
    """How predictions are compared with the truth."""

    algorithm: MetricAlgorithm
    """`exact` sorts every pixel once; `streaming` uses histograms in bounded memory; `auto` picks by size."""
    resolution: MapResolution
    """`original`: as the images lie on disk (the official protocol); `network`: the size the network saw."""
    bootstrap_samples: int
    """Resamples for the confidence intervals of the image-level metrics; 0 leaves them out."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("evaluation.bootstrap_samples", self.bootstrap_samples, 0)


@dataclass(kw_only=True, slots=True)
class CheckpointSettings:
    """How often a training stage saves its state, from which it resumes after a crash."""

    every_seconds: float
    """Save after this much time has passed; 0 saves after every step."""
    every_steps: int | None
    """Also save after this many steps."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("checkpoint.every_seconds", self.every_seconds, 0)
        at_least("checkpoint.every_steps", self.every_steps, 1)


class Precision(Enum):
    """Number format of the network arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True, slots=True)
class RuntimeSettings:
    """Hardware and display; nothing here changes what is computed beyond rounding."""

    device: str
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Precision
    """`auto` takes bfloat16 where the processor multiplies it in hardware, else float32."""
    compile: bool
    """Score with networks compiled by torch.compile: 1.6 to 1.9 times as fast on a graphics card, worth it from five thousand
    pictures on; the first one of each size then takes up to a minute. On a processor it is slower: it does without minimal
    filtering of wide layers."""
    num_threads: int | None
    """Threads of the arithmetic; null takes the physical cores that this process may use, or OMP_NUM_THREADS if that is fewer."""
    num_workers: int
    """Threads that decode images."""
    num_drawing_processes: int | None
    """Processes that draw the pictures of the next training steps, on Linux; 0 leaves it to a thread, which is enough for a
    processor; null takes all cores but one, at most 8, where a graphics card computes, else 0."""
    progress: bool
    """Show progress bars on a terminal, or a line now and then elsewhere."""
    log_level: str
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("runtime.num_threads", self.num_threads, 1)
        at_least("runtime.num_workers", self.num_workers, 0)
        at_least("runtime.num_drawing_processes", self.num_drawing_processes, 0)
        device_name("runtime.device", self.device)
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise SettingsError(f"`runtime.log_level` must be debug, info, warning or error, got {self.log_level!r}")


@dataclass(kw_only=True, slots=True)
class CompareSettings:
    """What `usad compare` puts into one table."""

    runs: list[str]
    """Run directories, or folders that hold some, such as a sweep."""
    baseline: str | None
    """A run directory, or a folder that holds some, to measure the others against."""
    output: str | None
    """A file that ends in .csv, .md or .json, or a folder that gets all three."""

    def __post_init__(self) -> None:
        """Find the folders."""
        self.runs = [expanded("runs", run) for run in self.runs]
        self.baseline = None if self.baseline is None else expanded("baseline", self.baseline)
        self.output = None if self.output is None else expanded("output", self.output)


class Tracker(Enum):
    """Where scalars go besides the run directory."""

    none = "none"
    tensorboard = "tensorboard"
    mlflow = "mlflow"


@dataclass(kw_only=True, slots=True)
class TrackingSettings:
    """Optional experiment tracker."""

    tracker: Tracker
    """none, tensorboard or mlflow."""
    directory: str
    """Folder of the tracker's files."""
