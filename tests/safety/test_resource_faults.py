"""A full disk, a folder that cannot be written, pictures that vanish, exhausted memory: one line, and nothing is lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import forked
import pytest
import torch
from conftest import draw_parts
from torture import contents, differences

import us_anomaly
from us_anomaly.commands import calibrate, evaluate, infer, normalize, run, split, train_students
from us_anomaly.errors import BadImageError, DataError, ResourceError, StaleArtifactError, UsadError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.faults import explained
from us_anomaly.scoring import regions
from us_anomaly.training import regression

STAGES = {
    "split": (split, "split.ratios=60-20-20"),
    "normalize": (normalize, "teacher.statistics_positions=dense"),
    "train-students": (train_students, "students.steps=4"),
    "calibrate": (calibrate, "calibration.pixel_quantile=0.9"),
    "infer": (infer, "inference.save_heatmaps=false"),
    "evaluate": (evaluate, "evaluation.bootstrap_samples=10"),
}


def usad(*arguments: str, before: tuple[str, ...] = (), stdout: object = subprocess.PIPE):
    """Run `usad` as a process of its own, where a copy would not do."""
    command = [*before, sys.executable, "-c", forked.USAD, *arguments]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=200, env=forked.unmeasured()
    )


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.name.startswith(".partial-"))


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("call", ["fsync", "mkstemp"])
def test_a_full_disk_in_any_stage_is_one_line_and_leaves_every_artifact_as_it_was(
    trained_copy, compose, tiny, monkeypatch, name, call
):
    module, change = STAGES[name]
    before = contents(trained_copy)
    settings = compose("run", *tiny(trained_copy, change, "overwrite=true"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else tempfile, call, full)
    with pytest.raises(ResourceError, match="the disk is full; free some space") as caught, explained():
        module.run(settings)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert differences(before, contents(trained_copy)) == []
    assert leftovers(trained_copy) == []


@pytest.mark.parametrize("call", ["add", "finish"])
def test_a_disk_that_fills_up_in_the_middle_of_the_regions_is_told_with_the_file(
    trained_copy, compose, tiny, monkeypatch, call
):
    before = contents(trained_copy)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(regions.CocoWriter, call, full)
    with pytest.raises(
        ResourceError, match=r"cannot write .*/regions\.json: the disk is full; .*What was there before is un"
    ):
        infer.run(compose("run", *tiny(trained_copy, "overwrite=true")))
    assert differences(before, contents(trained_copy)) == []
    assert leftovers(trained_copy) == []


def test_a_folder_that_may_not_be_written_is_told_with_the_way_out(trained_copy, compose, tiny, monkeypatch):
    before = contents(trained_copy)
    settings = compose("run", *tiny(trained_copy, "students.steps=4", "overwrite=true"))

    def forbidden(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkstemp", forbidden)
    with pytest.raises(ResourceError, match="it cannot be written; make it writable, or choose another run_dir="):
        train_students.run(settings)
    monkeypatch.undo()
    assert differences(before, contents(trained_copy)) == []


@pytest.fixture(scope="module")
def bound_by_permissions() -> tuple[str, ...]:
    """What to put before a command so that permissions stop it: nothing, or for the superuser to give up its privilege."""
    if os.geteuid() != 0:
        return ()
    before = ("setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override")
    probe = 'cd "$(mktemp -d)" && chmod 555 . && touch x 2>/dev/null && echo unbound; rmdir "$PWD"'
    if shutil.which("setpriv") is not None:
        done = subprocess.run([*before, "sh", "-c", probe], capture_output=True, text=True, check=False)
        if (done.returncode, done.stdout) == (0, ""):
            return before
    pytest.skip("permissions do not stop the superuser, and its privilege cannot be given up here")


@pytest.mark.parametrize(
    ("folder", "command", "change"),
    [("", "evaluate", "evaluation.bootstrap_samples=10"), ("p33", "train-students", "students.steps=4")],
)
def test_a_read_only_folder_is_told_by_the_command_and_everything_stays(
    trained_copy, tiny, bound_by_permissions, folder, command, change
):
    before = contents(trained_copy)
    (trained_copy / folder).chmod(0o555)
    try:
        done = usad(command, *tiny(trained_copy, change, "overwrite=true"), before=bound_by_permissions)
    finally:
        (trained_copy / folder).chmod(0o755)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"usad: cannot write {trained_copy / folder}")
    assert "it cannot be written; make it writable, or choose another run_dir=" in last
    assert "Traceback" not in done.stderr
    assert differences(before, contents(trained_copy)) == []
    assert leftovers(trained_copy) == []


def test_a_file_in_the_place_of_the_run_directory_is_told_by_the_command(tmp_path, tiny):
    (tmp_path / "file").write_text("not a folder")
    done = forked.run(forked.USAD, "split", *tiny(tmp_path / "file" / "run"), is_measured=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"usad: cannot write {tmp_path / 'file' / 'run'}: a file stands where a folder should be; "
        "remove it, or choose another run_dir=. What was there before is untouched\n"
    )


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_one_line_with_exit_code_1_and_the_command_can_go_on_later(trained_copy, tiny):
    before = contents(trained_copy)
    arguments = ["train-students", *tiny(trained_copy, "students.steps=7", "overwrite=true")]
    limited = forked.run(forked.USAD, *arguments, limits=[(resource.RLIMIT_FSIZE, 20_000)])
    assert limited.returncode == 1
    path = trained_copy / "p33" / "students.resume.pt"
    assert limited.stderr.splitlines()[-1] == (
        f"usad: cannot write {path}: files may not grow that large here; raise the limit (ulimit -f), or choose another "
        "run_dir=. What was there before is untouched"
    )
    assert "Traceback" not in limited.stderr
    after = contents(trained_copy)
    assert differences(before | {"p33/students.losses.jsonl": after["p33/students.losses.jsonl"]}, after) == []
    assert leftovers(trained_copy) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_a_disk_that_is_really_full_is_one_line_and_when_there_is_space_again_the_command_goes_on(
    trained, small_disk, tiny
):
    run_dir = Path(shutil.copytree(trained, small_disk / "run"))
    before = contents(run_dir)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 60_000))
    arguments = ["infer", *tiny(run_dir, "overwrite=true")]
    full = forked.run(forked.USAD, *arguments)
    assert full.returncode == 1
    assert "the disk is full; free some space, or choose another run_dir=" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert differences(before, contents(run_dir)) == []
    assert leftovers(run_dir) == []
    filler.unlink()
    again = forked.run(forked.USAD, *arguments)
    assert again.returncode == 0, again.stderr
    assert differences(before, contents(run_dir)) == []


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_a_read_only_file_system_is_told_by_the_command_and_the_detector_there_can_still_be_used(
    trained, small_disk, tiny
):
    run_dir = Path(shutil.copytree(trained, small_disk / "run"))
    before = contents(run_dir)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = forked.run(forked.USAD, "evaluate", *tiny(run_dir, "overwrite=true"))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"usad: cannot write {run_dir}")
    assert "it cannot be written; make it writable, or choose another run_dir=" in last
    assert us_anomaly.load(run_dir, device="cpu").calibration is not None
    assert differences(before, contents(run_dir)) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_on_a_full_disk_is_one_line_too():
    with Path("/dev/full").open("w") as full:
        done = usad("--version", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("usad: the disk is full")


# --- pictures that vanish ----------------------------------------------------------------------------------------


@pytest.fixture
def own_parts(tmp_path) -> Path:
    return draw_parts(tmp_path / "own")


def test_a_picture_that_vanishes_between_two_stages_is_noticed_before_anything_is_computed(
    own_parts, tmp_path, compose, tiny
):
    arguments = tiny(tmp_path / "run", f"data.root={own_parts}")
    split.run(compose("split", *arguments))
    before = contents(tmp_path / "run")
    (own_parts / "images/good/003.png").unlink()
    with pytest.raises(
        StaleArtifactError, match=r"from another list of pictures \(1 missing: images/good/003\.png\)\."
    ):
        run.run(compose("run", *arguments))
    assert differences(before, contents(tmp_path / "run")) == []


def test_a_picture_that_vanishes_in_the_middle_of_a_stage_is_named(own_parts, tmp_path, compose, tiny, monkeypatch):
    arguments = tiny(tmp_path / "run", f"data.root={own_parts}")
    split.run(compose("split", *arguments))
    before = contents(tmp_path / "run")
    from us_anomaly.commands import distill_teacher

    genuine = distill_teacher.distill

    def after_a_loss(*positional: object, **named: object) -> None:
        shutil.rmtree(own_parts / "images/good")
        genuine(*positional, **named)

    monkeypatch.setattr(distill_teacher, "distill", after_a_loss)
    with pytest.raises(BadImageError, match=r"images/good/\d+\.png: it does not exist"):
        distill_teacher.run(compose("run", *arguments))
    assert differences(before, contents(tmp_path / "run")) == []


def test_a_data_set_that_vanishes_as_a_whole_is_told_by_its_key(trained_copy, tmp_path, compose, tiny):
    settings = compose("run", *tiny(trained_copy, f"data.root={tmp_path / 'gone'}"))
    with pytest.raises(DataError, match=r"data\.root=.*gone: it does not exist"):
        infer.run(settings)


def test_pictures_that_vanish_before_scoring_leave_the_old_results(own_parts, tmp_path, compose, tiny, monkeypatch):
    arguments = tiny(tmp_path / "run", f"data.root={own_parts}")
    run.run(compose("run", *arguments))
    before = contents(tmp_path / "run")
    genuine = infer.build_detector

    def after_a_loss(*positional: object) -> object:
        (own_parts / "images/cut/001.png").unlink()
        return genuine(*positional)

    monkeypatch.setattr(infer, "build_detector", after_a_loss)
    with pytest.raises(BadImageError, match=r"images/cut/001\.png: it does not exist"):
        infer.run(compose("run", *arguments, "overwrite=true"))
    assert differences(before, contents(tmp_path / "run")) == []


# --- exhausted memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "the memory is exhausted (MemoryError); smaller settings help: students.window_px=128,"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
            "the memory of the device is exhausted (CUDA out of memory. Tried to allocate 20.00 GiB.); smaller settings help:",
        ),
    ],
)
def test_exhausted_memory_in_a_training_names_the_settings_that_help_and_keeps_everything(
    trained_copy, compose, tiny, monkeypatch, error, told
):
    before = contents(trained_copy)
    settings = compose("run", *tiny(trained_copy, "students.steps=4", "overwrite=true"))

    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(regression, "regression_loss", exhausted)
    with pytest.raises(UsadError) as caught, explained():
        train_students.run(settings)
    assert str(caught.value).startswith(told)
    assert "image_size=192" in str(caught.value)
    assert differences(before, contents(trained_copy)) == []


@pytest.mark.slow
def test_a_process_without_enough_memory_says_so_in_one_line(trained_copy, tiny):
    """Let the kernel grant less address space than one batch needs."""
    limit = 8 << 30
    entries = "{name: Resize, params: {size: [1500, 1500]}}, {name: ToDtype, params: {dtype: float32, scale: true}}"
    huge = f"augmentation.students=[{entries}]"
    done = forked.run(
        forked.USAD,
        "train-students",
        *tiny(trained_copy, "overwrite=true", "students.width=8", "students.positions=dense", huge),
        limits=[(resource.RLIMIT_AS, limit)],
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("usad: the memory is exhausted (")
    assert RunDir(trained_copy).students(33).exists()
