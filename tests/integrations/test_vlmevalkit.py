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


def test_vlmevalkit_reads_a_raised_model_in_the_words_of_the_kit(kit, raised_folder, make_image, tmp_path):
    make_image(1).save(tmp_path / "image.png")
    model = kit.MonkeyForVLMEvalKit(raised_folder, device="cpu", max_new_tokens=2, grid="1x2")
    message = [{"type": "image", "value": str(tmp_path / "image.png")}, {"type": "text", "value": "what"}]
    expected = model.monkey.answer(tmp_path / "image.png", "what", "plain", max_new_tokens=2, grid="1x2")
    assert model.generate(message) == expected.text
