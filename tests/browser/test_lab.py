"""The notebooks in a real JupyterLab, as a user runs them: all cells, top to bottom, then the widgets.

Screenshots of each widget, before and after it was moved, lie in the temporary folder of the notebooks.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from jupyterlab.commands import get_app_dir
from nbformat.v4 import new_code_cell, new_notebook

from monkeylib import resources
from tests.support import interrupted_training
from tests.support.interrupted_training import last_step


@dataclass(frozen=True)
class Move:
    """What a user does with a control of a widget.

    Attributes:
        label: what stands before the control, as a regular expression.
        keys: to press on it, or a text to write; none where the mouse drags a slider.
        shows: a text that the widget then shows, if it is always the same.
    """

    label: str
    keys: str = ""
    shows: str = ""


# Those that end within a minute or two, and what each of them must show: at least so many figures, and other
# values when a widget is moved.
NOTEBOOKS = {
    "00_start_here": (1, [Move("question", "how much is the juice?", "tiles, LoRA per tile\n1.75")]),
    "02_lora_encoder": (3, [Move("block", "ArrowLeft")]),
    "06_evaluation": (3, [Move("of [0-9]+"), Move("of [0-9]+", "ArrowLeft")]),
    "08_visualization": (5, [Move("token", "ArrowRight"), Move("resampler")]),
}
IMAGES = ("image/png", "image/jpeg")
TOKEN = "of-this-test"
LONGEST_SECONDS = 1200
# What a user should not see on standard error beside bars and notes; nor should there be many lines of them.
ALARMS = ("Warning", "Error", "Traceback")
MOST_LINES = 10


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start JupyterLab on copies of the notebooks, and return its address and their folder."""
    folder = tmp_path_factory.mktemp("lab")
    environment = {name: value for name, value in os.environ.items() if name != "MONKEYLIB_OUTPUTS"}
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": str(resources.REPOSITORY)}
    # JupyterLab looks for what shows widgets in its own environment, and this one lies over the library's.
    environment["JUPYTER_PATH"] = str(Path(get_app_dir()).parent)
    command = [sys.executable, "-m", "monkeylib", "notebooks", folder]
    subprocess.run(command, env=environment, check=True, capture_output=True)

    runtime = folder / "runtime"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--notebook-dir={folder}"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(
            command, env=environment | {"JUPYTER_RUNTIME_DIR": str(runtime)}, stdout=log, stderr=log
        )
    try:
        yield _address(server, runtime), folder
    finally:
        server.terminate()
        server.wait(60)


def _address(server, runtime):
    """Wait until the server answers, and return its address."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            try:
                address = json.loads(file.read_text())["url"].replace("localhost", "127.0.0.1")
                urllib.request.urlopen(f"{address}api?token={TOKEN}", timeout=5).close()
                return address
            except (OSError, ValueError):  # it does not answer yet, or the file is not complete
                pass
        time.sleep(0.5)
    raise AssertionError("JupyterLab did not start")


@pytest.fixture()
def page(browser):
    """A page that may ask for badges elsewhere, which a machine without network shows as their texts."""
    page = browser.new_page(viewport={"width": 1240, "height": 900})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def repository_state():
    """Return which files of the repository differ from what is committed, and how."""
    command = ["git", "diff", "HEAD"]
    return subprocess.run(command, cwd=resources.REPOSITORY, capture_output=True, check=True).stdout


def open_notebook(page, address, path):
    """Open a notebook and wait until its kernel is there."""
    page.goto(f"{address}lab/tree/{path.name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook-cell")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")
    # Shown as idle, it may not be connected yet: JupyterLab would ask which kernel to run.
    page.wait_for_selector(".jp-StatusBar-TextItem:text('| Idle'), .jp-StatusBar-Item:has-text('| Idle')")
    page.wait_for_timeout(2000)


def choose_in_menu(page, menu, item):
    page.click(f".lm-MenuBar-itemLabel:text-is('{menu}')")
    page.click(f".lm-Menu-itemLabel:text-is('{item}')")


def displayed(widget):
    """Return the texts of a widget, and digests of the bytes of its images, as the page holds them."""
    return widget.evaluate(
        """async widget => {
            const digests = [...widget.querySelectorAll('img')].map(async image => {
                const bytes = await (await fetch(image.src)).arrayBuffer();
                return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).join(' ');
            });
            const texts = [...widget.querySelectorAll('.widget-html-content')].map(text => text.innerText);
            return [...await Promise.all(digests), ...texts];
        }"""
    )


def drag_slider(page, slider):
    """Drag the handle of a slider with the mouse, by half of the slider's length."""
    handle = slider.locator(".noUi-handle").bounding_box()
    length = slider.locator(".noUi-target").bounding_box()["width"]

    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + length / 2, y, steps=10)
    page.mouse.up()


def move_widget(page, move, screenshots):
    """Move a control of a widget in the page, and wait until the widget shows something else."""
    label = page.locator(f".widget-label:text-matches('^{move.label}$')")
    control = page.locator(".widget-slider, .widget-text").filter(has=label)
    widget = page.locator(".jp-OutputArea-output").filter(has=control)

    def take_screenshot(when):
        control.evaluate("control => control.scrollIntoView({block: 'center'})")
        page.wait_for_timeout(500)
        page.screenshot(path=f"{screenshots}-{when}.png")

    take_screenshot("before")
    before = displayed(widget)

    if not move.keys:
        drag_slider(page, control)
    elif field := control.locator("input[type=text]").all():
        field[0].fill(move.keys)
        field[0].press("Enter")
    else:
        control.locator(".noUi-handle").press(move.keys)

    deadline = time.monotonic() + 120
    after = displayed(widget)
    while time.monotonic() < deadline and (after == before or (move.shows and move.shows not in after)):
        page.wait_for_timeout(500)
        after = displayed(widget)
    take_screenshot("after")
    assert after != before and len(after) == len(before)
    assert not move.shows or move.shows in after


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_all_cells_run_in_jupyterlab_and_widgets_move_and_no_committed_file_changes(page, lab, name):
    address, folder = lab
    before = repository_state()

    # A last cell says that all others have ended; their outputs go, so that those of this run are seen.
    path, done = folder / f"{name}.ipynb", folder / f"{name}.done"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.append(new_code_cell(f"open({str(done)!r}, 'w').close()"))
    nbformat.write(notebook, path)

    open_notebook(page, address, path)
    choose_in_menu(page, "Run", "Run All Cells")

    failed = '[data-mime-type="application/vnd.jupyter.error"]'
    deadline = time.monotonic() + LONGEST_SECONDS
    while not done.exists() and not page.query_selector(failed) and time.monotonic() < deadline:
        page.wait_for_timeout(500)
    page.wait_for_timeout(2000)  # what the last cell has printed comes behind it
    page.keyboard.press("Control+s")
    page.wait_for_timeout(2000)

    outputs = [
        output
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert [output for output in outputs if output.output_type == "error"] == []
    for output in outputs:
        text = output.text if output.get("name") == "stderr" else ""
        assert not any(alarm in text for alarm in ALARMS) and text.count("\n") <= MOST_LINES, text
    assert done.exists()
    figures, moves = NOTEBOOKS[name]
    assert len([output for output in outputs if output.get("data", {}).keys() & set(IMAGES)]) >= figures

    for number, move in enumerate(moves):
        move_widget(page, move, folder / f"{name}-{number}")
    assert repository_state() == before


def test_interrupted_training_says_one_sentence_and_goes_on(page, lab):
    address, folder = lab
    path, run = folder / "interrupted.ipynb", folder / "run"
    # With the metadata of another notebook, so that no kernel has to be chosen.
    metadata = nbformat.read(folder / "00_start_here.ipynb", as_version=4).metadata
    nbformat.write(
        new_notebook(cells=[new_code_cell(interrupted_training.cell("run"))], metadata=metadata), path
    )

    def run_until_interrupted(step):
        choose_in_menu(page, "Run", "Run All Cells")
        deadline = time.monotonic() + LONGEST_SECONDS
        while last_step(run) < step and time.monotonic() < deadline:
            page.wait_for_timeout(200)
        choose_in_menu(page, "Kernel", "Interrupt Kernel")
        page.wait_for_selector(".jp-OutputArea-output:has-text('Interrupted')")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")
        return page.inner_text(".jp-OutputArea")

    open_notebook(page, address, path)
    shown = run_until_interrupted(2)
    assert "which is saved: run it again to go on from there" in shown
    assert not any(alarm in shown for alarm in ALARMS) and shown.count("\n") <= MOST_LINES, shown

    # The same cell goes on behind the saved step.
    first = last_step(run)
    shown = run_until_interrupted(first + 2)
    assert f"steps {first + 1} to 2000" in shown and last_step(run) >= first + 2
