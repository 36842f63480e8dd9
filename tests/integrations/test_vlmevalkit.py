"""Monkey behind the interface of VLMEvalKit."""

import inspect

import pytest


def test_vlmevalkit_prompts_are_those_of_its_own_entry(kit, checkpoint, monkey, make_image, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for n, file in enumerate(files):
        make_image(n).save(file)
    model = kit.MonkeyForVLMEvalKit(checkpoint, device="cpu", max_new_tokens=14)
    one = [{"type": "image", "value": str(files[0])}, {"type": "text", "value": "what?"}]

    assert model.generate(one) == monkey.answer(files[0], "what?", max_new_tokens=14)
    assert model.generate(one, "OCRBench") == model.generate(one)

    choice = monkey.answer(files[0], "what?", "choice", max_new_tokens=10)

    assert model.generate(one, "MMBench_DEV_EN") == choice == model.generate(one, "HallusionBench")

    mixed = [{"type": "text", "value": "first"}, one[0], {"type": "image", "value": str(files[1])}, one[1]]
    inputs = monkey.processor(text=[["first", files[0], files[1], "what? Answer: "]])

    assert model.generate(mixed) == monkey.generate(inputs, 14)[0]
    with pytest.raises(ValueError, match="needs a question"):
        model.generate(one[:1])
    with pytest.raises(ValueError, match="not video"):
        model.generate_inner([{"type": "video", "value": "a.mp4"}, one[1]])
    assert list(inspect.signature(type(model).__mro__[1].generate_inner).parameters) == [
        "self", "message", "dataset",
    ]  # fmt: skip


def test_vlmevalkit_finds_a_registered_checkpoint(kit, checkpoint):
    kit.register(checkpoint, name="ours")
    from vlmeval.config import supported_VLM

    model = supported_VLM["ours"](device="cpu")
    assert isinstance(model, kit.MonkeyForVLMEvalKit) and model.INTERLEAVE
