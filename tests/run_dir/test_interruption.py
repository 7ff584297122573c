import os
import signal
import threading

import pytest

from us_anomaly.run_dir.interruption import Interrupted, deferred, held_back, interruptible


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_stops_the_work_and_says_which(number, name):
    with pytest.raises(Interrupted, match=f"^stopped by {name}$") as caught, interruptible():
        send(number)
    assert caught.value.signal_number == number


def test_an_error_in_the_place_of_the_signal_does_not_hide_it():
    def clumsy() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            raise UnboundLocalError("cannot access local variable 'f'")

    with pytest.raises(Interrupted, match="SIGTERM") as caught, interruptible():
        clumsy()
    assert isinstance(caught.value.__cause__, UnboundLocalError)


def test_an_error_without_a_signal_is_left_as_it_is():
    with pytest.raises(ValueError, match="a fault of its own"), interruptible():
        raise ValueError("a fault of its own")


def test_the_handlers_of_before_are_back_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible(), deferred(lambda number: None):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_deferred_signal_is_noted_and_the_work_goes_on():
    noted = []
    with deferred(noted.append):
        send(signal.SIGTERM)
        noted.append("went on")
    assert noted == [signal.SIGTERM, "went on"]


def test_a_second_signal_stops_at_once():
    noted: list[int] = []

    def work() -> None:
        with deferred(noted.append):
            send(signal.SIGTERM)
            send(signal.SIGINT)
            pytest.fail("not stopped")

    with pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert noted == [signal.SIGTERM]


def test_a_signal_that_is_held_back_comes_at_the_end_even_if_the_step_fails():
    went_on = []

    def work() -> None:
        with held_back():
            send(signal.SIGTERM)
            went_on.append(True)
            raise ValueError("a fault of its own")

    with pytest.raises(Interrupted, match="SIGTERM") as caught, interruptible():
        work()
    assert went_on
    assert isinstance(caught.value.__context__, ValueError)


def test_two_signals_that_were_held_back_still_count_as_two():
    noted: list[int] = []

    def work() -> None:
        with deferred(noted.append), held_back():
            send(signal.SIGTERM)
            send(signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert noted == [signal.SIGTERM]


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_is_installed_and_nothing_fails():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
