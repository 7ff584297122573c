"""`usad normalize`: mean and deviation of the teacher's descriptors over the normal training pictures."""

from pathlib import Path

from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make
from us_anomaly.commands.training_images import TrainingImages, shared_training_images
from us_anomaly.models.compute import choose_compute
from us_anomaly.reporting.progress import progress, progress_over
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_tensors
from us_anomaly.settings import Settings
from us_anomaly.training.artifacts import load_teacher, statistics_state
from us_anomaly.training.normalization import teacher_statistics
from us_anomaly.training.pictures import evaluation_inputs


def run(settings: Settings) -> None:
    """Measure the teacher statistics of every patch size."""
    run_dir = RunDir(settings.run_dir)
    pictures = shared_training_images(settings, settings.augmentation.evaluation, key="augmentation.evaluation")
    with progress_over("patch sizes", settings.scales, enabled=settings.runtime.progress) as patch_sizes:
        for patch_size in patch_sizes:
            artifact = run_dir.teacher_statistics(patch_size)

            def build(patch_size: int = patch_size, artifact: Path = artifact) -> None:
                measure(settings, patch_size, artifact, pictures=pictures)

            has_students = run_dir.students(
                patch_size
            ).exists()  # they would be worth nothing without what they learned from
            make(artifact, Recipes(settings).statistics(patch_size), build, settings=settings, is_precious=has_students)
    written = [("teacher statistics", run_dir.teacher_statistics(size)) for size in settings.scales]
    show_summary(Summary(command="normalize", written=written, next_command="train-students"))


def measure(settings: Settings, patch_size: int, artifact: Path, *, pictures: TrainingImages) -> None:
    """Measure the statistics of one teacher and write them to `artifact`."""
    compute = choose_compute(settings.runtime)
    cache, pipeline = pictures()
    teacher = load_teacher(RunDir(settings.run_dir).teacher(patch_size)).to(compute.device)
    with progress(f"measuring the teacher (p={patch_size})", len(cache), enabled=settings.runtime.progress) as on_step:
        statistics = teacher_statistics(
            teacher,
            evaluation_inputs(cache, pipeline),
            positions=settings.teacher.statistics_positions,
            compute=compute,
            whitening_floor=settings.teacher.whitening_floor,
            on_step=on_step,
        )
    write_tensors(artifact, statistics_state(statistics, num_images=len(cache)))
