import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from us_anomaly.errors import ResourceError, RunDirLockedError
from us_anomaly.run_dir import RunDir, lock, lock_owner
from us_anomaly.run_dir.lock import locked

HOLDER = textwrap.dedent(
    """
    import sys, time
    from us_anomaly.run_dir import RunDir
    from us_anomaly.run_dir.lock import locked

    with locked(RunDir(sys.argv[1]), command="usad run data=demo"):
        print("held", flush=True)
        time.sleep(60)
    """
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Wait for no other machine, and be in no job of Slurm."""
    monkeypatch.setattr(lock, "SETTLING_SECONDS", 0)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def holder(run_dir):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, run_dir.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def note(**changes: object) -> str:
    owner = {"pid": 4711, "host": socket.gethostname(), "boot_id": None, "since": "then", "command": "usad run"}
    return json.dumps(owner | changes)


def test_the_lock_says_who_holds_it_and_disappears_at_the_end(run_dir):
    with locked(run_dir, command="usad split data=demo"):
        owner = json.loads(run_dir.lock.read_text())
        assert owner["pid"] == os.getpid()
        assert owner["host"] == socket.gethostname()
        assert owner["command"] == "usad split data=demo"
    assert list(run_dir.root.iterdir()) == []


def test_the_lock_is_released_when_the_work_fails(run_dir):
    with pytest.raises(KeyboardInterrupt), locked(run_dir, command="usad"):
        raise KeyboardInterrupt
    with locked(run_dir, command="usad"):
        pass


def test_a_second_process_is_refused_with_the_owner_and_the_time(run_dir, holder):
    since = json.loads(run_dir.lock.read_text())["since"]
    with pytest.raises(RunDirLockedError) as caught, locked(run_dir, command="usad infer"):
        pytest.fail("two processes in one run directory")
    assert str(caught.value) == (
        f"{run_dir.root} is in use by `usad run data=demo` (process {holder.pid} on {socket.gethostname()}, since {since}): "
        "wait until it has finished, or choose another run_dir="
    )
    assert json.loads(run_dir.lock.read_text())["pid"] == holder.pid


def test_a_second_lock_in_the_same_process_is_refused_too(run_dir):
    with locked(run_dir, command="usad"), pytest.raises(RunDirLockedError), locked(run_dir, command="usad"):
        pytest.fail("two at once")


def test_the_lock_of_a_killed_process_is_taken_over_with_a_word(run_dir, holder, caplog):
    holder.kill()
    holder.wait()
    assert run_dir.lock.exists()
    with caplog.at_level("INFO"), locked(run_dir, command="usad"):
        assert json.loads(run_dir.lock.read_text())["pid"] == os.getpid()
    assert f"process {holder.pid} on" in caplog.text
    assert "which was killed" in caplog.text


def test_a_process_number_that_lives_again_as_another_process_does_not_matter(run_dir):
    run_dir.root.mkdir()
    run_dir.lock.write_text(note(pid=os.getppid()))  # alive, but it holds no lock
    with locked(run_dir, command="usad"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "null", note(pid="1"), note(restarts="1")])
def test_a_lock_file_without_an_owner_is_taken_over(run_dir, text):
    run_dir.root.mkdir()
    run_dir.lock.write_text(text)
    with locked(run_dir, command="usad"):
        pass


def test_the_lock_of_another_machine_is_refused_with_the_way_to_remove_it(run_dir):
    run_dir.root.mkdir()
    run_dir.lock.write_text(note(host="elsewhere", boot_id="another"))
    with pytest.raises(RunDirLockedError) as caught, locked(run_dir, command="usad"):
        pytest.fail("it may still be running")
    assert str(caught.value) == (
        f"{run_dir.root} was locked by `usad run` (process 4711 on elsewhere, since then), a machine that cannot be looked "
        f"into from here. If that process is gone, remove {run_dir.lock} and run the same command"
    )
    assert json.loads(run_dir.lock.read_text())["host"] == "elsewhere"
    run_dir.lock.unlink()
    with locked(run_dir, command="usad"):
        pass


def test_a_killed_container_of_this_machine_is_taken_over_though_its_host_name_differs(run_dir, monkeypatch):
    monkeypatch.setattr(lock_owner, "_boot_id", lambda: "this kernel")
    run_dir.root.mkdir()
    run_dir.lock.write_text(note(host="0a1b2c3d", boot_id="this kernel"))
    with locked(run_dir, command="usad"):
        pass


ELSEWHERE = {"host": "elsewhere", "boot_id": "another"}


@pytest.fixture
def leave_behind(run_dir):
    """Return a function that writes the file of a process that was killed."""

    def write(**changes: object) -> None:
        run_dir.root.mkdir(exist_ok=True)
        run_dir.lock.write_text(note(**changes))

    return write


def in_job(monkeypatch, number: str, *, restarts: str | None = None, cluster: str | None = None) -> None:
    variables = {"SLURM_JOB_ID": number, "SLURM_RESTART_COUNT": restarts, "SLURM_CLUSTER_NAME": cluster}
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)


def test_a_job_of_slurm_that_was_put_back_takes_over_from_itself_on_another_machine(
    run_dir, leave_behind, monkeypatch, caplog
):
    leave_behind(**ELSEWHERE, job="17 of big", restarts=1)
    in_job(monkeypatch, "17", restarts="2", cluster="big")
    with caplog.at_level("INFO"), locked(run_dir, command="usad"):
        owner = json.loads(run_dir.lock.read_text())
        assert (owner["job"], owner["restarts"]) == ("17 of big", 2)
    assert "on elsewhere, Slurm job 17 of big, since then), whose job was put back into the queue" in caplog.text


@pytest.mark.parametrize(
    ("number", "restarts", "cluster"),
    [
        ("17", None, "big"),  # the same job, started with several processes
        ("17", "1", "big"),  # the same, after it was put back
        ("18", "2", "big"),
        ("17", "2", "other"),
        ("17", "2", None),
        ("17", "many", "big"),
    ],
)
def test_any_other_process_of_slurm_does_not_take_over_from_another_machine(
    run_dir, leave_behind, monkeypatch, number, restarts, cluster
):
    leave_behind(**ELSEWHERE, job="17 of big", restarts=1)
    in_job(monkeypatch, number, restarts=restarts, cluster=cluster)
    with pytest.raises(RunDirLockedError, match="Slurm job 17 of big"), locked(run_dir, command="usad"):
        pytest.fail("it may still be running")
    assert json.loads(run_dir.lock.read_text())["host"] == "elsewhere"


def test_a_process_outside_of_slurm_is_not_taken_over_by_a_job(run_dir, leave_behind, monkeypatch):
    leave_behind(**ELSEWHERE)
    in_job(monkeypatch, "17", restarts="2")
    with pytest.raises(RunDirLockedError), locked(run_dir, command="usad"):
        pytest.fail("it may still be running")


def test_of_several_processes_of_a_job_that_was_put_back_the_one_that_wrote_last_goes_on(
    run_dir, leave_behind, monkeypatch
):
    """Two machines whose kernels know nothing of each other read the old owner at the same moment."""
    leave_behind(**ELSEWHERE, job="17", restarts=0)
    in_job(monkeypatch, "17", restarts="1")
    other = note(host="third", boot_id="third", job="17", restarts=1)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: run_dir.lock.write_text(other))
    with pytest.raises(RunDirLockedError, match=r"is in use by .* on third"), locked(run_dir, command="usad"):
        pytest.fail("two processes in one run directory")
    assert run_dir.lock.read_text() == other


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that knows no locks."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)


@pytest.mark.usefixtures("without_locks")
def test_where_the_file_system_knows_no_locks_a_living_owner_counts(run_dir):
    with locked(run_dir, command="usad"), pytest.raises(RunDirLockedError), locked(run_dir, command="usad"):
        pytest.fail("two at once")
    run_dir.lock.write_text(note(pid=2**22 + 1))  # beyond the largest process number
    with locked(run_dir, command="usad"):
        pass


@pytest.mark.usefixtures("without_locks")
def test_where_the_file_system_knows_no_locks_another_container_of_this_machine_is_not_taken_over(
    run_dir, leave_behind, monkeypatch
):
    monkeypatch.setattr(lock_owner, "_boot_id", lambda: "this kernel")
    leave_behind(host="0a1b2c3d", boot_id="this kernel")
    with pytest.raises(RunDirLockedError, match="cannot be looked into"), locked(run_dir, command="usad"):
        pytest.fail("it may still be running")


@pytest.mark.usefixtures("without_locks")
def test_a_file_that_is_still_empty_is_one_into_which_somebody_is_about_to_write(run_dir, monkeypatch):
    run_dir.root.mkdir()
    run_dir.lock.touch()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: run_dir.lock.write_text(note(pid=os.getppid())))
    with pytest.raises(RunDirLockedError, match=f"process {os.getppid()} on"), locked(run_dir, command="usad"):
        pytest.fail("two at once")


def test_the_owner_is_on_the_disk_before_the_work_begins(run_dir, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    with locked(run_dir, command="usad"):
        assert flushed == [run_dir.lock.stat().st_size]


def test_the_owner_of_a_lock_can_be_asked_for(run_dir):
    assert lock_owner.owner_at(run_dir.lock) is None
    with locked(run_dir, command="usad split"):
        owner = lock_owner.owner_at(run_dir.lock)
        assert owner is not None
        assert (owner.command, owner.job, owner.restarts) == ("usad split", None, 0)


def test_a_process_that_we_may_not_signal_is_alive(monkeypatch):
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert lock_owner.this_process("usad").is_alive


def test_a_lock_that_its_owner_removed_while_we_opened_it_is_not_taken(run_dir, monkeypatch):
    """Between opening and locking, the owner removes the file: the lock on the nameless file must not count."""
    run_dir.root.mkdir()
    genuine, times = lock._lock, []

    def remove_first(descriptor: int) -> bool:
        if not times:
            run_dir.lock.unlink()
        times.append(descriptor)
        return genuine(descriptor)

    monkeypatch.setattr(lock, "_lock", remove_first)
    with locked(run_dir, command="usad"):
        assert run_dir.lock.exists()
        assert len(times) == 2


def test_what_killed_processes_left_half_written_is_removed_and_nothing_else(run_dir):
    for name in ("p33", "provenance/p33", ".hydra/run", "inference/photo", "p33/.partial-folder/maps", "maps/a"):
        (run_dir.root / name).mkdir(parents=True, exist_ok=True)
    leftovers = (".partial-1", "p33/.partial-2", "provenance/p33/.partial-3", "inference/photo/.partial-4")
    others = ("split.jsonl", "p33/teacher.pt", "inference/photo/maps.tiff", "maps/a/b.tiff")
    for name in (*leftovers, *others, "p33/.partial-folder/maps/x"):
        (run_dir.root / name).write_text("")
    with locked(run_dir, command="usad"):
        pass
    left = sorted(path.relative_to(run_dir.root).as_posix() for path in run_dir.root.rglob("*") if path.is_file())
    assert left == sorted(others)
    assert not (run_dir.root / "p33/.partial-folder").exists()


def test_a_link_called_like_a_leftover_is_removed_but_not_followed(run_dir, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("kept")
    run_dir.root.mkdir()
    (run_dir.root / ".partial-link").symlink_to(tmp_path / "precious")
    with locked(run_dir, command="usad"):
        pass
    assert (tmp_path / "precious" / "x").read_text() == "kept"
    assert not (run_dir.root / ".partial-link").is_symlink()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_told_in_one_line(run_dir, monkeypatch, number):
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    run_dir.root.mkdir()
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ResourceError, match=r"cannot write .*\.lock: "), locked(run_dir, command="usad"):
        pytest.fail("not locked")


def test_a_disk_that_is_full_when_the_owner_is_written_down_is_told(run_dir, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match="the disk is full"), locked(run_dir, command="usad"):
        pytest.fail("not locked")
    monkeypatch.undo()
    assert not run_dir.lock.exists()
    with locked(run_dir, command="usad"):
        pass


def test_a_lock_file_that_cannot_be_removed_does_not_spoil_the_work(run_dir, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with locked(run_dir, command="usad"):
        monkeypatch.setattr(type(run_dir.lock), "unlink", fail)
    assert "cannot remove" in caplog.text
    monkeypatch.undo()
    with locked(run_dir, command="usad"):
        pass


def test_a_long_command_is_cut_in_the_refusal(run_dir):
    command = "usad run " + "data.root=/a/very/long/path " * 20
    with locked(run_dir, command=command), pytest.raises(RunDirLockedError) as caught, locked(run_dir, command="usad"):
        pytest.fail("two at once")
    assert "`usad run data.root=/a/very/long/path data.root=/a/very/long/ ...`" in str(caught.value)


FORKING_HOLDER = textwrap.dedent(
    """
    import os, sys, time
    from us_anomaly.run_dir import RunDir
    from us_anomaly.run_dir.lock import locked

    with locked(RunDir(sys.argv[1]), command="usad run data=demo"):
        if os.fork() == 0:
            print(os.getpid(), flush=True)  # from the child: its copies of the descriptors are closed by now
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    """
)


def test_a_forked_process_that_outlives_a_killed_one_does_not_keep_its_lock(run_dir):
    command = [sys.executable, "-c", FORKING_HOLDER, run_dir.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            os.kill(child, 0)  # it lives
            with locked(run_dir, command="usad b"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
