import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_lora_of_the_language_model_goes_through_peft(tiny, processor, make_image, tmp_path):
    model = tiny()
    inputs = processor(images=make_image(), text="What is it?")
    labels = inputs["input_ids"].clone()
    before = model(**inputs).logits

    model.freeze_for_finetuning(language_model="frozen")
    trained_before = trainable(model)
    model.language_model = get_peft_model(model.language_model, LORA)

    assert torch.equal(model(**inputs).logits, before), "a fresh LoRA changes nothing"
    assert {
        name.rpartition(".lora_")[0].rpartition(".")[2] for name in trainable(model) - trained_before
    } == {
        "q_proj",
        "v_proj",
    }

    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(**inputs, labels=labels).loss.backward()
    optimiser.step()

    with torch.no_grad():
        trained = model(**inputs).logits
        assert not torch.allclose(trained, before, atol=1e-3)
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)

    model.language_model.save_pretrained(tmp_path / "lora")
    model.language_model = model.language_model.unload()
    model.save_pretrained(tmp_path / "monkey")
    loaded = type(model).from_pretrained(tmp_path / "monkey")
    loaded.language_model = PeftModel.from_pretrained(loaded.language_model, tmp_path / "lora")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits, trained)
        assert torch.equal(loaded.generate(**inputs, max_new_tokens=4, do_sample=False), generated)
        loaded.language_model = loaded.language_model.merge_and_unload()
        assert torch.allclose(loaded(**inputs).logits, trained, atol=1e-4)


@pytest.mark.parametrize("targets", ["all-linear", ["attention.qkv"]])
def test_peft_adapts_layers_that_are_called(targets, tiny, processor, make_image):
    model = tiny()
    inputs = processor(images=make_image(), text="What is it?")
    before = model(**inputs).logits

    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    assert torch.equal(adapted(**inputs).logits, before), "fresh adapters change nothing"

    adapted(**inputs, labels=inputs["input_ids"].clone()).loss.backward()
    adapters = {name: p for name, p in adapted.named_parameters() if ".lora_B." in name}
    assert any(".attention.qkv." in name for name in adapters)
    assert all(p.grad is not None for p in adapters.values())
