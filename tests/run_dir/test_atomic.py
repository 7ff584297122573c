import errno
import json
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from us_anomaly.errors import ArtifactError, ResourceError, TrainingError
from us_anomaly.run_dir import atomic
from us_anomaly.run_dir.atomic import (
    flush_folder,
    read_json,
    read_tensors,
    write_atomically,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_is_replaced_by_the_whole_new_one(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "old")
    write_text(tmp_path / "a" / "b.txt", "näu")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "näu".encode()
    assert names(tmp_path / "a") == ["b.txt"]


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept"
    write_bytes(path, b"old")

    def half(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_full_disk_at_any_call_leaves_the_old_file_and_one_clear_line(tmp_path, monkeypatch, call):
    path = tmp_path / "kept"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(ResourceError) as caught:
        write_bytes(path, b"new")
    assert str(caught.value) == (
        f"cannot write {path}: the disk is full; free some space, or choose another run_dir=, then run the same command. "
        "What was there before is untouched"
    )
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    write_bytes(path, b"old")

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data: bytes) -> int:
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="the disk is full"):
        write_atomically(path, lambda file: Full(file).write(b"new" * 1000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


def test_a_folder_that_may_not_be_written_is_told_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.tempfile, "mkstemp", failing(errno.EACCES))
    with pytest.raises(ResourceError, match="it cannot be written; make it writable, or choose another run_dir="):
        write_bytes(tmp_path / "x", b"")


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(ResourceError, match="a file stands where a folder should be"):
        write_bytes(tmp_path / "folder" / "x", b"")
    assert (tmp_path / "folder").read_text() == "a file"


def test_files_get_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_bytes_are_flushed_before_the_name_changes_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_bytes(tmp_path / "x", b"1")
    assert calls == ["file", "replace", "folder"]


def test_a_file_system_that_cannot_flush_folders_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    flush_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        flush_folder(tmp_path)


def test_json_comes_back_as_it_was_and_ends_with_a_line_break(tmp_path):
    write_json(tmp_path / "x.json", {"ä": [1, None, 0.1]})
    assert read_json(tmp_path / "x.json") == {"ä": [1, None, 0.1]}
    assert (tmp_path / "x.json").read_text(encoding="utf-8").endswith("}\n")


def test_json_never_holds_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "", '{"x": NaN}', '{"x": -Infinity}', "[" * 100_000, "\xff\xfe\x00"])
def test_what_is_no_json_is_told_with_the_file_and_the_way_out(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        ArtifactError, match=r"x\.json is not valid JSON .*; delete it and run the command that makes it"
    ):
        read_json(tmp_path / "x.json")


def test_a_json_file_that_cannot_be_read_is_no_damaged_one(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(ResourceError, match=r"cannot read .*x\.json: Is a directory"):
        read_json(tmp_path / "x.json")


def test_tensors_come_back_and_equal_states_give_equal_bytes(tmp_path):
    state = {"weights": torch.arange(6.0).reshape(2, 3), "step": 3, "names": ["a"], "nested": {1: torch.ones(2)}}
    write_tensors(tmp_path / "a.pt", state)
    write_tensors(tmp_path / "other-name.pt", {**state, "weights": state["weights"].clone()})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other-name.pt").read_bytes()
    back = read_tensors(tmp_path / "a.pt")
    assert torch.equal(back["weights"], state["weights"])
    assert back["nested"][1].tolist() == [1, 1]


def test_the_bytes_do_not_depend_on_which_equal_texts_are_one_object(tmp_path):
    one = "".join(["a", " text"])
    other = "".join(["a", " text"])
    assert one is not other
    write_tensors(tmp_path / "shared.pt", {one: [one, (one,)], "x": {one: 1}})
    write_tensors(tmp_path / "apart.pt", {one: [other, (other,)], "x": {other: 1}})
    assert (tmp_path / "shared.pt").read_bytes() == (tmp_path / "apart.pt").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_never_written(tmp_path, value):
    path = tmp_path / "x.pt"
    write_tensors(path, {"parts": {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}})
    before = path.read_bytes()
    bad = {"parts": {"optimizer": {"state": {0: {"exp_avg": torch.tensor([1.0, value])}}}}}
    with pytest.raises(TrainingError, match=r"parts\.optimizer\.state\.0\.exp_avg holds values that are not finite"):
        write_tensors(path, bad)
    with pytest.raises(TrainingError, match=r"weights\.1 holds values that are not finite"):
        write_tensors(path, {"weights": [torch.ones(1), torch.tensor(value)]})
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "zeros"])
def test_a_damaged_checkpoint_is_told_with_the_file_and_the_way_out(tmp_path, damage):
    path = tmp_path / "x.pt"
    write_tensors(path, {"weights": torch.ones(1000)})
    whole = path.read_bytes()
    contents = {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello", "zeros": bytes(len(whole))}
    path.write_bytes(contents[damage])
    with pytest.raises(ArtifactError, match=r"x\.pt .*damaged .*delete it and run the command that makes it") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_no_dictionary_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match="holds a list where a checkpoint is a dictionary"):
        read_tensors(tmp_path / "x.pt")


def test_exhausted_memory_is_not_mistaken_for_damage(tmp_path, monkeypatch):
    write_tensors(tmp_path / "x.pt", {"a": torch.ones(1)})

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", exhausted)
    with pytest.raises(MemoryError):
        read_tensors(tmp_path / "x.pt")


def test_a_checkpoint_that_is_missing_is_not_mistaken_for_damage(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot read .*x\.pt: No such file or directory"):
        read_tensors(tmp_path / "x.pt")


def test_json_on_disk_is_plain_json(tmp_path):
    write_json(tmp_path / "x.json", {"a": "ö"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": "ö"}


def test_a_checkpoint_that_was_cut_off_anywhere_is_damaged(tmp_path):
    path = tmp_path / "x.pt"
    write_tensors(path, {"format_version": 1, "error": {"mean": torch.zeros(12, 12), "std": torch.ones(12, 12)}})
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="it is damaged"):
            read_tensors(path)


def test_threads_that_write_leave_the_umask_as_it_is(tmp_path):
    before = os.umask(0o027)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(lambda: {atomic._umask() for _ in range(2000)}) for _ in range(4)]:
                assert done.result() == {0o027}
        assert os.umask(0o027) == 0o027
    finally:
        sys.setswitchinterval(interval)
        os.umask(before)
