"""Checkpoints in the released layout: loaded and trained on; broken ones are refused."""

import json
import os
import subprocess
import sys
import weakref

import pytest
import torch

import monkeylib
from monkeylib import profiles
from monkeylib.checkpoints import convert, released
from monkeylib.checkpoints.key_map import build_key_map
from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.checkpoints.released_config import config_from_released
from monkeylib.data.records import Record
from monkeylib.experiments import parity
from monkeylib.fields import differences
from monkeylib.profiles import build, trainable
from monkeylib.tiling import Grid
from monkeylib.training.batches import ExampleEncoder
from monkeylib.training.fingerprint import training_fingerprint
from monkeylib.training.synthetic_records import synthetic_data
from tests.support.released_files import golden_settings, read, same, write


@pytest.mark.parametrize("converted", [False, True])
def test_golden_weights_answer_with_the_golden_ids(converted, tmp_path):
    folder = write(tmp_path / "golden", golden_settings(), parity.released_weights())
    if converted:
        convert.convert_from_released(folder, tmp_path / "converted")
        folder = tmp_path / "converted"

    monkey = monkeylib.load_model(folder, device="cpu")
    about = parity.golden_facts("lmm_896")
    prompt, image = (
        about["prompts"]["single"],
        monkey.processor.image_processor(parity.golden_folder() / "a.png"),
    )
    ids = torch.tensor([[*prompt["before"], *monkey.processor.image_ids(), *prompt["after"]]])
    new = monkey.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **image,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=511,
        max_new_tokens=24,
    )

    assert new[0, ids.shape[1] :].tolist() == about["greedy"]["single"]

    texts = ("a question", " a question")

    assert (
        len(
            {
                len(monkey.processor(images=parity.golden_folder() / "a.png", text=t)["input_ids"][0])
                for t in texts
            }
        )
        == 2
    )
    assert monkey.processor.separator == " "


def test_released_folder_is_trained_on_and_saved_in_either_layout(golden, make_image, tmp_path):
    profile = profiles.load_profile("paper-896").model_copy(update={"base_checkpoint": str(golden)})
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoder = ExampleEncoder(processor, profile.training.max_length)
    example = encoder.encode(
        Record.from_turns("0", (make_image(),), ((" what? Answer: ", "a cat"),), "x", "x")
    )
    batch = encoder.collate([example], [encoder.encode_images(example)])
    batch.pop("turns")
    model(**batch).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    trainable.save_trained(model.eval(), model.state_dict(), processor, profile, tmp_path / "converted")
    convert.convert_to_released(tmp_path / "converted", tmp_path / "back")

    for folder in ("converted", "back"):
        after = load_checkpoint(tmp_path / folder).state_dict()
        assert same(after, model.state_dict())
        moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        assert all("_lora." in name for name in moved if name.startswith("vision."))
        assert {"vision.blocks.0.mlp_lora.lora_B", "language_model.lm_head.weight"} <= moved
        assert "resampler.proj.weight" not in moved
        again = load_processor(tmp_path / folder)
        assert again.separator == processor.separator == " "


def test_changed_base_weights_change_the_fingerprint(golden):
    """So that training neither resumes nor counts as finished on another base model."""
    profile = profiles.load_profile("paper-896").model_copy(update={"base_checkpoint": str(golden)})
    before, again = (training_fingerprint(profile, synthetic_data(profile))[0] for _ in range(2))
    assert before == again and sum(name.endswith(".bin") for name in before["base"]) == 3

    tensors = torch.load(golden / SHARD)
    # One changed weight is enough.
    tensors[min(tensors)] += 1
    torch.save(tensors, golden / SHARD)

    after, _ = training_fingerprint(profile, synthetic_data(profile))
    assert list(differences(before, after)) == [f"base.{SHARD}"]


def test_profile_that_does_not_fit_the_released_folder_raises(golden):
    quantised, plain = profiles.load_profile("paper-896-qlora"), profiles.load_profile("paper-896")
    shared = plain.lora.model_copy(update={"mode": "shared"})
    small = plain.lora.model_copy(update={"mlp_rank": 8})
    for profile, complaint in (
        (quantised, "not quantised on the way: convert it with `monkeylib convert"),
        (plain.model_copy(update={"lora": shared}), "the lora_mode per_tile, .* asks for shared"),
        (plain.model_copy(update={"lora": small}), "the mlp_rank 32, .* asks for 8"),
    ):
        profile = profile.model_copy(update={"base_checkpoint": str(golden)})
        with pytest.raises(ValueError, match=complaint):
            build.build_model(profile, build.build_processor(profile))


def test_one_shard_is_in_memory_at_a_time(golden, monkeypatch, tmp_path):
    # Weak references, which tell whether a tensor still lives.
    held, original = [], released.read_finite

    def reading(path):
        assert [ref for ref in held if ref() is not None] == []
        shard = original(path)
        held[:] = [weakref.ref(tensor) for tensor in shard.values()]
        return shard

    monkeypatch.setattr(released, "read_finite", reading)
    released.load_released(golden)
    convert.convert_from_released(golden, tmp_path / "converted")

    assert held


MEASURE = """
import sys
from pathlib import Path
from monkeylib.checkpoints import convert, released

def peak():  # since the last call
    [line] = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM:")]
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) * 1024

folder = Path(sys.argv[1])
released.load_released(folder / "small")  # so that what is imported on the way is there already
peak()
before = peak()
convert.convert_from_released(folder / "large", folder / "converted")
print(peak() - before)
before = peak()
model = released.load_released(folder / "large")
print(peak() - before)
print([name for name in ("lightning", "ray", "gradio") if name in sys.modules])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_is_that_of_one_shard_and_the_model(tmp_path):
    write(tmp_path / "small", golden_settings(), parity.released_weights())
    settings = golden_settings() | {
        "vocab_size": 40_000,
        "intermediate_size": 2 * 16_384,
        "num_hidden_layers": 14,
    }
    shapes = {entry.released_key: entry.shape for entry in build_key_map(config_from_released(settings))}
    weights = {key: torch.ones(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}
    write(tmp_path / "large", settings, weights, shards=7)
    all_bytes = sum(tensor.nbytes for tensor in weights.values())
    shard = max(file.stat().st_size for file in (tmp_path / "large").glob("*.bin"))

    assert all_bytes > 150e6 and shard < all_bytes / 4

    program = [sys.executable, "-c", MEASURE, str(tmp_path)]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    converting, loading = map(int, output[:2])

    assert converting < 2 * shard + 30e6, (converting, shard)
    assert all_bytes * 0.9 < loading < all_bytes + shard + 30e6, (loading, all_bytes, shard)
    assert output[2] == "[]", "libraries that only training and engines need are not imported"


def base(tmp_path):
    """Write a folder like Qwen-VL's: one view of 448 pixels, no LoRA."""
    settings = golden_settings(image_size=448)
    del settings["visual"]["lora_repeat_num"]
    weights = {key: tensor for key, tensor in parity.released_weights().items() if "_lora." not in key}
    return write(tmp_path / "base", settings, weights)


def test_qwen_vl_gets_fresh_lora_for_the_requested_grid(tmp_path):
    folder = base(tmp_path)
    model = load_checkpoint(folder)
    assert model.config.grids == [[2, 2]]

    lora = model.vision.blocks[1].attention.qkv_lora
    assert lora.lora_A.abs().max() > 0
    assert not lora.lora_B.any()
    assert lora.scaling.tolist() == [1] * 4

    # Another grid needs as many LoRAs as it has tiles.
    wide = released.load_released(folder, grid=Grid(2, 3))

    assert wide.vision.blocks[0].mlp_lora.lora_B.shape == (6, 64, 32)

    convert.convert_from_released(folder, tmp_path / "converted", Grid(2, 2))
    convert.convert_to_released(tmp_path / "converted", tmp_path / "monkey")
    converted = {key: tensor for shard in read(tmp_path / "monkey").values() for key, tensor in shard.items()}

    assert converted.keys() == parity.released_weights().keys()

    original = {key: tensor for shard in read(folder).values() for key, tensor in shard.items()}

    assert same({key: tensor for key, tensor in converted.items() if "_lora." not in key}, original)


def test_checkpoint_of_six_tiles_loads_on_its_grid_and_comes_back(tmp_path):
    settings, weights = golden_settings(lora_repeat_num=6), parity.released_weights()
    for key in [key for key in weights if "_lora.0." in key]:
        for tile in (4, 5):
            weights[key.replace("_lora.0.", f"_lora.{tile}.")] = weights[key] + tile

    folder = write(tmp_path / "six", settings, weights)

    with pytest.raises(ValueError, match="LoRA for 6 tiles .* the grid 2x2 has 4"):
        load_checkpoint(folder)

    convert.convert_from_released(folder, tmp_path / "converted", Grid(2, 3))
    convert.convert_to_released(tmp_path / "converted", tmp_path / "back")

    assert all(same(shard, read(tmp_path / "back")[name]) for name, shard in read(folder).items())

    (folder / "config.json").write_text(json.dumps(golden_settings()))

    with pytest.raises(ValueError, match="LoRA for 6 tiles, its config.json describes 4"):
        load_checkpoint(folder)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


SHARD = "pytorch_model-00002-of-00003.bin"


def rename(folder, old, new, in_index):
    """Rename a key in its shard, and in the index too."""
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    file = index["weight_map"][old]
    tensors = torch.load(folder / file)
    tensors[new] = tensors.pop(old)
    torch.save(tensors, folder / file)
    if in_index:
        index["weight_map"][new] = index["weight_map"].pop(old)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    return file


def break_folder(folder, how):
    """Spoil a folder; gives what the complaint must say."""
    key = "transformer.h.1.mlp.w2.weight"
    if how == "missing key":
        file = rename(folder, key, "transformer.h.1.mlp.w3.weight", True)
        return rf"lack transformer.h.1.mlp.w2.weight and hold transformer.h.1.mlp.w3.weight \({file}\)"

    if how == "unexpected key":
        tensors = torch.load(folder / SHARD) | {"transformer.visual.class_embedding": torch.zeros(1)}
        torch.save(tensors, folder / SHARD)
        (folder / "pytorch_model.bin.index.json").unlink()
        merged = {key: tensor for shard in read(folder).values() for key, tensor in shard.items()}
        torch.save(merged, folder / "pytorch_model.bin")
        return r"transformer.visual.class_embedding \(pytorch_model.bin\)"

    if how == "index and shard differ":
        file = rename(folder, key, "x", False)
        return f"{file} do not agree on {key}, x"

    if how == "shape":
        tensors = torch.load(folder / SHARD)
        name = next(name for name in tensors if name.endswith("weight"))
        torch.save(tensors | {name: torch.zeros(3, 5)}, folder / SHARD)
        return rf"{name} in .*{SHARD} has the shape \[3, 5\]"

    if how == "truncated":
        content = (folder / SHARD).read_bytes()
        (folder / SHARD).write_bytes(content[: len(content) // 2])
        return f"{SHARD} is cut off"

    if how == "missing shard":
        (folder / SHARD).unlink()
        return f"{SHARD} is missing"

    if how == "payload":
        torch.save({"x": Payload(folder / "executed")}, folder / SHARD)
        return f"{SHARD} holds posix.system"

    if how == "no tensors":
        torch.save({"x": 1}, folder / SHARD)
        return f"{SHARD} holds something other than tensors"

    if how == "index leads out":
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
        index["weight_map"][key] = "../secret.bin"
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return "names the file '../secret.bin'"

    settings = golden_settings()
    del settings["hidden_size"]
    (folder / "config.json").write_text("{" if how == "no JSON" else json.dumps(settings))
    return "config.json is no JSON" if how == "no JSON" else "lacks 'hidden_size'"


FAULTS = ["missing key", "unexpected key", "index and shard differ", "shape", "truncated", "missing shard"]
FAULTS += ["payload", "no tensors", "index leads out", "no JSON", "no field"]


@pytest.mark.parametrize("how", FAULTS)
def test_broken_folder_raises_before_anything_is_written(how, golden, tmp_path):
    complaint = break_folder(golden, how)
    for attempt in (
        lambda: convert.convert_from_released(golden, tmp_path / "new" / "converted"),
        lambda: released.load_released(golden),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=complaint) as raised:
            attempt()
        assert "\n" not in str(raised.value)
    assert not (golden / "executed").exists() and not (tmp_path / "new").exists()


def test_truncated_safetensors_file_is_named_in_the_error(tmp_path):
    folder = write(tmp_path / "a", golden_settings(), parity.released_weights(), 2, ".safetensors")
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{file.name} is cut off"):
        released.load_released(folder)
