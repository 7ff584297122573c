"""What a command did not finish, as the log of the last one tells it: why there is no evaluation, or one from before."""

import os
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from us_anomaly.errors import UsadError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.added_folder import CONFIG_DIR, added_folder_of, can_be_offered
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.lock_owner import owner_at
from us_anomaly.settings import is_of_one_command

FAILED = "`%s` failed: %s"
"""The last record of the log of a command that failed: the command as typed, and its error."""
_LAST_BYTES = 65_536
_MAX_SHOWN = 500
_RECORD = re.compile(r"^(\d{4}-\d\d-\d\d [\d:]{8},\d{3}(?:[+-]\d{4})?) [A-Z]+ [\w.]+: ", re.MULTILINE)
_STAGE = re.compile(r": \[\d+/\d+\] ([\w-]+)$", re.MULTILINE)
"""How `usad run` announces a stage."""
_WITHOUT_FIGURES = ("export", "report")
"""Commands that change no figure."""
EVALUATING = ("run", "evaluate")
"""Commands whose success means that there are figures, of what is there, and that they can be compared."""
_FAILURE = re.compile(r"`(usad .+?)` failed: (\S.*)", re.DOTALL)
_SETTING = re.compile(r"[+~]*(?!hydra)[\w.]+=.*", re.DOTALL)


def why_unfinished(folder: Path) -> str:
    """Return why the commands that worked in a folder left no evaluation there, and what to type."""
    run_dir = RunDir(folder)
    if run_dir.scored_input.exists():
        return "it holds results of inference.input=, which are not evaluated"
    if (failure := _failure(run_dir)) is not None:
        return failure
    if run_dir.made_with.is_file():
        added = added_folder_of(run_dir)
        typed = [f"run_dir={folder.as_posix()}", *([] if added is None else [f"{CONFIG_DIR}{added}"])]
        return f"it has no evaluation.json: `usad run {shlex.join(typed)}` goes on"
    return (
        "it has no evaluation.json and no note of a failure: it is at work or was killed; type its whole command again"
    )


def left_undone(folder: Path) -> str | None:
    """Return what happened to a command that began or failed after the figures of a folder were made; None if nothing did."""
    run_dir = RunDir(folder)
    made_at = _made_at(run_dir)
    owner = owner_at(run_dir.lock)
    if owner is not None and _seconds(str(owner.since)) >= made_at and _is_of_figures(str(owner.command)):
        return "a command has begun there since these figures were made, and is at work or was killed"
    lasts = [last for last in _last_records(run_dir) if last.at >= made_at]
    succeeded_at = max((last.at for last in lasts if last.of in EVALUATING and last.failure is None), default=made_at)
    failures = [last.failure for last in lasts if last.is_of_figures and last.at >= succeeded_at]
    told = [failure for failure in failures if failure is not None]
    return f"its last command failed after these figures were made ({_in_one_line(told[-1][2])})" if told else None


def _made_at(run_dir: RunDir) -> float:
    """Return when the figures were made, in seconds."""
    try:
        return _seconds(str(read_json(run_dir.provenance(run_dir.evaluation_json))["made_at"]))
    except (UsadError, KeyError, TypeError):  # old run directories have no such note
        return float(int(run_dir.evaluation_json.stat().st_mtime))


def _seconds(text: str) -> float:
    """Return a time in seconds; without an offset, as in older files, it is the local one, and 0 stands for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _is_of_figures(command: str) -> bool:
    """Return whether a command may change figures: not one that looks at a picture."""
    return command.split(" ")[1:2] not in [[name] for name in _WITHOUT_FIGURES] and "inference.input=" not in command


def _failure(run_dir: RunDir) -> str | None:
    """Return what ended the last command, and the command; None if that is not known."""
    lasts = _last_records(run_dir)
    found = lasts[-1].failure if lasts else None
    if found is None or "inference.input=" in found[1]:  # a picture that was looked at: nothing of the pipeline
        return None
    command = _command(found[1], of=run_dir.root)
    way = f"to go on: {command}" if command else "type its whole command again to go on"
    return f"it did not finish: {_in_one_line(found[2])}; {way}"


@dataclass(frozen=True, slots=True)
class _Last:
    """The last record in the log of one command."""

    at: float
    """When it was written, in seconds: that in the log, for copied files have other times."""
    of: str
    """Name of the command."""
    failure: re.Match[str] | None
    """The command as typed, and its error, if the record tells one."""
    is_of_figures: bool
    """Whether that command may change figures and had not made them yet."""


def _last_records(run_dir: RunDir) -> list[_Last]:
    """Return the last record of each command that worked in a folder, in the order in which they were written."""
    lasts = []
    for path in run_dir.of_all_commands(run_dir.command_log):
        text = _end(path)
        record = next(iter(list(_RECORD.finditer(text))[-1:]), None)
        if record is None:
            continue
        failure = _FAILURE.match(text[record.end() :])
        stages = _STAGE.findall(text[: record.start()])
        has_figures = path.parent.name == "run" and stages[-1:] == ["report"]  # which comes after them
        is_of_figures = failure is not None and _is_of_figures(failure[1]) and not has_figures
        lasts.append(_Last(_seconds(record[1]), path.parent.name, failure, is_of_figures))
    return sorted(lasts, key=lambda last: last.at)


def _end(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _command(text: str, *, of: Path) -> str | None:
    """Return a command of a folder as it is typed in a shell; None if it does more: a log may come from anybody."""
    try:
        program, name, *settings = shlex.split(text)
    except ValueError:
        return None
    flags = settings[:1] if settings and settings[0].startswith(CONFIG_DIR) else []
    settings = settings[len(flags) :]
    if program != "usad" or not re.fullmatch(r"[a-z]+(-[a-z]+)*", name) or not all(map(_SETTING.fullmatch, settings)):
        return None
    if not all(can_be_offered(flag.removeprefix(CONFIG_DIR)) for flag in flags):
        return None
    keys = {setting.partition("=")[0].lstrip("+~"): setting.partition("=")[2] for setting in settings}
    elsewhere = os.path.realpath(keys.get("run_dir", "").strip("\"'")) != os.path.realpath(of)
    if elsewhere or any(is_of_one_command(key) for key in keys if key != "run_dir"):
        return None
    command = shlex.join(["usad", name, *flags, *settings])
    return command if command.isprintable() else None


def _in_one_line(text: str) -> str:
    """Return the first line of an error, with the next one where it announces others, and without what a terminal obeys."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    said += f" (and {len(lines) - 2} more)" if lines[0].endswith(":") and len(lines) > 2 else ""
    return "".join(letter if letter.isprintable() else "?" for letter in said[:_MAX_SHOWN])
