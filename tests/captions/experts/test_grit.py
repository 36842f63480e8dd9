"""GRIT in another process: the real runner, on stand-ins for detectron2 and GRIT with their interfaces."""

import os
import pickle
import sys
import time

import pytest
from PIL import Image

from monkeylib.captions import experts
from monkeylib.captions.experts import grit

DETECTRON_CONFIG = """
class Node(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__

    def merge_from_file(self, path):
        self["FILE"] = open(path).read()

    def freeze(self):
        object.__setattr__(self, "frozen", True)


def get_cfg():
    combine = Node()
    return Node(MODEL=Node(ROI_HEADS=Node(), PANOPTIC_FPN=Node(COMBINE=combine)))
"""
DETECTRON_ENGINE = '''
import os, time


class List(list):
    def tolist(self):
        return list(self)


class Boxes:
    def __init__(self, rows):
        self.tensor = List(rows)


class Text:
    def __init__(self, data):
        self.data = data


class Instances:
    """Three objects: one named after the brightest channel, one with an empty box, one without a name."""

    def __init__(self, height, width, name, config):
        outside = [-3.0, 1.0, width / 2, height + 9.0]
        empty = [5.0, 5.0, 5.0, 9.0]
        small = [0.0, 0.0, 2.0, 2.0]
        self.pred_boxes = Boxes([outside, empty, small])
        self.scores = List([0.75, 0.9, 0.8])
        self.pred_object_descriptions = Text([f" a {name}  thing ", "nothing", " "])

    def to(self, device):
        assert device == "cpu"
        return self


class DefaultPredictor:
    def __init__(self, config):
        print("loading", config.FILE, "on", config.MODEL.DEVICE)  # as libraries do, on standard output
        assert config.frozen and config.CENTERNET and config.GRIT and config.MODEL.TEST_TASK == "DenseCap"
        assert config.MODEL.BEAM_SIZE == 1 and config.MODEL.ROI_HEADS.SOFT_NMS_ENABLED is False
        assert config.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.5
        if "broken" in open(config.MODEL.WEIGHTS).read():
            raise RuntimeError("weights of another architecture")
        self.config = config

    def __call__(self, image):
        print("looking")
        assert image.dtype == "uint8" and image.ndim == 3
        blue, green, red = map(int, image[0, 0])  # detectron2 takes BGR
        if (red, green, blue) == (0, 0, 0):
            raise ValueError("too dark")
        if (red, green, blue) == (1, 1, 1):
            import sys
            print("out of memory", file=sys.stderr, flush=True)
            os._exit(9)
        if (red, green, blue) == (2, 2, 2):
            time.sleep(30)
        name = max([(red, "red"), (green, "green"), (blue, "blue")])[1]
        return {"instances": Instances(image.shape[0], image.shape[1], name, self.config)}
'''


@pytest.fixture()
def checkout(tmp_path, monkeypatch):
    """The files of a GRIT checkout that the runner imports."""
    root = tmp_path / "a checkout"
    files = {
        "detectron2/__init__.py": "",
        "detectron2/config.py": DETECTRON_CONFIG,
        "detectron2/engine/__init__.py": "",
        "detectron2/engine/defaults.py": DETECTRON_ENGINE,
        "grit/__init__.py": "",
        "grit/config.py": "def add_grit_config(config):\n    config.GRIT = True\n",
        "grit/predictor.py": "",
        "third_party/CenterNet2/projects/CenterNet2/centernet/__init__.py": "",
        "third_party/CenterNet2/projects/CenterNet2/centernet/config.py": (
            "def add_centernet_config(config):\n    config.CENTERNET = True\n"
        ),
        "configs/GRiT_B_DenseCap_ObjectDet.yaml": "the configuration",
        grit.DEFAULT_WEIGHTS: "weights",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    monkeypatch.setenv(grit.PYTHON, sys.executable)
    monkeypatch.setenv(grit.CHECKOUT, str(root))
    monkeypatch.delenv(grit.WEIGHTS, raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # the runner needs nothing of this library
    return root


@pytest.fixture()
def expert(checkout):
    grit_expert = grit.GritRegions(device="cpu", start_timeout=100, image_timeout=20)
    yield grit_expert
    grit_expert.release()


def flat(*colour):
    """An image of one colour, by which the stand-in decides what to do."""
    return Image.new("RGB", (40, 20), colour)


def test_regions_come_from_the_other_process(expert):
    expert.prepare()
    outputs = expert.annotate([flat(200, 3, 3), flat(3, 3, 200)])

    assert [[region.text for region in item.regions] for item in outputs] == [
        ["a red thing"],
        ["a blue thing"],
    ]

    (region,) = outputs[0].regions
    assert region.box == (0, 1, 20, 20) and region.score == 0.75, "clipped to the image"
    assert region.expert == "grit" and region.kind == "region"

    process = expert._process
    # The process serves several calls.
    assert len(expert.annotate([flat(3, 200, 3)])) == 1 and expert._process is process
    assert expert.annotate([]) == []


def test_failing_image_raises_and_the_next_call_works(expert):
    with pytest.raises(RuntimeError, match="GRIT failed on an image: ValueError: too dark"):
        expert.annotate([flat(9, 3, 3), flat(0, 0, 0)])
    # The next call starts a new process.
    (output,) = expert.annotate([flat(9, 3, 3)])
    assert output.regions[0].text == "a red thing"


def test_dead_process_raises_and_is_restarted(expert):
    with pytest.raises(RuntimeError, match="ended with code 9: out of memory"):
        expert.annotate([flat(1, 1, 1)])
    (output,) = expert.annotate([flat(3, 9, 3)])
    assert output.regions[0].text == "a green thing"


def test_hanging_process_is_killed(expert):
    expert.prepare()
    running = expert._process._popen
    expert.image_timeout = 0.5
    start = time.monotonic()

    with pytest.raises(RuntimeError, match="didn't answer within 0.5 seconds"):
        expert.annotate([flat(2, 2, 2)])
    assert time.monotonic() - start < 15 and running.returncode is not None


def test_weights_that_cannot_be_loaded_raise(expert, checkout):
    intact_version = expert.version
    (checkout / grit.DEFAULT_WEIGHTS).write_text("broken")

    assert expert.version != intact_version
    with pytest.raises(RuntimeError, match="GRIT couldn't be loaded: RuntimeError: weights of another"):
        expert.prepare()


def test_release_ends_the_process_and_pickles_leave_it_out(expert):
    expert.prepare()
    running = expert._process._popen

    assert pickle.loads(pickle.dumps(expert))._process is None

    expert.release()
    assert running.returncode == 0, "it ends by itself when its input does"
    assert expert._process is None


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (grit.PYTHON, None, "MONKEYLIB_GRIT_PYTHON has to name the interpreter .* expert florence2"),
        (grit.CHECKOUT, None, "MONKEYLIB_GRIT has to name the checkout"),
        (grit.PYTHON, "no/python", "interpreter no/python isn't there: correct MONKEYLIB_GRIT_PYTHON"),
        (grit.WEIGHTS, "no.pth", "weights .*no.pth aren't there: .*MONKEYLIB_GRIT_WEIGHTS"),
    ],
)
def test_missing_setup_raises_and_names_the_variable(checkout, monkeypatch, name, value, complaint):
    monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    expert = grit.GritRegions(device="cpu")

    assert expert.provenance.version, "known before anything is set up"
    with pytest.raises(FileNotFoundError, match=complaint):
        expert.annotate([flat(9, 9, 9)])


def test_grit_is_loaded_by_name_without_being_set_up(monkeypatch):
    for name in (grit.PYTHON, grit.CHECKOUT, grit.WEIGHTS):
        monkeypatch.delenv(name, raising=False)
    (expert,) = experts.load_experts(["grit"])

    assert isinstance(expert, grit.GritRegions) and expert.licence == "MIT"
    assert expert.version == "grit_b_densecap@missing" and os.environ.get(grit.PYTHON) is None
