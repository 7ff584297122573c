"""What `usad` sets for torch before it is loaded: threads that wait sleep, and large tensors lie in huge pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import unmeasured

from us_anomaly import cli
from us_anomaly.cli.process_environment import ENVIRONMENT

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start(monkeypatch):
    monkeypatch.setattr("sys.argv", ["usad", "--version"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0


def test_waiting_threads_sleep_and_large_tensors_lie_in_huge_pages(monkeypatch):
    for variable in ENVIRONMENT:
        monkeypatch.setenv(variable, "")  # remembered, so that it is as before afterwards
        monkeypatch.delenv(variable)
    start(monkeypatch)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["KMP_BLOCKTIME"] == "0"
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    start(monkeypatch)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["KMP_BLOCKTIME"] == "200"
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="only where huge pages are given to those who ask",
)
@pytest.mark.parametrize(("value", "has_any"), [("1", True), ("0", False)])
def test_torch_still_reads_the_variable_for_huge_pages(value, has_any):
    code = (
        "import torch; numbers = torch.ones(64 << 20);"
        "line = next(line for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHugePages'));"
        "print(int(line.split()[1]) > 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=unmeasured() | {"THP_MEM_ALLOC_ENABLE": value}, capture_output=True, text=True
    )
    assert ended.stdout.strip() == str(has_any), ended.stderr
