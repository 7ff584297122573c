import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch

from us_anomaly.errors import DataError
from us_anomaly.models.compute import Compute
from us_anomaly.training import drawing_ahead
from us_anomaly.training.course import step_rng
from us_anomaly.training.drawing_ahead import drawn_ahead, drawn_by_a_thread, drawn_by_processes

CPU = Compute(torch.device("cpu"), torch.float32)
forks = pytest.mark.skipif(not drawing_ahead.FORKS, reason="this system cannot fork processes")


def drawn(batches, *, num_processes):
    return drawn_by_processes(batches, num_processes=num_processes) if num_processes else drawn_by_a_thread(batches)


def random_batch(step):
    rng = step_rng(7, stage="a stage", step=step + 100)
    return torch.cat([torch.rand(3), torch.from_numpy(rng.random(3)).float()])


def test_the_next_batch_is_drawn_meanwhile():
    seen, prepared = [], threading.Event()

    def batches(step):
        seen.append((step, threading.current_thread().name))
        if step == 6:
            prepared.set()
        return torch.tensor([step])

    with drawn_by_a_thread(batches) as ahead:
        for step in (-2, -3, 0, 1, 5):
            assert int(ahead(step)) == step
        assert prepared.wait(10)
    assert all(name.startswith("pictures") for _, name in seen)
    assert [step for step, _ in seen if step in (-3, 1)] == [-3, 1]  # once each: what was drawn ahead was used


@forks
@pytest.mark.parametrize("num_processes", [0, 1, 3])
def test_batches_come_in_the_order_they_are_asked_for_and_nobody_changes_them(num_processes):
    order = [-1, -2, -3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 2, -4, -5]
    with drawn(random_batch, num_processes=num_processes) as ahead:
        shown = [ahead(step) for step in order]
    for step, batch in zip(order, shown, strict=True):
        assert torch.equal(batch, random_batch(step)), step


@forks
@pytest.mark.parametrize("num_processes", [0, 2])
def test_a_picture_that_cannot_be_read_is_reported_in_one_line_when_its_step_comes(num_processes):
    def batches(step):
        if step == 2:
            raise DataError("damaged: a.png")
        return torch.tensor([step])

    with drawn(batches, num_processes=num_processes) as ahead:
        assert int(ahead(1)) == 1  # step 2 fails in the background now
        with pytest.raises(DataError) as caught:
            ahead(2)
    assert str(caught.value) == "damaged: a.png"


@forks
def test_processes_draw_side_by_side_and_end_with_the_training():
    with drawn_by_processes(lambda step: torch.tensor([os.getpid()]), num_processes=2) as ahead:
        drawers = {int(ahead(step)) for step in range(6)}
        assert len(drawers) == 2
        assert os.getpid() not in drawers
    assert not multiprocessing.active_children()


@forks
def test_processes_end_when_the_training_fails():
    def train():
        with drawn_by_processes(random_batch, num_processes=2) as ahead:
            ahead(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("wanted", "device", "expected"),
    [(None, "cpu", 0), (None, "cuda", 5), (0, "cuda", 0), (3, "cpu", 3), (40, "cuda", 40)],
)
def test_processes_draw_where_a_graphics_card_computes_or_where_they_are_asked_for(
    compose, monkeypatch, wanted, device, expected
):
    monkeypatch.setattr(drawing_ahead, "available_cores", lambda: 6)
    monkeypatch.setattr(drawing_ahead, "drawn_by_a_thread", lambda batches: 0)
    monkeypatch.setattr(drawing_ahead, "drawn_by_processes", lambda batches, num_processes: num_processes)
    monkeypatch.setattr(drawing_ahead, "FORKS", True)
    runtime = replace(compose("run", "data.root=unused").runtime, num_drawing_processes=wanted)
    compute = replace(CPU, device=torch.device(device))
    assert drawn_ahead(random_batch, runtime=runtime, compute=compute) == expected


def test_a_system_that_cannot_fork_draws_in_a_thread_and_says_so_where_more_was_asked_for(compose, monkeypatch, caplog):
    monkeypatch.setattr(drawing_ahead, "FORKS", False)
    runtime = replace(compose("run", "data.root=unused").runtime, num_drawing_processes=4)
    with drawn_ahead(random_batch, runtime=runtime, compute=CPU) as ahead:
        assert torch.equal(ahead(0), random_batch(0))
        assert any(thread.name.startswith("pictures") for thread in threading.enumerate())
    assert "runtime.num_drawing_processes=4: processes draw on Linux only" in caplog.text


@forks
def test_signals_to_all_processes_end_none_that_draws():
    """As `timeout`, batch systems and a terminal send them."""
    with drawn_by_processes(lambda step: torch.tensor([float(os.getpid())]), num_processes=2) as ahead:
        drawers = {int(ahead(step)) for step in range(8)}
        for drawer in drawers:
            os.kill(drawer, signal.SIGTERM)
            os.kill(drawer, signal.SIGINT)
        assert {int(ahead(step)) for step in range(8, 40)} == drawers


@forks
def test_processes_end_when_the_wait_for_a_batch_is_interrupted():
    def slow(step):
        time.sleep(0.3 if step else 0)
        return torch.zeros(1)

    def interrupt(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with drawn_by_processes(slow, num_processes=1) as ahead:
            ahead(0)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            for step in range(1, 20):
                ahead(step)
    except KeyboardInterrupt:
        assert not multiprocessing.active_children()  # while the exception still holds the frames
    else:
        pytest.fail("nothing was interrupted")
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_machine_of_many_cores_draws_by_a_few_processes(compose, monkeypatch):
    monkeypatch.setattr(drawing_ahead, "available_cores", lambda: 112)
    monkeypatch.setattr(drawing_ahead, "FORKS", True)
    monkeypatch.setattr(drawing_ahead, "drawn_by_processes", lambda batches, num_processes: num_processes)
    runtime = compose("run", "data.root=unused").runtime
    assert drawn_ahead(random_batch, runtime=runtime, compute=replace(CPU, device=torch.device("cuda"))) == 8
