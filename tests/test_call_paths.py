"""One piece of data goes through few files, and doesn't throw its reader about between folders."""

import importlib.util
import sys

import pytest

from monkeylib import resources

FILE = resources.REPOSITORY / "benchmarks" / "call_paths.py"
spec = importlib.util.spec_from_file_location("call_paths", FILE)
call_paths = importlib.util.module_from_spec(spec)
sys.modules["call_paths"] = call_paths  # dataclasses look their module up
spec.loader.exec_module(call_paths)

Call = call_paths.Call


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("training", "model/monkey.py"),
        ("captions", "captions/composers/rules.py"),
        ("prediction", "model/monkey.py"),
        ("answer", "model/monkey.py"),
    ],
)
def test_way_stays_within_its_limits(name, file):
    way = call_paths.WAYS[name]
    calls = call_paths.follow(way)

    assert file in {call.file for call in calls}, "it has been recorded"
    assert call_paths.count_files(calls) <= way.files
    assert call_paths.count_changes(calls) <= way.changes


def test_files_directly_in_the_library_are_one_folder():
    calls = [Call("images.py", "f", 0), Call("tiling.py", "g", 1), Call("data/records.py", "h", 1)]
    assert call_paths.count_files(calls) == 3 and call_paths.count_changes(calls) == 1
    assert call_paths.count_changes([*calls, calls[0]]) == 2


def test_calls_between_the_start_and_the_end_are_recorded():
    from monkeylib import boxes

    def work():
        boxes.area((0, 0, 1, 1))
        boxes.enclosing_box((0, 0, 1, 1), (0, 0, 2, 2))  # comprehensions are no calls
        boxes.iou((0, 0, 1, 1), (0, 0, 2, 2))
        boxes.area((0, 0, 1, 1))

    recorder = call_paths.Recorder(start="enclosing_box", end="iou")
    functions = [call.function for call in recorder.run(work)]
    assert functions == ["enclosing_box", "iou", "intersection_area", "area", "area"]
    assert {call.file for call in recorder.calls} == {"boxes.py"}
    assert sys.getprofile() is None
