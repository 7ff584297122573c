#!/usr/bin/env python3
"""Measure how fast this machine trains and infers, against what its processor could do, and against the plain way.

    python scripts/benchmark.py --threads 1 --json benchmark.json
    python scripts/benchmark.py --threads 1 --only image "student step" --without compiled

Every line is measured in a process of its own: after a warm-up, the median of several runs, and the largest memory. With one
thread it is the time of the processor that counts, so that other work on the machine does not; with more it is the clock. The
plain way (float32, contiguous, four shifted pools and an unwrap per pooling, the teacher anew for every student) lives in
scripts/benchmarks/plain.py, is checked to give the same values, and is measured in the same call.
"""

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from benchmarks import networks, pipeline, training
from benchmarks.measure import Plan, Row, matrix_rate, peak_mib
from rich.console import Console
from rich.table import Table

from us_anomaly.cli.process_environment import prepare_environment
from us_anomaly.models.compute import available_cores
from us_anomaly.settings import Precision
from us_anomaly.version import __version__

Measurement = Callable[[], Row]
PLAIN = "plain way"


def measurements(plan: Plan) -> dict[str, tuple[Measurement, str | None]]:
    """Return every measurement by name, with the name of the plain way to compare it with."""
    listed: dict[str, tuple[Measurement, str | None]] = {}
    for p in plan.patch_sizes:
        for d in plan.dims:
            plain = f"map p={p} d={d}, {PLAIN}"
            listed[f"map p={p} d={d}"] = partial(networks.single_map, plan, p, d, 1), plain
            listed[f"map p={p} d={d}, stride 4"] = partial(networks.single_map, plan, p, d, 4), plain
            listed[plain] = partial(networks.plain_single_map, plan, p, d), None
    if not plan.quick:  # compiling takes a minute at any size
        for d in plan.dims:
            work = partial(networks.single_map, plan, 33, d, 1, is_compiled=True)
            listed[f"map p=33 d={d}, compiled"] = work, f"map p=33 d={d}, {PLAIN}"
    compared = f"image p=33, {PLAIN}"
    for p in plan.patch_sizes:
        for stride in (1, 4):
            name = f"image p={p}{'' if stride == 1 else ', stride 4'}"
            listed[name] = partial(networks.whole_image, plan, p, stride, Precision.auto), compared if p == 33 else None
    if not plan.quick:
        for stride in (1, 4):
            name = f"image p=33{'' if stride == 1 else ', stride 4'}, compiled"
            listed[name] = partial(networks.whole_image, plan, 33, stride, Precision.auto, is_compiled=True), compared
    listed["image p=33, float32"] = partial(networks.whole_image, plan, 33, 1, Precision.float32), compared
    listed[compared] = partial(networks.plain_whole_image, plan, 33), None
    listed["teacher step, patches"] = partial(training.teacher_step, plan, "patches"), f"teacher step, {PLAIN}"
    listed["teacher step, dense"] = partial(training.teacher_step, plan, "dense"), None
    listed[f"teacher step, {PLAIN}"] = partial(training.teacher_step, plan, "patches", plain=True), None
    listed["student step, grid"] = partial(training.student_step, plan, "grid"), f"student step, {PLAIN}"
    listed["student step, dense"] = partial(training.student_step, plan, "dense"), f"student step, {PLAIN}"
    listed["student step, full width"] = partial(training.student_step, plan, "grid", is_full_width=True), None
    listed["student step, full width, dense"] = partial(training.student_step, plan, "dense", is_full_width=True), None
    listed[f"student step, {PLAIN}"] = partial(training.plain_students, plan), None
    listed["infer"] = partial(pipeline.inference, plan), None
    listed["metrics, exact"] = partial(pipeline.metrics, plan, "exact"), None
    listed["metrics, streaming"] = partial(pipeline.metrics, plan, "streaming"), None
    return listed


def main() -> None:
    """Measure, print a table, and write JSON if wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: the physical cores")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, and nothing about speed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only measurements whose names begin so")
    parser.add_argument("--without", nargs="+", default=[], metavar="WORD", help="none whose names hold it: `compiled`")
    arguments = parser.parse_args()
    prepare_environment()  # huge pages, as `usad` has them; threads were settled when torch was loaded
    plan = Plan(threads=arguments.threads, quick=arguments.quick)
    chosen = measurements(plan)
    if arguments.only:
        chosen = {name: each for name, each in chosen.items() if name.startswith(tuple(arguments.only))}
        if not chosen:
            parser.error(f"no measurement begins with {' or '.join(arguments.only)}: {', '.join(measurements(plan))}")
    # a word may hold for the long measurements alone
    known = measurements(Plan(threads=arguments.threads, quick=False))
    for word in arguments.without:
        if not any(word in name for name in known):
            parser.error(f"no measurement holds {word}: {', '.join(measurements(plan))}")
    chosen = {name: each for name, each in chosen.items() if not any(word in name for word in arguments.without)}
    if not chosen:
        parser.error(f"every measurement that was chosen holds {' or '.join(arguments.without)}")
    machine = apart(partial(described_machine, plan))
    rows: dict[str, Row] = {}
    console = Console(stderr=True)
    for name, (measure, _) in chosen.items():
        console.print(f"measuring: {name}", highlight=False)
        rows[name] = apart(partial(with_memory, measure, plan))
        rows[name].name = name
        if arguments.json is not None:  # after each, so that nothing is lost where a long measurement is stopped
            lines = [{**row.to_json(), "speed_up": speed_up(name, rows, chosen)} for name, row in rows.items()]
            arguments.json.write_text(json.dumps({"machine": machine, "measurements": lines}, indent=2) + "\n")
    show(machine, rows, {name: speed_up(name, rows, chosen) for name in rows})


def speed_up(name: str, rows: dict[str, Row], chosen: dict[str, tuple[Measurement, str | None]]) -> float | None:
    """Return how many times faster than the plain way something is; None if that was not measured."""
    plain = chosen[name][1]
    return rows[plain].seconds / rows[name].seconds if plain in rows else None


def apart(work: Callable[[], Any]) -> Any:
    """Run something in a process of its own, so that its memory is its own, and return what it returns."""
    context = multiprocessing.get_context("fork")  # torch is loaded, and no thread of it has started yet
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"a measurement failed with exit code {process.exitcode}; what it said stands above") from None
    process.join()
    return result


def _send(work: Callable[[], Any], sender: Connection) -> None:
    sender.send(work())


def with_memory(measure: Measurement, plan: Plan) -> Row:
    """Measure, and note the memory before and at most."""
    base = peak_mib()
    row = measure()
    row.base_mib, row.peak_mib = base, peak_mib(plan.compute())
    return row


def described_machine(plan: Plan) -> dict[str, Any]:
    """Return what the figures were measured on, with the rates of its matrix product in TFLOP/s."""
    compute = plan.compute()
    gpu = compute.device.type == "cuda"
    return {
        "processor": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": plan.threads,
        "clock": "processor time" if plan.threads == 1 and not gpu else "wall time",
        "precision": compute.precision,
        "float32_tflop_per_second": matrix_rate(torch.float32, plan=plan, compute=compute),
        "bfloat16_tflop_per_second": matrix_rate(torch.bfloat16, plan=plan, compute=compute),
        "versions": {"us_anomaly": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "quick": plan.quick,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if any(unit in line for line in lines)]
    return f"{name} ({', '.join(units)})"


def show(machine: dict[str, Any], rows: dict[str, Row], speed_ups: dict[str, float | None]) -> None:
    """Print the table."""
    table = Table(
        title=f"{machine['processor']}, {machine['threads']} thread(s), {machine['precision']}; matrix product: float32 "
        f"{machine['float32_tflop_per_second']:.3f}, bfloat16 {machine['bfloat16_tflop_per_second']:.3f} TFLOP/s; "
        f"seconds are {machine['clock']}"
    )
    titles = ("measurement", "seconds", "wall", "runs", "GFLOP", "TFLOP/s", "of matrix", "speed-up", "peak MiB", "note")
    for title in titles:
        table.add_column(title, justify="left" if title in ("measurement", "note") else "right")
    for name, row in rows.items():
        rates = (
            [f"{row.gflop:.0f}", f"{row.tflop_per_second:.3f}", f"{row.matrix_share:.2f}"] if row.gflop else [""] * 3
        )
        ratio = speed_ups[name]
        faster, memory = "" if ratio is None else f"{ratio:.1f}x", f"{row.peak_mib:.0f}"
        table.add_row(
            name, f"{row.seconds:.4f}", f"{row.wall_seconds:.4f}", str(row.runs), *rates, faster, memory, row.note
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    main()
