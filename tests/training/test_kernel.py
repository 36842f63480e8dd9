"""A training run in a real Jupyter kernel that its user interrupts."""

import os
import queue
import time

import pytest
from jupyter_client.manager import start_new_kernel

from monkeylib import resources
from tests.support.interrupted_training import cell, last_step

LONGEST_SECONDS = 600  # on a machine that does much else


@pytest.fixture()
def kernel(tmp_path):
    """A kernel of this environment, and its client."""
    environment = {"PYTHONPATH": str(resources.REPOSITORY), "JUPYTER_PREFER_ENV_PATH": "1"}
    manager, client = start_new_kernel(cwd=str(tmp_path), env=os.environ | environment, kernel_name="python3")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(kernel, source, watch=lambda: None):
    """Run a cell and return its messages: [(type, content)]."""
    manager, client = kernel
    request = client.execute(source)
    messages, deadline = [], time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        watch()
        assert manager.is_alive(), messages[-3:]
        try:
            message = client.get_iopub_msg(timeout=0.1)
        except queue.Empty:
            continue
        messages.append((message["msg_type"], message["content"]))
        is_ours = message["parent_header"].get("msg_id") == request
        if is_ours and message["content"].get("execution_state") == "idle":
            return messages
    raise AssertionError(f"the cell has not ended: {messages[-3:]}")


def printed(messages):
    return "".join(content["text"] for kind, content in messages if kind == "stream")


def only_error(messages):
    (error,) = [content for kind, content in messages if kind == "error"]
    return error


def test_interrupted_kernel_leaves_a_run_that_goes_on(kernel, tmp_path):
    manager, _ = kernel
    folder, interrupted = tmp_path / "run", []

    def interrupt_twice():
        # As who clicks a second time at once.
        if not interrupted and last_step(folder):
            interrupted.append(True)
            manager.interrupt_kernel()
            manager.interrupt_kernel()

    messages = run_cell(kernel, cell(folder), interrupt_twice)

    # What is seen is one sentence, not a wall of calls, and no advice of how to leave IPython.
    error = only_error(messages)
    assert "which is saved: run it again to go on from there" in error["evalue"]
    assert sum(part.count("\n") for part in error["traceback"]) <= 4
    assert "To exit" not in printed(messages)
    assert "completing and saving the running step; interrupt again to end at once" in printed(messages)

    # The same kernel goes on behind the saved step.
    last = last_step(folder)
    messages = run_cell(kernel, cell(folder, stop_after=last + 2))
    assert f"steps {last + 1} to 2000" in printed(messages)
    assert last_step(folder) == last + 2

    # Who leaves a kernel otherwise is told as ever.
    assert "To exit" in printed(run_cell(kernel, "raise SystemExit"))


def test_further_interrupt_ends_the_cell_and_not_the_kernel(kernel, tmp_path):
    folder = tmp_path / "run"
    source = f"""
import os, signal, threading, time
from monkeylib.training import module
mine = 7

def wait(*_):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(60)

module.MonkeyTraining.training_step = wait
{cell(folder)}
"""
    error = only_error(run_cell(kernel, source))
    assert error["ename"] == "Interrupted" and error["evalue"] == "ended at once"
    assert printed(run_cell(kernel, "print(mine)")) == "7\n"
