"""Signals end the work of a command with one sentence and an exit code of their own."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver

import pytest

from monkeylib import signals
from monkeylib.cli import app

each_signal = pytest.mark.parametrize("number", signals.NUMBERS, ids=signals.name)


@each_signal
def test_signal_leaves_the_block_and_restores_the_handlers(number):
    previous = signal.getsignal(number)
    cleaned_up = []

    with pytest.raises(signals.Interrupted, match=signals.name(number)) as raised, signals.end_at_once():
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned_up.append(True)

    assert raised.value.code == 128 + number
    assert cleaned_up == [True]
    assert signal.getsignal(number) == previous


@contextlib.contextmanager
def closing(closed):
    """A generator's clean-up gets a signal, too."""
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        closed.append("context")


@each_signal
def test_further_signals_let_the_cleaning_up_finish(number):
    closed = []
    with pytest.raises(signals.Interrupted, match=signals.name(number)), signals.end_at_once():
        try:
            with closing(closed):
                os.kill(os.getpid(), number)
        finally:
            # The signal to a group comes to its first process twice.
            os.kill(os.getpid(), number)
            closed.append("block")

    assert closed == ["context", "block"]


def test_signal_while_another_interruption_leaves_the_block_is_ignored():
    with pytest.raises(signals.Interrupted, match="step 2 is saved"), signals.end_at_once():
        try:
            raise signals.Interrupted("step 2 is saved", signals.EXIT_SAVED)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)


def test_later_interrupt_of_a_user_ends_the_process_at_once():
    script = (
        "import os, signal, time; from monkeylib import signals\n"
        "signals._SAME_INTERRUPT = 0.1\n"
        "with signals.end_at_once():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        time.sleep(0.2); os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('cleaning up', flush=True); os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('not reached', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        130,
        "cleaning up\n",
        "\nmonkeylib: ended at once\n",
    )


def test_sentence_tells_what_has_become_of_the_work_where_that_is_known():
    for outcome, sentence in [
        ("", "interrupted by SIGTERM"),
        ("x is kept", "interrupted by SIGTERM: x is kept"),
    ]:
        with (
            pytest.raises(signals.Interrupted) as raised,
            signals.end_at_once(),
            signals.say_when_interrupted(outcome),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        assert str(raised.value) == sentence

    with pytest.raises(signals.Interrupted) as raised, signals.end_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert str(raised.value) == "interrupted by SIGTERM"


def test_signal_that_is_ignored_from_the_start_stays_ignored():
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with signals.end_at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_signal_that_was_held_back_comes_through_while_it_is_handled():
    """As in a process whose fork server was started while signals were held back."""
    received = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with signals.handle(lambda number, _: received.append(number)):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert received == [signal.SIGUSR1]
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())

        # Also one that came before, to this thread: another one might not hold it back.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        with pytest.raises(signals.Interrupted, match="SIGUSR1"), signals.end_at_once():
            pass
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_other_threads_change_no_handlers():
    handlers = []

    def work():
        with signals.end_at_once():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_process_that_starts_while_signals_are_blocked_never_gets_them():
    script = "print('ready', flush=True); input(); print('alive')"
    with signals.blocked():
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    assert process.stdout.readline() == "ready\n"
    for number in signals.NUMBERS:
        process.send_signal(number)
    assert process.communicate("\n", timeout=30)[0] == "alive\n"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(signals.NUMBERS) == set()


@each_signal
def test_process_obeys_its_parent_alone(number):
    script = (
        "import time; from monkeylib import signals; signals.obey_parent_alone();"
        "print('ready', flush=True); time.sleep(120)"
    )
    with signals.blocked():
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"

    # A shell sends it, as a scheduler would.
    subprocess.run(["kill", f"-{int(number)}", str(child.pid)], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)

    child.send_signal(number)
    assert child.wait(30) == 0
    child.stdout.close()


def obey(connection):
    """Say when signals of the parent end this process, and wait for one."""
    signals.obey_parent_alone()
    connection.send("ready")
    time.sleep(120)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_process_of_a_fork_server_obeys_who_has_started_it(method):
    context = multiprocessing.get_context(method)
    forkserver.ensure_running()  # outside of the block, or all that other tests start would get no SIGUSR1
    ours, theirs = context.Pipe()
    child = context.Process(target=obey, args=(theirs,), daemon=True)
    with signals.blocked():
        child.start()
    assert ours.poll(60) and ours.recv() == "ready"

    subprocess.run(["kill", "-TERM", str(child.pid)], check=True)
    child.join(0.3)
    assert child.is_alive()

    child.terminate()
    child.join(30)
    is_ended = not child.is_alive()
    child.kill()
    assert is_ended


@each_signal
@pytest.mark.parametrize("rank", ["0", "1"])
def test_command_ends_with_one_sentence_of_its_first_process(monkeypatch, capsys, number, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(app, "app", lambda: os.kill(os.getpid(), number))

    with pytest.raises(SystemExit) as ended:
        app.main()

    assert ended.value.code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}[number]
    sentence = f"monkeylib: interrupted by {signals.name(number)}"
    output = capsys.readouterr().err.strip()
    assert output.startswith(sentence) if rank == "0" else output == ""
    assert output.count("\n") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_that_comes_while_an_object_is_freed_is_not_lost(number, capsys):
    """Python drops what is raised there, and prints a traceback."""

    class Freed:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    start = time.monotonic()
    with pytest.raises(signals.Interrupted) as interruption, signals.end_at_once():
        freed = Freed()
        del freed
        time.sleep(20)
    assert interruption.value.code == 128 + number
    assert time.monotonic() - start < 10
    assert capsys.readouterr().err == ""
