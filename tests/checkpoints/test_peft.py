import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from monkeylib.checkpoints import convert, peft
from monkeylib.model.tile_lora import tile_loras
from monkeylib.model.vision import VisionTransformer
from tests.model.test_hf_vision import build, views


class Bypassed(nn.Module):
    """A block without LoRA, with the layer of zeros beside its MLP that the files name `mlp_bypass`."""

    def __init__(self, block):
        super().__init__()
        self.ln_1, self.attention = block.ln_1, block.attention
        self.ln_2, self.fc, self.proj = block.ln_2, block.fc, block.proj
        self.mlp_bypass = nn.Linear(self.proj.out_features, self.proj.out_features, bias=False)
        nn.init.zeros_(self.mlp_bypass.weight)

    def forward(self, x, lora_groups):
        x = x + self.attention(self.ln_1(x), None)
        return x + self.proj(F.gelu(self.fc(self.ln_2(x)))) + self.mlp_bypass(x)


def without_lora(model):
    """Return the ViT of a model without its LoRA."""
    config = type(model.config).from_dict(model.config.to_dict() | {"lora_mode": "none"})
    backbone = VisionTransformer(config)
    backbone.load_state_dict(
        {name: tensor for name, tensor in model.vision.state_dict().items() if "_lora." not in name}
    )
    backbone.blocks = nn.ModuleList(map(Bypassed, backbone.blocks))
    return backbone.eval()


@pytest.fixture()
def model(tiny):
    return tiny()


@pytest.fixture()
def folders(model, tmp_path):
    return peft.write_lora(model.state_dict(), model.config, tmp_path / "peft")


@torch.no_grad()
def test_peft_computes_the_same_features_for_each_tile(model, folders):
    size = model.config.vision_config.tile_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    # Without LoRA, to see that LoRA makes a difference.
    without = model.vision(pixels)
    assert [folder.name for folder in folders] == ["tile-0", "tile-1", "tile-2", "tile-3"]
    for tile, folder in enumerate(folders):
        loaded = PeftModel.from_pretrained(without_lora(model), str(folder)).eval()
        features_of_monkey = model.vision(pixels, [tile, tile])
        assert torch.allclose(loaded(pixels), features_of_monkey, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(without, features_of_monkey, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_lora_is_read_back_bit_for_bit(dtype, tiny, tmp_path):
    model, other = tiny(0).to(dtype), tiny(1).to(dtype)
    expected = {name: t.clone() for name, t in model.vision.state_dict().items() if "_lora." in name}
    for tile, folder in enumerate(peft.write_lora(model.state_dict(), model.config, tmp_path / "peft")):
        peft.read_lora(folder, other, tile)
    read = other.vision.state_dict()

    assert expected and all(torch.equal(read[name], tensor) for name, tensor in expected.items())


@torch.no_grad()
@pytest.mark.parametrize("ranks", [{"attention_rank": 0}, {"mlp_rank": 0}])
def test_lora_beside_attention_or_mlp_alone_is_written(ranks, tiny, tmp_path):
    model = tiny(**ranks)
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    folder = peft.write_lora(model.state_dict(), model.config, tmp_path / "peft")[3]
    loaded = PeftModel.from_pretrained(without_lora(model), str(folder)).eval()
    assert torch.allclose(loaded(pixels), model.vision(pixels, [3]), rtol=1e-4, atol=1e-4)


def test_lora_of_the_global_view_has_its_own_folder(tiny, tmp_path):
    model, other = tiny(lora_on_global_view=True), tiny(1, lora_on_global_view=True)
    folders = peft.write_lora(model.state_dict(), model.config, tmp_path / "peft")
    assert [folder.name for folder in folders] == ["tile-0", "tile-1", "tile-2", "tile-3", "global-view"]

    peft.read_lora(folders[4], other, 4)
    for source, target in zip(tile_loras(model), tile_loras(other), strict=True):
        assert torch.equal(target.lora_B[4], source.lora_B[4])


def test_folder_that_peft_saved_is_read(model, folders, tiny, tmp_path):
    loaded = PeftModel.from_pretrained(without_lora(model), str(folders[1]), is_trainable=True)
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if "lora_B" in name:
                parameter.add_(1)

    loaded.save_pretrained(tmp_path / "trained")
    other = tiny(1)
    peft.read_lora(tmp_path / "trained", other, 0)

    for source, target in zip(tile_loras(model), tile_loras(other), strict=True):
        assert torch.equal(target.lora_B[0], source.lora_B[1] + 1)
        assert torch.equal(target.lora_A[0], source.lora_A[1])
        assert target.scaling[0] == source.scaling[1]


def backbone_with_bypass(model):
    """Return the ViT of transformers without LoRA, with the layer of zeros beside each MLP."""
    layout, config = model.vision.layout, model.config
    backbone = AutoModel.from_config(config.vision_config).eval()
    backbone.load_state_dict(model.vision.backbone.state_dict())
    for block in backbone.get_submodule(layout.blocks):
        width = config.vision_config.hidden_size
        # peft adds the MLP's LoRA to this layer, whose output joins that of the MLP.
        block.mlp_bypass, residuals = nn.Linear(width, width, bias=False), []
        nn.init.zeros_(block.mlp_bypass.weight)
        norm, end = block.get_submodule(layout.mlp_norm), block.get_submodule(layout.mlp_end)
        norm.register_forward_pre_hook(lambda _, args, residuals=residuals: residuals.append(args[0]))
        end.register_forward_hook(
            lambda _, __, output, block=block, residuals=residuals: output + block.mlp_bypass(residuals.pop())
        )

    return backbone


@pytest.mark.parametrize("kind", ["clip", "dinov2", "siglip"])
@torch.no_grad()
def test_peft_computes_the_same_features_in_a_vit_of_transformers(kind, tmp_path):
    model, other, pixels = build(kind), build(kind, trained=False), views(2)
    model.save_pretrained(tmp_path / "model")
    convert.export_lora(tmp_path / "model", tmp_path / "peft")
    without = model.vision(pixels)
    for tile in range(4):
        folder = tmp_path / "peft" / f"tile-{tile}"
        loaded = PeftModel.from_pretrained(backbone_with_bypass(model), str(folder)).eval()
        features = loaded(pixel_values=pixels, **model.vision.layout.options).last_hidden_state
        features_of_monkey = model.vision(pixels, [tile, tile])
        assert torch.allclose(features[:, model.vision.layout.class_tokens :], features_of_monkey, atol=1e-4)
        assert not torch.allclose(without, features_of_monkey, atol=1e-2)
        peft.read_lora(folder, other, tile)

    expected = {name: t for name, t in model.vision.state_dict().items() if name.startswith("lora.")}
    read = other.vision.state_dict()

    assert len(expected) == 2 * 5 * 3 and all(torch.equal(read[name], t) for name, t in expected.items())


def test_folder_of_another_kind_raises(model, folders, tmp_path):
    with pytest.raises(ValueError, match="there is no tile 4"):
        peft.read_lora(folders[0], model, 4)
    with pytest.raises(FileNotFoundError, match="no adapter_model.safetensors"):
        peft.read_lora(tmp_path, model, 0)

    settings = json.loads((folders[1] / "adapter_config.json").read_text())
    (folders[1] / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))

    with pytest.raises(ValueError, match="DoRA"):
        peft.read_lora(folders[1], model, 1)

    weights = load_file(folders[0] / "adapter_model.safetensors")
    key = min(weights)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for changed in ({key: torch.zeros(1, 1)}, {"x": weights[key].clone()}):
        save_file(weights | changed, folders[0] / "adapter_model.safetensors")
        with pytest.raises(ValueError, match="differ in"):
            peft.read_lora(folders[0], model, 0)

    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_model_without_lora_raises(tiny, tmp_path):
    model = tiny(lora_mode="none")
    with pytest.raises(ValueError, match="lora_mode 'none' has no LoRA"):
        peft.write_lora(model.state_dict(), model.config, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
