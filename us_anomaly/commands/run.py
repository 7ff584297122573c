"""`usad run`: every stage in order; what is up to date is skipped."""

import logging
import time

from us_anomaly.commands import calibrate, distill_teacher, evaluate, infer, normalize, report, split, train_students
from us_anomaly.settings import Settings

log = logging.getLogger(__name__)

STAGES = (
    ("split", split.run),
    ("distill-teacher", distill_teacher.run),
    ("normalize", normalize.run),
    ("train-students", train_students.run),
    ("calibrate", calibrate.run),
    ("infer", infer.run),
    ("evaluate", evaluate.run),
    ("report", report.run),
)


def run(settings: Settings) -> None:
    """Run all stages."""
    started = time.monotonic()
    for number, (name, stage) in enumerate(STAGES, start=1):
        log.info("[%d/%d] %s", number, len(STAGES), name)
        stage(settings)
    log.info("done in %.0f s: %s", time.monotonic() - started, settings.run_dir)
