"""A training run in a real Jupyter kernel that its user interrupts."""

import os
import time

from jupyter_client.manager import start_new_kernel

from monkeylib import resources

LONGEST_SECONDS = 120
CELL = """
from monkeylib.profiles import load_profile
from monkeylib.training import finetune
profile = load_profile("smoke").with_training(steps=2000, save_every_steps=1)
finetune.run(profile, {folder!r}, stop_after={stop_after})
"""


def run_cell(client, cell, after_each=lambda: None):
    """Run a cell and return its messages: [(type, content)]."""
    request = client.execute(cell)
    messages, deadline = [], time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        after_each()
        try:
            message = client.get_iopub_msg(timeout=0.1)
        except Exception:  # no message yet
            continue
        messages.append((message["msg_type"], message["content"]))
        is_ours = message["parent_header"].get("msg_id") == request
        if is_ours and message["content"].get("execution_state") == "idle":
            return messages
    raise AssertionError(f"the cell has not ended: {messages[-3:]}")


def printed(messages):
    return "".join(content["text"] for kind, content in messages if kind == "stream")


def last_step(folder):
    return max(int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/step-*.ckpt"))


def test_interrupted_kernel_leaves_a_run_that_goes_on(tmp_path):
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(resources.REPOSITORY)}
    manager, client = start_new_kernel(cwd=str(tmp_path), env=environment, kernel_name="python3")
    interrupted = []

    def interrupt_after_a_step():
        if not interrupted and list(folder.glob("checkpoints/*.ckpt")):
            interrupted.append(True)
            manager.interrupt_kernel()

    try:
        cell = CELL.format(folder=str(folder), stop_after=None)
        messages = run_cell(client, cell, interrupt_after_a_step)

        # What is seen is one sentence, not a wall of calls, and no advice of how to leave IPython.
        (error,) = [content for kind, content in messages if kind == "error"]
        assert "which is saved: run it again to go on from there" in error["evalue"]
        assert sum(part.count("\n") for part in error["traceback"]) <= 4
        assert "To exit" not in printed(messages)

        # The same kernel goes on behind the saved step.
        last = last_step(folder)
        messages = run_cell(client, CELL.format(folder=str(folder), stop_after=last + 2))
        assert f"steps {last + 1} to 2000" in printed(messages)
        assert last_step(folder) == last + 2
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
