"""Kill `usad run data=demo` with SIGKILL at random moments, again and again, and see whether anything comes of it.

Half of the kills come after a random time. The other half hit moments that time rarely finds: right before or after a random
one of all the calls that change names on the disk or flush it. Each run is killed, started again, killed again, until it
finishes; its files are then compared, byte for byte, with those of a run that nobody disturbed. After every kill, whatever
lies in the run directory must be whole: readable, and described by its provenance.

The commands run in forked copies of this process, which has loaded the libraries once: three times as many kills in the
same time, and none of them wasted on imports. `scripts/torture [N]` calls this file.
"""

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from us_anomaly import cli
from us_anomaly.commands import run as run_command
from us_anomaly.data.sample import parse_labels
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, read_tensors
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX
from us_anomaly.run_dir.provenance import content_hash
from us_anomaly.scoring.scored_images import parse_predictions

TINY = (
    "data=demo",
    "data.num_train=6",
    "data.num_test_normal=2",
    "data.num_test_anomalous=4",
    "image_size=64",
    "teacher.steps=12",
    "teacher.batch_size=2",
    "teacher.cache=false",
    "students.steps=12",
    "checkpoint.every_steps=3",
    "evaluation.bootstrap_samples=20",
    "runtime.num_threads=1",
)
"""The demo, so small that a run takes seconds; states are saved often, so that many kills meet one."""
STAGES = [name for name, _ in run_command.STAGES]
CALLS = "calls that changed the disk:"
NOT_COMPARED = (".hydra", ".lock")
VOLATILE = ("seconds", "made_at", "environment", "runtime")
"""What a provenance note says about the circumstances."""


@dataclass
class Tally:
    """What came of the kills."""

    kills: Counter[str] = field(default_factory=Counter)
    """By the stage that was hit."""
    kills_per_run: list[int] = field(default_factory=list)
    """Of the runs that finished."""
    faults: list[str] = field(default_factory=list)
    """Everything that should not have happened."""

    def lines(self) -> list[str]:
        """Return the tally as text."""
        by_stage = ", ".join(f"{stage} {count}" for stage, count in self.kills.items() if count)
        fewest, most = (min(self.kills_per_run), max(self.kills_per_run)) if self.kills_per_run else (0, 0)
        return [
            f"{self.kills.total()} kills: {by_stage}",
            f"{len(self.kills_per_run)} runs finished, after {fewest} to {most} kills each",
            f"faults (files that differ from the undisturbed run, are damaged or left behind; commands that failed): "
            f"{len(self.faults)}",
            *(f"  {fault}" for fault in self.faults),
        ]


def start(arguments: Sequence[str], output: Path, *, last_call: int | None = None) -> int:
    """Fork a process that runs `usad` with these arguments; return its number.

    Args:
        arguments: Of `usad`.
        output: Receives what it says, and after it the number of its calls that changed the disk.
        last_call: The process kills itself at this call; None for never.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        count = _count_calls(last_call)
        sys.argv = ["usad", *arguments]
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        print(f"{CALLS} {count()}")
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _count_calls(last: int | None) -> Callable[[], int]:
    """Count the calls that change names on the disk or flush it, twice each, before and after; die at the last one."""
    numbers = itertools.count(1)

    def note() -> None:
        if next(numbers) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def noted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            note()
            result = call(*arguments, **options)
            note()
            return result

        return wrapper

    for name in ("replace", "rename", "unlink", "rmdir", "fsync", "ftruncate", "mkdir"):
        setattr(os, name, noted(getattr(os, name)))
    return lambda: next(numbers) - 1


def finish(process: int) -> int:
    """Wait for a process and return its exit code; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_after(process: int, seconds: float) -> int:
    """Kill a process after some time; return its exit code, which is its own if it ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    return finish(process)


def stage_of(output: Path) -> str:
    """Return the stage that a run was in, from what it said."""
    numbers = re.findall(r"^\[(\d)/\d\] ", output.read_text(errors="replace"), flags=re.MULTILINE)
    return STAGES[int(numbers[-1]) - 1] if numbers else "start"


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of a run directory by name, as far as they must be equal.

    The pages of the report tell times and dates, and its pictures are named after times: of them, only the number counts.
    """
    found: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or name.startswith(NOT_COMPARED):
            continue
        if "report/" in name:
            name = re.sub(r"[0-9a-f]{20}", "*", name)
            found[name] = found.get(name, b"") + b"."
        elif name.startswith("provenance/"):
            note = {key: value for key, value in json.loads(path.read_bytes()).items() if key not in VOLATILE}
            found[name] = json.dumps(note, sort_keys=True).encode()
        else:
            found[name] = path.read_bytes()
    return found


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Say how two run directories differ."""
    differing = [f"{name} differs" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]
    missing = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    return differing + missing + [f"{name} was left behind" for name in sorted(found.keys() - expected.keys())]


def damages(root: Path) -> list[str]:
    """Return what is not whole in a run directory whose process was killed."""
    run_dir = RunDir(root)
    readers: dict[str, Callable[[Path], object]] = {
        "split.jsonl": lambda path: parse_labels(path.read_text(encoding="utf-8")),
        "predictions.jsonl": lambda path: parse_predictions(path.read_text(encoding="utf-8")),
        "calibration.json": read_json,
        "evaluation.json": read_json,
    }
    readers |= {path.relative_to(root).as_posix(): read_tensors for path in root.glob("p*/*.pt")}
    found = []
    for name, read in readers.items():
        path = root / name
        if path.exists() and not path.name.startswith(TEMPORARY_PREFIX):
            try:
                read(path)
            except Exception as error:
                found.append(f"{name} is damaged: {error}")
    for note_path in (root / "provenance").rglob("*.json"):
        if not note_path.name.startswith(TEMPORARY_PREFIX):
            found += _false_claims(run_dir, note_path)
    return found


def _false_claims(run_dir: RunDir, note_path: Path) -> list[str]:
    """Return what a provenance note says that is not so; it may describe a file that has been replaced since."""
    name = note_path.relative_to(run_dir.root / "provenance").as_posix().removesuffix(".json")
    note = read_json(note_path)
    artifact = run_dir.root / name
    if not artifact.exists():
        return [f"{name} is described but missing"]
    if content_hash(artifact) != note["sha256"]:
        return []
    sizes = {file: (run_dir.root / file).stat().st_size for file in note["files"] if (run_dir.root / file).is_file()}
    return [] if sizes == note["files"] else [f"{name} vouches for files that are not there"]


def torture(
    arguments: Sequence[str], folder: Path, *, kills: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> Tally:
    """Kill runs `kills` times in all, and finish and compare every one of them.

    Args:
        arguments: Of `usad`, without `run_dir`.
        folder: Where the run directories and the outputs go.
        kills: Number of kills.
        seed: Decides the moments.
        say: Receives a line now and then.
    """
    output, run_dir = folder / "output.txt", folder / "run"
    arguments = [*arguments, f"run_dir={run_dir}"]
    started = time.monotonic()
    if finish(start(arguments, output)) != 0:
        raise SystemExit(f"the undisturbed run failed:\n{output.read_text()}")
    duration = time.monotonic() - started
    num_calls = int(output.read_text(errors="replace").rpartition(CALLS)[2])
    say(f"an undisturbed run takes {duration:.1f} s and changes the disk in {num_calls // 2} calls")
    expected = contents(run_dir)
    shutil.rmtree(run_dir)
    generator = random.Random(seed)
    tally = Tally(kills=Counter(dict.fromkeys(("start", *STAGES), 0)))
    in_this_run = 0
    while True:
        done = tally.kills.total()
        started = time.monotonic()
        if done == kills:
            code = finish(start(arguments, output))
        elif generator.random() < 0.5:
            code = kill_after(start(arguments, output), generator.uniform(0, 0.7 * duration))
        else:
            code = finish(start(arguments, output, last_call=generator.randint(1, num_calls)))
        if code == -signal.SIGKILL:
            in_this_run += 1
            tally.kills[stage_of(output)] += 1
            tally.faults += [f"after kill {done + 1}: {damage}" for damage in damages(run_dir)]
            if (done + 1) % 10 == 0:
                say(f"{done + 1} kills")
            continue
        if in_this_run == 0:  # a whole run: the machine may be faster or slower than before
            duration = time.monotonic() - started
        if code != 0:
            tally.faults.append(f"after kill {done}: exit code {code}: {output.read_text()[-2000:]}")
        tally.faults += [
            f"after kill {tally.kills.total()}: {fault}" for fault in differences(expected, contents(run_dir))
        ]
        tally.kills_per_run.append(in_this_run)
        in_this_run = 0
        shutil.rmtree(run_dir)
        if done == kills:
            return tally


def main() -> None:
    """Torture the demo and print the tally; exit with 1 if there are faults."""
    parser = argparse.ArgumentParser(description="kill `usad run data=demo` at random moments and compare the results")
    parser.add_argument("kills", type=int, nargs="?", default=100, help="how many times (default: 100)")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser.add_argument("--seed", type=int, default=0, help="decides the moments (default: 0)")
    options = parser.parse_args()
    import timm  # noqa: F401 (loaded once, before the forks)

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="usad-torture-") as folder:
        os.environ["USAD_CACHE_DIR"] = str(Path(folder) / "cache")
        tally = torture(["run", *TINY], Path(folder), kills=options.kills, seed=options.seed, say=print)
    print("\n".join([*tally.lines(), f"seed {options.seed}, {time.monotonic() - started:.0f} s"]))
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
