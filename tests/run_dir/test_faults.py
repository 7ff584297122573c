import errno
import os
from pathlib import Path

import pytest
import torch

from us_anomaly.errors import DataError, ResourceError
from us_anomaly.run_dir.faults import cannot_read, cannot_write, explain, explained, is_out_of_memory

HELP = "students.window_px=128, teacher.batch_size=16, image_size=192, runtime.precision=bfloat16"


def fault(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "/x: the disk is full; free some space, or choose another run_dir=, then run the same command"),
        (errno.EDQUOT, "/x: the disk is full; free some space, or choose another run_dir=, then run the same command"),
        (errno.EACCES, "/x: it cannot be written; make it writable, or choose another run_dir="),
        (errno.EROFS, "/x: it cannot be written; make it writable, or choose another run_dir="),
        (errno.ENOTDIR, "/x: a file stands where a folder should be; remove it, or choose another run_dir="),
        (errno.ENOENT, "/x: it is gone; put it back, then run the same command"),
        (
            errno.EMFILE,
            "/x: too many files are open; raise the limit (ulimit -n), or lower runtime.num_workers and "
            "runtime.num_drawing_processes",
        ),
        (errno.EIO, f"/x: {os.strerror(errno.EIO)}; mend that, or choose another run_dir=, then run the same command"),
    ],
)
def test_faults_of_the_system_are_told_with_the_way_out(number, message):
    assert str(explain(fault(number, "/x"))) == message


def test_a_fault_without_a_file_is_told_without_one():
    assert str(explain(fault(errno.ENOSPC))).startswith("the disk is full; ")


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("shape mismatch"), OSError("decoder"), BrokenPipeError(32, "x")]
)
def test_our_own_mistakes_and_closed_pipes_are_not_explained_away(error):
    assert explain(error) is None
    with pytest.raises(type(error)), explained():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."
        ),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_exhausted_memory_is_told_with_the_settings_that_help(error):
    assert is_out_of_memory(error)
    explanation = str(explain(error))
    assert explanation.startswith("the memory is exhausted (")
    assert explanation.endswith(f"); smaller settings help: {HELP}")


def test_exhausted_memory_of_a_device_also_names_the_processor_as_a_way_out():
    text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 10 GiB.\nSee documentation"
    explanation = str(explain(torch.OutOfMemoryError(text)))
    assert explanation == (
        "the memory of the device is exhausted (CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of "
        f"10 GiB.); smaller settings help: {HELP}; or compute on the processor with runtime.device=cpu"
    )


def test_what_torch_says_at_length_is_cut():
    assert len(str(explain(RuntimeError("out of memory " + "x" * 5000)))) < 500


def test_the_allocator_of_torch_really_raises_what_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_within_explained_a_full_disk_becomes_an_error_of_ours():
    with pytest.raises(ResourceError, match="the disk is full") as caught, explained():
        raise fault(errno.ENOSPC)
    assert isinstance(caught.value.__cause__, OSError)


def test_errors_of_ours_pass_unchanged():
    with pytest.raises(DataError, match=r"^mine$"), explained():
        raise DataError("mine")


def test_what_cannot_be_read_is_told_apart_from_what_cannot_be_written():
    path = Path("/x")
    assert str(cannot_read(path, fault(errno.EACCES))) == "cannot read /x: this user may not; change its permissions"
    assert str(cannot_read(path, fault(errno.EIO))) == f"cannot read /x: {os.strerror(errno.EIO)}"
    assert str(cannot_write(path, fault(errno.EROFS))) == (
        "cannot write /x: it cannot be written; make it writable, or choose another run_dir=. What was there before is untouched"
    )


def test_a_drawing_process_that_was_killed_is_told_with_the_setting_that_helps():
    error = RuntimeError("DataLoader worker (pid 42) is killed by signal: Killed. ")
    assert "runtime.num_drawing_processes=2" in str(explain(error))
