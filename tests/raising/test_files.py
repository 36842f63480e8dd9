import json
import re

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from monkeylib.raising import load_raised, raise_resolution
from monkeylib.raising.adapters import layer_adapters
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms
from tests.support.hub_uploads import HubUploads
from tests.support.raised_models import raise_base, save_base


def load(folder):
    vlm = tiny_vlms.build("llava_clip")
    return load_raised(folder, vlm.model, vlm.processor)


def logits(raised, **options):
    inputs = raised.processor(images=noise_image(), text="<image>ab", return_tensors="pt", **options)
    with torch.no_grad():
        return raised.model(**inputs).logits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grid": [(2, 2), (1, 3)], "rank": {"q_proj": 4, "fc1": 2}},
        {"grid": "auto:3"},
        {"mode": "shared"},
        {"mode": "none"},
    ],
    ids=str,
)
def test_what_is_saved_is_loaded(options, raise_llava, tmp_path):
    raised = raise_llava(**options)
    for adapters in layer_adapters(raised.model).values():
        for adapter in adapters:
            adapter.scaling.data.fill_(0.7)

    raised.save(tmp_path / "raised")
    loaded = load(tmp_path / "raised")
    assert loaded.settings == raised.settings
    assert torch.equal(logits(loaded), logits(raised))


def test_folders_are_called_by_tiles(raise_llava, tmp_path):
    raise_llava().save(tmp_path / "named")
    assert sorted(path.name for path in (tmp_path / "named").iterdir()) == [
        "README.md",
        "monkey.json",
        "tile-0",
        "tile-1",
        "tile-2",
        "tile-3",
    ]
    raise_llava(grid="auto:2").save(tmp_path / "auto")
    assert {path.name for path in (tmp_path / "auto").glob("tile-*")} == {"tile-0-0", "tile-0-1", "tile-1-0"}


@pytest.mark.parametrize(
    ("options", "sentences", "names"),
    [
        ({"grid": "1x2"}, "adapters of tile i, counted row by row", '"tile-0", "tile-1"'),
        ({"grid": "auto:4"}, "folder `tile-r-c`", '"tile-0-0", "tile-0-1", "tile-1-0", "tile-1-1"'),
        ({"grid": "auto:2"}, "folder `tile-r-c`", '"tile-0-0", "tile-0-1"'),
        ({"mode": "shared"}, "of all tiles are in the folder `tile-0`", ", ".join(['"tile-0"'] * 4)),
    ],
    ids=str,
)
def test_card_names_the_adapters_as_their_folders(raise_llava, tmp_path, options, sentences, names):
    raise_llava(**options).save(tmp_path / "raised")
    card = (tmp_path / "raised" / "README.md").read_text(encoding="utf-8")
    assert sentences in card and f'adapter_names=[{names}, "__base__"]' in card

    # Each folder is loaded, by the name of the first and the list of the others.
    folders = {path.name for path in (tmp_path / "raised").glob("tile-*")}
    assert set(re.findall(r'"(tile-[\d-]+)"', card)) == folders


def test_card_without_adapters_tells_of_none(raise_llava, tmp_path):
    raised = raise_llava(mode="none")
    raised.model.model.multi_modal_projector.requires_grad_(True)
    raised.save(tmp_path / "raised")
    card = (tmp_path / "raised" / "README.md").read_text(encoding="utf-8")
    assert "It has no adapters." in card and "tile-0" not in card


def test_weights_that_were_trained_beside_the_adapters_are_saved(raised, tmp_path):
    projector = raised.model.model.multi_modal_projector
    projector.requires_grad_(True)
    with torch.no_grad():
        projector.linear_1.weight.add_(1)
    raised.save(tmp_path / "raised")
    assert torch.equal(logits(load(tmp_path / "raised")), logits(raised))
    assert "trained.safetensors" in (tmp_path / "raised" / "README.md").read_text()


def test_peft_alone_computes_the_same_on_the_untouched_base(raised, tmp_path):
    raised.save(tmp_path / "raised")
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    base = tiny_vlms.build("llava_clip").model
    without = base.get_image_features(pixels).pooler_output

    model = PeftModel.from_pretrained(base, str(tmp_path / "raised" / "tile-0"), adapter_name="tile-0")
    for number in range(1, 4):
        model.load_adapter(str(tmp_path / "raised" / f"tile-{number}"), adapter_name=f"tile-{number}")
    model.eval()

    for number in range(4):
        model.set_adapter(f"tile-{number}")
        with torch.no_grad(), raised.model.view_state.use([number, number]):
            of_raised = torch.cat(raised.model.get_image_features(pixels).pooler_output)
            of_peft = torch.cat(model.get_image_features(pixels).pooler_output)
        assert torch.equal(of_peft, of_raised)
        assert not torch.allclose(of_peft, torch.cat(without), atol=1e-2)

    # A mixed batch of peft is Monkey's inference: one adapter a view.
    inputs = raised.processor(images=noise_image(), text="<image>ab", return_tensors="pt")
    del inputs["tile_index"]
    names = ["tile-0", "tile-1", "tile-2", "tile-3", "__base__"]
    with torch.no_grad():
        mixed = model(**inputs, adapter_names=names).logits
    assert torch.equal(mixed, logits(raised))


def test_adapter_that_peft_has_trained_is_read(raised, tmp_path):
    raised.save(tmp_path / "raised")
    folder = tmp_path / "raised" / "tile-2"
    base = tiny_vlms.build("llava_clip").model
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(1)
    model.save_pretrained(tmp_path / "trained")

    for path in folder.iterdir():
        path.write_bytes((tmp_path / "trained" / path.name).read_bytes())
    loaded = load(tmp_path / "raised")
    for layer, adapters in layer_adapters(raised.model).items():
        changed = layer_adapters(loaded.model)[layer]
        assert torch.equal(changed[2].lora_B, adapters[2].lora_B + 1)
        assert torch.equal(changed[1].lora_B, adapters[1].lora_B)


def test_class_of_the_base_does_not_load_a_raised_folder(raised, llava, tmp_path):
    """transformers would leave the adapters out as unexpected, and answer as the base."""
    raised.save(tmp_path / "saved")
    raised.model.save_pretrained(tmp_path / "pretrained")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        type(llava.model).from_pretrained(tmp_path / "saved")
    for loader in (type(llava.model), AutoModelForImageTextToText):
        with pytest.raises(ValueError, match="raised model, load it by monkeylib.load_raised"):
            loader.from_pretrained(tmp_path / "pretrained")


def test_save_pretrained_holds_all_weights_and_is_loaded(raised, tmp_path):
    raised.model.save_pretrained(tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert sum("tile_lora" in name for name in names) == 12 * 4 * 3
    # Again, as Trainer does at its end.
    raised.model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(load(tmp_path / "model")), logits(raised))


def test_folder_of_another_model_is_left_alone(raised, llava, tmp_path):
    llava.model.save_pretrained(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    with pytest.raises(FileExistsError, match="not raised: name a new folder"):
        raised.model.save_pretrained(tmp_path / "base")
    with pytest.raises(FileExistsError):
        raised.save(tmp_path / "base")
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before


def test_base_is_loaded_from_where_it_was(llava, tmp_path, raise_llava):
    llava.model.save_pretrained(tmp_path / "base")
    llava.processor.save_pretrained(tmp_path / "base")
    model = type(llava.model).from_pretrained(tmp_path / "base")
    raised = raise_resolution(model, llava.processor, rank=4)
    raised.save(tmp_path / "raised")
    assert torch.equal(logits(load_raised(tmp_path / "raised")), logits(raised))

    raise_llava().save(tmp_path / "nameless")
    with pytest.raises(ValueError, match="does not say what its base was"):
        load_raised(tmp_path / "nameless")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "newer monkeylib"),
        ({"mode": "half"}, "no mode called 'half'"),
        ({"unknown": 1}, "unknown is missing or unknown"),
        ({"dropout": 2}, "dropout is 2"),
        ({"tile_size": -1}, "tile_size"),
        ({"ranks": {"x": 0}}, r"ranks\.x"),
        ({"ranks": {"x": 4}}, "no linear layer x"),
        ({"family": "Other"}, "expected a Other"),
        ({"grids": {"grids": [[2, 3]], "max_tiles": None}}, "tile-4"),
    ],
    ids=str,
)
def test_broken_settings_raise(fields, message, raised, tmp_path):
    raised.save(tmp_path / "raised")
    change(tmp_path / "raised" / "monkey.json", **fields)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(tmp_path / "raised")


def test_folder_without_a_raised_model_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no raised model at"):
        load(tmp_path)


def test_broken_adapters_raise_and_change_nothing(raised, tmp_path):
    raised.save(tmp_path / "raised")
    folder = tmp_path / "raised" / "tile-3"
    weights = load_file(folder / "adapter_model.safetensors")
    key = min(weights)

    vlm = tiny_vlms.build("llava_clip")
    for broken in ({key: weights[key] * torch.inf}, {key: torch.zeros(1, 1)}, {"x": weights[key].clone()}):
        save_file({**weights, **broken}, folder / "adapter_model.safetensors")
        vlm = tiny_vlms.build("llava_clip")
        with pytest.raises(ValueError, match="finite|differ in"):
            load_raised(tmp_path / "raised", vlm.model, vlm.processor)
        assert all(not a.lora_B.any() for adapters in layer_adapters(vlm.model).values() for a in adapters)

    save_file(weights, folder / "adapter_model.safetensors")
    change(folder / "adapter_config.json", use_dora=True)
    with pytest.raises(ValueError, match="DoRA"):
        load(tmp_path / "raised")


def test_hub_gets_what_is_saved(raised, tmp_path, monkeypatch):
    uploads = HubUploads(tmp_path / "uploaded", monkeypatch)
    assert raised.push_to_hub("me/raised") == "hub/me/raised"
    names = sorted(path.name for path in uploads.folder.iterdir())
    assert names[:3] == ["README.md", "monkey.json", "tile-0"]
    card = (uploads.folder / "README.md").read_text(encoding="utf-8")
    assert 'adapter_names=["tile-0", "tile-1", "tile-2", "tile-3", "__base__"]' in card
    with pytest.raises(ValueError, match="goes to the hub by"):
        raised.model.save_pretrained(tmp_path / "model", push_to_hub=True)
    with pytest.raises(ValueError, match="goes to the hub by"):
        raised.model.push_to_hub("me/raised")


def front_matter(folder):
    """Return the fields of a card that the hub reads."""
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])


def test_hub_gets_no_folder_of_this_machine(tmp_path, monkeypatch):
    base = save_base(tmp_path / "base")
    raised = raise_base(base)
    raised.model.model.multi_modal_projector.requires_grad_(True)
    uploads = HubUploads(tmp_path / "uploaded", monkeypatch)

    with pytest.raises(ValueError, match=r'is at .*base, where others .* pass base="owner/name"') as refused:
        raised.push_to_hub("me/raised")
    assert "came from" not in str(refused.value)
    change(base / "config.json", _name_or_path="owner/name")
    with pytest.raises(ValueError, match=r"its config\.json says that it came from owner/name"):
        raised.push_to_hub("me/raised")
    for name in (str(base), "llava", "", 7):
        with pytest.raises(ValueError, match="base is .*: expected the name of a model on a hub"):
            raised.push_to_hub("me/raised", base=name)
    assert not uploads.folder.exists()

    raised.push_to_hub("me/raised", base="owner/name")
    files = [path for path in uploads.folder.rglob("*") if path.is_file()]
    assert len(files) == 11
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]

    assert json.loads((uploads.folder / "monkey.json").read_text())["base"] == "owner/name"
    for config in uploads.folder.glob("tile-*/adapter_config.json"):
        assert json.loads(config.read_text())["base_model_name_or_path"] == "owner/name"
    assert front_matter(uploads.folder)["base_model"] == "owner/name"
    assert "tower of `owner/name`" in (uploads.folder / "README.md").read_text(encoding="utf-8")


def test_card_names_a_base_only_as_a_hub_does(raised, tmp_path):
    """The hub refuses a card whose `base_model` is a path or a class."""
    of_folder = raise_base(save_base(tmp_path / "base"))
    of_folder.save(tmp_path / "of_folder")
    raised.save(tmp_path / "nameless")
    for folder in (tmp_path / "of_folder", tmp_path / "nameless"):
        assert front_matter(folder).keys() == {"library_name", "tags"}
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert str(tmp_path) not in text and "tower of a LlavaForConditionalGeneration" in text
