"""Tests that SIGTERM and Ctrl-C end a program at once or at its next check, and always in time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from utils import preemption
from utils.preemption import Preempted


def send(signum):
    os.kill(os.getpid(), signum)
    time.sleep(0.01)  # the handler runs between two instructions


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_raises_and_the_previous_handler_is_restored(signum, code):
    before = signal.getsignal(signum)
    with pytest.raises(Preempted) as caught, preemption.handled():
        send(signum)
        raise AssertionError("not reached")
    assert caught.value.exit_code == code
    assert str(caught.value) == signum.name
    assert signal.getsignal(signum) is before


def test_a_signal_waits_in_a_training_loop_and_not_in_an_evaluation():
    reached = []
    with pytest.raises(Preempted), preemption.handled(), preemption.deferred():
        assert not preemption.received()
        send(signal.SIGTERM)
        reached.append("loop")
        assert preemption.received()
        with preemption.at_once():
            reached.append("evaluation")
    assert reached == ["loop"]
    # A later block does not see the earlier signal.
    with preemption.handled(), preemption.deferred():
        preemption.leave_if_asked()
        with pytest.raises(Preempted), preemption.at_once():
            send(signal.SIGTERM)
            reached.append("evaluation")
    assert reached == ["loop"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_wait(first):
    with pytest.raises(Preempted), preemption.handled(), preemption.deferred():
        send(first)
        send(signal.SIGINT)
        raise AssertionError("not reached")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_another_sigterm_waits_until_the_loop_has_saved(first):
    """A scheduler may signal a job that its sweep has signalled already."""
    saved = []
    with pytest.raises(Preempted), preemption.handled(), preemption.deferred():
        send(first)
        send(signal.SIGTERM)
        saved.append(preemption.received())
        preemption.leave_if_asked()
    assert saved == [True]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_process_that_cannot_run_handlers_ends_after_a_grace_time(signum, code):
    """A long call in C, such as a compilation, keeps Python's handlers from running."""
    program = (
        "import hashlib\n"
        "from utils import preemption\n"
        "with preemption.handled(0.5):\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.2)
            process.send_signal(signum)
            assert process.wait(20) == code
            assert process.stderr.read() == (
                f"stopped by {signum.name} before it could save; the same command resumes"
                " from the last checkpoint\n"
            )
        finally:
            process.kill()
