"""Measure one change at a time, from `experiment=as_described` to `experiment=accurate`: the table of docs/accuracy.md.

    python scripts/ablation.py --choose --data tiles=DIR leather=DIR   # on validation normals with synthetic defects
    python scripts/ablation.py --data tiles=DIR leather=DIR            # on the test split, once
    python scripts/ablation.py --scores RUN_DIR                        # one trained run under other settings of the scores
    python scripts/ablation.py --list                                  # the rows and what they change

Choose by the first, then run the second: it goes on in the same run directories and trains nothing again. What is finished is
skipped, so an interrupted study goes on where it was; a row that differs from another in its scores only takes over the
training of that one. DIR is one category in the layout of MVTec AD. Results: choose, test or scores, as .md and .json, in the
folder of --work. Times are those of the machine as it was: on a busy one they are upper bounds.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ablations.rows import ALONE, PATH, QUICK, Row, overrides_of, row_changes
from ablations.study import Study, run_row, take_over, training_seconds
from ablations.synthetic_scores import AXES, FIGURES, ScoreRow, choose_figures, score_table
from ablations.tables import markdown_table, scores_markdown, study_markdown

from us_anomaly.errors import UsadError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json, write_text
from us_anomaly.run_dir.provenance import content_hash
from us_anomaly.settings.plain import plain

LOADED_WITH = ("device", "precision", "num_threads")


def measured(study: Study, row: Row, data_set: str, seed: int, *, chooses: bool) -> dict[str, float]:
    """Return the figures of one finished run."""
    run_dir = study.run_dir(row, data_set, seed)
    if not chooses:
        metrics = read_json(run_dir.evaluation_json)["metrics"]
        return {name: metrics[name] for name in FIGURES if metrics.get(name) is not None}
    known = run_dir.root.with_name(f"{run_dir.root.name}.choose.json")
    identity = content_hash(run_dir.calibration)
    if known.exists() and (content := read_json(known))["calibration"] == identity:
        figures: dict[str, float] = content["figures"]
        return figures
    figures = choose_figures(run_dir, study.work, runtime=_runtime(study.extra))
    write_json(known, {"calibration": identity, "figures": figures})
    return figures


def _runtime(extra: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `us_anomaly.load` among the overrides."""
    given = {name: extra[f"runtime.{name}"] for name in LOADED_WITH if f"runtime.{name}" in extra}
    return {name: int(value) if name == "num_threads" else value for name, value in given.items()}


def run_study(study: Study, *, chooses: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Run everything; return one record per row and data set, and what failed."""
    for row in study.rows:
        study.settings(row, next(iter(study.data)))
    records, failures = [], []
    for data_set in study.data:
        for row in study.rows:
            take_over(study, row, data_set)
            status = run_row(study, row, data_set, commands=study.stages(row, data_set) if chooses else ["run"])
            if status >= 128:  # a signal
                raise SystemExit(status)
            if status:
                failures.append(f"{data_set}, {row.name}: usad ended with status {status}; its words stand above")
                continue
            by_seed = {seed: measured(study, row, data_set, seed, chooses=chooses) for seed in study.seeds}
            seconds = [training_seconds(study.run_dir(row, data_set, seed)) for seed in study.seeds]
            records.append(_record(row, data_set, by_seed, seconds))
            _write(study.work / ("choose" if chooses else "test"), records, failures)
    return records, failures


def _record(row: Row, data_set: str, by_seed: dict[int, dict[str, float]], seconds: list[float]) -> dict[str, Any]:
    names = dict.fromkeys(name for figures in by_seed.values() for name in figures)
    figures = {}
    for name in names:
        values = {str(seed): found[name] for seed, found in by_seed.items() if name in found}
        numbers = list(values.values())
        figures[name] = {"mean": fmean(numbers), "min": min(numbers), "max": max(numbers), "by_seed": values}
    return {
        "data_set": data_set,
        "row": row.name,
        "says": row.says,
        "overrides": overrides_of(row_changes(row)),
        "seeds": list(by_seed),
        "figures": figures,
        "training_seconds": {"mean": fmean(seconds), "min": min(seconds), "max": max(seconds)},
    }


def _write(stem: Path, records: Sequence[dict[str, Any]], failures: Sequence[str]) -> None:
    write_json(stem.with_suffix(".json"), {"rows": list(records), "failures": list(failures)})
    write_text(stem.with_suffix(".md"), study_markdown(records))


def show_scores(run_dir: Path, work: Path, *, is_crossed: bool, extra: dict[str, Any]) -> None:
    """Print and write the table of one run directory under other settings of its scores."""
    found = score_table(RunDir(run_dir), work, is_crossed=is_crossed, runtime=_runtime(extra))
    rows = list(_followed(found))
    text = scores_markdown(rows)
    plain_rows = [
        {"patch_sizes": list(row.patch_sizes), "scoring": plain(row.scoring), "figures": row.figures} for row in rows
    ]
    write_json(work / "scores.json", {"run_dir": str(run_dir), "rows": plain_rows})
    write_text(work / "scores.md", text)
    print(text, end="")


def _followed(rows: Iterable[ScoreRow]) -> Iterator[ScoreRow]:
    for row in rows:
        print("== " + ", ".join(axis.label(row.scoring) for axis in AXES), file=sys.stderr, flush=True)
        yield row


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=DIR", help="data sets, each one category")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="default: 0 1 2")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="default: those of the path; or all")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="folder of the run directories")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for every row")
    parser.add_argument("--choose", action="store_true", help="score synthetic defects, never the test split")
    parser.add_argument("--scores", type=Path, metavar="RUN_DIR", help="score one trained run under other settings")
    parser.add_argument("--cross", action="store_true", help="with --scores: all combinations")
    parser.add_argument("--quick", action="store_true", help="networks of a few weights, two steps, one seed, two rows")
    parser.add_argument("--list", action="store_true", help="print the rows")
    given = parser.parse_args(arguments)
    for option in (*given.data, *given.set):
        if not re.match(r"[^=]+=.", option):
            parser.error(f"{option!r} must have the form NAME=VALUE")
    names = [row.name for row in (*PATH, *ALONE)]
    if unknown := [name for name in given.rows if name not in (*names, "all")]:
        parser.error(f"there is no row {', '.join(unknown)}; the rows are {', '.join(names)}")
    if not (given.data or given.scores or given.list):
        parser.error("name the data sets: --data NAME=DIR")
    return given


def study_of(given: argparse.Namespace) -> Study:
    """Return what the arguments ask for."""
    rows: Sequence[Row] = PATH
    if given.rows:
        rows = [row for row in (*PATH, *ALONE) if row.name in given.rows or "all" in given.rows]
    elif given.quick:
        rows = (PATH[-2], PATH[-1])
    data = {name: Path(root).expanduser().resolve() for name, _, root in (entry.partition("=") for entry in given.data)}
    seeds = given.seeds or ([0] if given.quick else [0, 1, 2])
    extra = dict(QUICK if given.quick else {}) | {key: value for key, _, value in (s.partition("=") for s in given.set)}
    return Study(rows=rows, data=data, seeds=seeds, work=given.work.resolve(), extra=extra)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(arguments)
    study = study_of(given)
    try:
        if given.list:
            cells = [[row.name, row.says, " ".join(overrides_of(row_changes(row)))] for row in (*PATH, *ALONE)]
            print(markdown_table(["row", "what", "overrides"], cells), end="")
            return 0
        if given.scores:
            show_scores(given.scores, study.work, is_crossed=given.cross, extra=study.extra)
            return 0
        records, failures = run_study(study, chooses=given.choose)
    except UsadError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    print(study_markdown(records), end="")
    for failure in failures:
        print(f"ablation: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
