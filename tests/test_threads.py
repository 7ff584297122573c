"""Threads of two commands on the same cores must not wait by spinning."""

import os

import pytest

from us_anomaly import cli


def start(monkeypatch):
    monkeypatch.setattr("sys.argv", ["usad", "--version"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0


def test_waiting_threads_sleep(monkeypatch):
    for variable in cli.THREADS_SLEEP:
        monkeypatch.setenv(variable, "")  # remembered, so that it is as before afterwards
        monkeypatch.delenv(variable)
    start(monkeypatch)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["KMP_BLOCKTIME"] == "0"


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    start(monkeypatch)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["KMP_BLOCKTIME"] == "200"
