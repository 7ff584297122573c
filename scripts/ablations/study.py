"""Where the runs of the study of single changes lie, how they are run, and what they take over from each other."""

import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composed_settings import composed

from ablations.rows import ALONE, PATH, Row, overrides_of, row_changes
from us_anomaly import cli
from us_anomaly.cli.messages import quoted
from us_anomaly.commands.run import stages_of
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.settings import Settings
from us_anomaly.settings.plain import plain

UNTRAINED = (
    "scoring",
    "calibration",
    "inference",
    "evaluation",
    "runtime",
    "checkpoint",
    "tracking",
    "run_dir",
    "cache_dir",
    "scales",
)
"""Settings that the training of one patch size does not depend on."""


@dataclass(frozen=True, slots=True)
class Study:
    """What is measured."""

    rows: Sequence[Row]
    data: dict[str, Path]
    seeds: Sequence[int]
    work: Path
    extra: dict[str, Any]

    def overrides(self, row: Row, data_set: str) -> list[str]:
        """Return the overrides of one row on one data set, without the seed."""
        data = {"data": "mvtec", "data.root": quoted(str(self.data[data_set])), "data.name": data_set}
        return overrides_of({**row_changes(row), **data, **self.extra})

    def settings(self, row: Row, data_set: str) -> Settings:
        """Return the settings of one row on one data set."""
        return composed(*self.overrides(row, data_set))

    def stages(self, row: Row, data_set: str) -> list[str]:
        """Return the commands of `usad run` for a row that never look at the test split."""
        names = [name for name, _ in stages_of(self.settings(row, data_set))]
        return names[: names.index("calibrate") + 1]

    def run_dir(self, row: Row, data_set: str, seed: int) -> RunDir:
        """Return the run directory of one training."""
        return RunDir(self.work / data_set / row.name / f"seed{seed}")


def run_row(study: Study, row: Row, data_set: str, *, commands: Sequence[str]) -> int:
    """Run commands for all seeds of one row, as a sweep of Hydra; return the exit status."""
    folder = study.work / data_set / row.name
    swept = [
        f"seed={','.join(map(str, study.seeds))}",
        f"hydra.sweep.dir={quoted(str(folder))}",
        "hydra.sweep.subdir=seed${seed}",
    ]
    for command in commands:
        print(f"== {data_set}, {row.name}: usad {command}", file=sys.stderr, flush=True)
        status = usad(command, "-m", *study.overrides(row, data_set), *swept)
        if status:
            return status
    return 0


def usad(*arguments: str) -> int:
    """Run one command in this process; what it prints goes to stderr. Return its exit status."""
    before, sys.argv = sys.argv, ["usad", *arguments]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = before
    return 0


def take_over(study: Study, row: Row, data_set: str) -> None:
    """Copy what another row trained from the same settings, for each patch size, into the new run directories of a row.

    Its provenance comes along, so `usad` checks by itself that the copy is what it would have made.
    """
    sizes = study.settings(row, data_set).scales
    for seed in study.seeds:
        target = study.run_dir(row, data_set, seed)
        if target.root.exists():
            continue
        for with_students in (True, False):
            wanted = _trained_by(study, row, data_set, with_students=with_students)
            for other in (*PATH, *ALONE):
                source = study.run_dir(other, data_set, seed)
                if other == row or not source.split.exists():
                    continue
                if _trained_by(study, other, data_set, with_students=with_students) == wanted:
                    _copy(source, target, sizes=sizes, with_students=with_students)


def _trained_by(study: Study, row: Row, data_set: str, *, with_students: bool) -> str:
    """Return the settings that decide the teacher of a row, or its teacher and students, for each patch size it has."""
    content = plain(study.settings(row, data_set))
    without = (*UNTRAINED, *(() if with_students else ("students",)))
    if content["teacher"]["checkpoint"] is not None:
        content["teacher"] = {
            key: content["teacher"][key] for key in ("checkpoint", "statistics_positions", "whitening_floor")
        }
        del content["backbone"]
    return json.dumps({key: value for key, value in content.items() if key not in without}, sort_keys=True)


def _copy(source: RunDir, target: RunDir, *, sizes: Sequence[int], with_students: bool) -> None:
    """Copy finished artifacts of some patch sizes, each before the note that vouches for it."""
    for artifact in _trained(source, sizes=sizes, with_students=with_students):
        note = source.provenance(artifact)
        if not note.exists():
            continue
        for path in (artifact, source.loss_curve(artifact), note):
            copy = target.root / source.name_of(path)
            if path.exists() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


def _trained(run_dir: RunDir, *, sizes: Sequence[int], with_students: bool) -> list[Path]:
    """Return the artifacts of a run directory up to its teachers' statistics, or up to its students."""
    names = [RunDir.teacher, RunDir.teacher_statistics, *([RunDir.students] if with_students else [])]
    return [run_dir.split, *(name(run_dir, size) for size in sizes for name in names)]


def training_seconds(run_dir: RunDir) -> float:
    """Return how long teacher, its statistics and students took, without what was interrupted."""
    notes = [run_dir.provenance(path) for path in _trained(run_dir, sizes=run_dir.patch_sizes, with_students=True)[1:]]
    return sum(float(read_json(note)["seconds"]) for note in notes if note.exists())
