"""Signals end the work of a command with one sentence and an exit code of their own."""

import os
import signal
import subprocess
import sys
import threading

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


def test_signal_that_is_ignored_from_the_start_stays_ignored():
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with signals.end_at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, previous)


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
