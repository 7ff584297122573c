import errno
import logging

import pytest

from us_anomaly.errors import ResourceError, StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.command_log import recorded

log = logging.getLogger("us_anomaly.test")


def test_configuration_and_log_of_a_command_are_kept(tmp_path):
    run_dir = RunDir(tmp_path)
    for number in range(2):
        texts = {run_dir.command_configuration("split"): f"seed: {number}\n"}
        with recorded(run_dir, command="split", texts=texts):
            log.warning("said %d", number)
    log.warning("not said")
    folder = tmp_path / ".hydra" / "split"
    assert (folder / "config.yaml").read_text() == "seed: 1\n"
    lines = (folder / "log.txt").read_text().splitlines()
    assert [line.split("WARNING ")[1] for line in lines] == ["us_anomaly.test: said 0", "us_anomaly.test: said 1"]


def test_a_refused_command_leaves_the_configuration_of_what_is_there(tmp_path):
    run_dir = RunDir(tmp_path)
    with recorded(run_dir, command="run", texts={run_dir.command_configuration("run"): "seed: 0\n"}):
        pass
    for command in ("run", "calibrate"):
        texts = {run_dir.command_configuration(command): "seed: 1\n"}
        with pytest.raises(StaleArtifactError), recorded(run_dir, command=command, texts=texts):
            raise StaleArtifactError("students.pt was made with other settings")
    assert (tmp_path / ".hydra/run/config.yaml").read_text() == "seed: 0\n"
    assert not (tmp_path / ".hydra/calibrate/config.yaml").exists()


def test_the_log_is_closed_when_the_command_fails(tmp_path):
    before = list(logging.getLogger().handlers)
    with pytest.raises(ValueError, match="x"), recorded(RunDir(tmp_path), command="split", texts={}):
        raise ValueError("x")
    assert logging.getLogger().handlers == before


def test_a_log_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / ".hydra" / "split" / "log.txt").mkdir(parents=True)
    with (
        pytest.raises(ResourceError, match=r"cannot write .*log\.txt"),
        recorded(RunDir(tmp_path), command="split", texts={}),
    ):
        pytest.fail("no log")


def test_a_full_disk_does_not_print_a_traceback_for_every_line_of_the_log(tmp_path, capsys):
    class Full:
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    with recorded(RunDir(tmp_path), command="split", texts={}):
        handler = logging.getLogger().handlers[-1]
        assert isinstance(handler, logging.FileHandler)
        handler.stream.close()
        handler.stream = Full()
        log.warning("lost")
    assert "Traceback" not in capsys.readouterr().err


def test_names_that_are_no_utf8_are_logged_all_the_same(tmp_path):
    with recorded(RunDir(tmp_path), command="split", texts={}):
        log.warning("bad name %s", "\udcff")
    assert "\\udcff" in (tmp_path / ".hydra" / "split" / "log.txt").read_text()
