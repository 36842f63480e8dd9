"""Files of weights, checked before a tensor is read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

import monkeylib
from monkeylib.checkpoints import weight_files
from monkeylib.checkpoints.weight_files import explain_broken, file_inside, open_weights
from monkeylib.monkey import Monkey


def write_weights(folder, **files):
    """Write files of weights, each with the shapes of its tensors, and their index."""
    file_of = {}
    for name, shapes in files.items():
        tensors = {key: torch.ones(shape) for key, shape in shapes.items()}
        save_file(tensors, folder / f"{name}.safetensors")
        file_of |= dict.fromkeys(tensors, f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    return folder


def test_headers_tell_what_the_files_hold(tmp_path):
    weights = open_weights(write_weights(tmp_path, one={"a": (2, 3)}, two={"b": (4,), "c": ()}))
    assert weights.files == {"one.safetensors": ["a"], "two.safetensors": ["b", "c"]}
    assert {key: tuple(tensor.shape) for key, tensor in weights.shapes.items()} == {
        "a": (2, 3), "b": (4,), "c": ()
    }  # fmt: skip
    assert all(tensor.is_meta for tensor in weights.shapes.values())
    assert weights.path_of("c") == tmp_path / "two.safetensors"

    with weights.open() as tensors:
        assert tensors["a"].get_shape() == [2, 3] and torch.equal(tensors["a"].read(), torch.ones(2, 3))


def test_values_that_are_not_finite_are_said_when_they_have_been_read(tmp_path):
    save_file({"a": torch.tensor([1.0, torch.nan]), "b": torch.ones(1)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    with weights.open() as tensors:
        assert tensors["b"][...] == 1, "what is not read is not checked"
    with pytest.raises(ValueError, match="a in .*model.safetensors holds 1 of 2 values"):
        with weights.open() as tensors:
            tensors["a"][...]


def test_missing_unexpected_and_reshaped_tensors_are_named(tmp_path):
    weights = open_weights(write_weights(tmp_path, one={"a": (2, 3), "b": (4,)}))
    weight_files.check_tensors(weights, {"a": (2, 3), "b": (4,), "c": (1,)}, optional=["c"])
    for expected, sentence in [
        ({"a": (2, 3), "b": (4,), "c": (1,)}, "lack c: fetch them again"),
        ({"a": (2, 3)}, r"hold b .one.safetensors., which config.json knows nothing of"),
        ({"a": (3, 2), "b": (4,)}, r"a in .*one.safetensors has the shape \[2, 3\].*asks for \[3, 2\]"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            weight_files.check_tensors(weights, expected)


def test_folder_of_another_name_is_not_left_by_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="the new checkpoint could not be written .No space left on device"):
        with weight_files.create_folder(tmp_path / "new") as folder:
            (folder / "half").write_text("1")
            raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_links_of_a_hub_cache_are_followed(sound, tmp_path):
    cache = tmp_path / "models--a--b"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in sound.iterdir():
        shutil.copy(path, blobs / f"digest-of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/digest-of-{path.name}")

    assert isinstance(monkeylib.load_model(snapshot, device="cpu"), Monkey)

    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(sound / "config.json")
    with pytest.raises(ValueError, match="leads out of its folder"):
        file_inside(snapshot, "config.json")


def test_lack_of_memory_is_not_taken_for_a_broken_file():
    with pytest.raises(RuntimeError, match="can't allocate memory"), explain_broken("model"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB")
    with (
        pytest.raises(ValueError, match="^model is cut off or is no file of weights"),
        explain_broken("model"),
    ):
        raise RuntimeError("invalid header")
