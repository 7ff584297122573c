from pathlib import Path

import pytest

from us_anomaly.reporting.summary import Summary, as_stage, next_command, show_summary, working_in


def test_a_summary_shows_facts_paths_and_the_next_command(tmp_path, capsys):
    path = tmp_path / "split.jsonl"
    path.touch()
    show_summary(
        Summary(command="split", facts=[("pictures", "7")], written=[("split", path)], next_command="distill-teacher")
    )
    printed = capsys.readouterr().out
    lines = [line.strip("│ ") for line in printed.splitlines()]
    assert lines[0].strip() == "usad split"
    assert any(line.split() == ["pictures", "│", "7"] for line in lines)
    assert any(line.split() == ["split", "│", str(path)] for line in lines)
    assert any(line.endswith("usad distill-teacher, with the same settings") for line in lines)


def test_a_path_is_never_cut_or_wrapped_in_a_file(tmp_path, capsys):
    path = tmp_path / ("a long folder [bold] " * 10) / "file"
    path.parent.mkdir(parents=True)
    path.touch()
    show_summary(Summary(command="x", written=[("file", path)]))
    assert str(path) in capsys.readouterr().out


def test_what_was_not_written_is_left_out(tmp_path, capsys):
    show_summary(Summary(command="x", facts=[("a", "b")], written=[("maps", tmp_path / "maps")]))
    assert "maps" not in capsys.readouterr().out


def test_a_stage_of_a_larger_command_prints_no_summary(capsys):
    with as_stage():
        show_summary(Summary(command="x", facts=[("a", "b")]))
    assert capsys.readouterr().out == ""
    show_summary(Summary(command="x", facts=[("a", "b")]))
    assert "usad x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "command", "expected"),
    [
        ("run_dir=runs/demo", "infer", "usad infer run_dir=runs/demo"),
        ('run_dir="a b"', "evaluate", "usad evaluate 'run_dir=\"a b\"'"),
        ("run_dir=x", "infer inference.input=PICTURE", "usad infer run_dir=x inference.input=PICTURE"),
    ],
)
def test_the_next_command_names_the_run_directory_which_remembers_the_rest(override, command, expected):
    with working_in(override):
        assert next_command(command) == expected


def test_outside_of_the_command_line_the_next_command_has_no_overrides():
    assert next_command("infer") == "usad infer, with the same settings"


def test_markup_in_a_path_is_only_text(tmp_path, capsys):
    path = Path(tmp_path / "[red]x[")
    path.touch()
    show_summary(Summary(command="x", written=[("file", path)]))
    assert "[red]x[" in capsys.readouterr().out
