"""Each family of models, on tiny random weights: one test a family and check, whose table is in the docs."""

import copy
import re

import pytest
import torch
from peft import PeftModel

from monkeylib import tables
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.raising import Raised, load_raised, raise_resolution
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.conversations import Conversations
from monkeylib.raising.families import processor_family
from monkeylib.raising.tower import encode_image, find_tower
from monkeylib.tiling import Grid, resize
from tests.raising.conftest import noise_image, run, train_adapters
from tests.support import overfitting, tiny_vlms
from tests.support.family_table import CHECKS, EXCEPTIONS, PAGE, family_table


class Family:
    """A raised family, its base, and inputs of one image."""

    def __init__(self, name):
        self.name = name
        self.vlm = tiny_vlms.build(name)
        self.base = copy.deepcopy(self.vlm.model)
        self.model, self.processor = raise_resolution(
            self.vlm.model, self.vlm.processor, rank=4, tile_size=self.vlm.tile_size
        )
        self.fresh = copy.deepcopy(self.model)
        train_adapters(self.model)
        self.inputs = self.prepare()
        self.without_index = {name: value for name, value in self.inputs.items() if name != "tile_index"}
        # Characters alone: an image token among the answers would ask for an image.
        tokenizer = self.vlm.processor.tokenizer
        characters = set(tokenizer.convert_tokens_to_ids(list(tiny_vlms.CHARACTERS)))
        self.generation = {
            "max_new_tokens": 4,
            "do_sample": False,
            "suppress_tokens": sorted(set(range(self.vocabulary)) - characters),
        }

    @property
    def vocabulary(self):
        return self.model.config.get_text_config().vocab_size

    def prepare(self, seed=0, **options):
        prompt = self.vlm.prompt()
        return self.processor(images=[noise_image(seed)], text=[prompt], return_tensors="pt", **options)

    def prepare_base(self):
        image = noise_image()
        if self.vlm.tile_size:
            image = resize(image, self.vlm.tile_size, self.vlm.tile_size)
        options = processor_family(self.vlm.processor).image_options
        return self.vlm.processor(images=[image], text=[self.vlm.prompt()], return_tensors="pt", **options)

    def prepare_batch(self):
        images = [noise_image(0), noise_image(1)]
        return self.processor(
            images=[[image] for image in images] if self.vlm.nests_images else images,
            text=[self.vlm.prompt()] * 2,
            grid=[(2, 2), (1, 2)],
            padding=True,
            return_tensors="pt",
        )

    def features(self, tile_index):
        """Return what the tower's output becomes for each view: `[V, ...]`."""
        outputs = []
        hook = find_tower(self.model).register_forward_hook(
            lambda _, __, output: outputs.append(output.last_hidden_state)
        )
        try:
            with torch.no_grad(), self.model.view_state.use(tile_index):
                encode_image(self.model, self.inputs)
        finally:
            hook.remove()
        return outputs[0].reshape(len(tile_index), -1)


@pytest.fixture(scope="module", params=tiny_vlms.FAMILIES)
def family(request):
    return Family(request.param)


@pytest.fixture(autouse=True)
def exceptions(request):
    """Skip what the table says is not so."""
    if "family" in request.fixturenames:
        check = request.function.__name__.removeprefix("test_")
        reason = EXCEPTIONS.get((request.getfixturevalue("family").name, check))
        if reason:
            pytest.skip(reason)


@torch.no_grad()
def test_parity(family):
    """Fresh adapters, and no numbers of tiles, leave the base as it is, and so does one view."""
    plain = run(family.base, family.without_index).logits
    assert torch.equal(run(family.fresh, family.inputs).logits, plain)
    assert torch.equal(run(family.model, family.without_index).logits, plain)
    assert not torch.allclose(run(family.model, family.inputs).logits, plain, atol=1e-4)

    one = run(family.model, family.prepare(grid=(0, 0))).logits
    assert torch.equal(one, run(family.base, family.prepare_base()).logits)


@torch.no_grad()
def test_parity_in_half_precision(family):
    """In bfloat16, too, fresh adapters and one view leave the base as it is, to the last bit."""
    base, fresh, model = (copy.deepcopy(m).bfloat16() for m in (family.base, family.fresh, family.model))

    def logits(model, inputs):
        halved = {name: x.bfloat16() if x.is_floating_point() else x for name, x in inputs.items()}
        return run(model, halved).logits

    assert logits(base, family.without_index).dtype == torch.bfloat16
    assert torch.equal(logits(fresh, family.inputs), logits(base, family.without_index))
    one = logits(model, family.prepare(grid=(0, 0)))
    assert torch.equal(one, logits(base, family.prepare_base()))


def test_tiles(family):
    """The adapters of a tile change the view of that tile alone."""
    base = family.features([-1] * 5)
    for tile in range(4):
        numbers = [-1] * 5
        numbers[tile] = tile
        is_changed = (family.features(numbers) - base).abs().amax(dim=1) > 1e-4
        assert is_changed.tolist() == [view == tile for view in range(5)]


def test_gradients(family):
    """They reach every adapter of the tiles that are there, and no other."""
    model = copy.deepcopy(family.model)
    run(model, family.prepare(grid=(1, 2))).logits.float().square().mean().backward()
    for adapters in layer_adapters(model).values():
        assert all(adapters[tile].lora_A.grad.abs().max() > 0 for tile in (0, 1))
        assert all(adapters[tile].lora_A.grad is None for tile in (2, 3))


def test_generate(family):
    """Greedily as step by step without a cache; samples of the likeliest token, and beams, as each alone."""
    model, inputs = family.model, family.inputs
    greedy = model.generate(**inputs, **family.generation)
    if not model.config.is_encoder_decoder:
        without_cache = model.generate(**inputs, **family.generation, use_cache=False)
        assert torch.equal(without_cache, greedy)

    options = {**family.generation, "do_sample": True, "top_k": 1}
    samples = model.generate(**inputs, **options, num_return_sequences=3)
    assert torch.equal(samples, greedy.repeat(3, 1))
    beams = model.generate(**inputs, **family.generation, num_beams=2)
    assert beams.shape == greedy.shape


# Of generation, those that transformers' own model of a family fails at, before it is raised.
FAILING_BASES = {
    "static cache": {"kosmos2"},
    "chunked prefill": {"blip2", "fast_vlm", "instructblip", "kosmos2", "ovis2", "perception_lm"},
    "prompt lookup": set(),
}
# Places see each other in both directions, which chunks cut: the base, too, then gives other logits.
CUT_BY_CHUNKS = {"paligemma", "gemma3"}


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("static cache", {"cache_implementation": "static"}),
        ("chunked prefill", {"prefill_chunk_size": 7}),
        ("prompt lookup", {"prompt_lookup_num_tokens": 2}),
    ],
    ids=str,
)
def test_other_ways_of_generation(family, way, options):
    """They give what plain generation gives, with the adapters of the tiles."""
    if family.name in FAILING_BASES[way]:
        with pytest.raises((RuntimeError, TypeError)):
            family.base.generate(**family.without_index, **family.generation, **options)
        pytest.skip(f"transformers' own model fails with a {way}")

    def generate(inputs, model=family.model, **options):
        asked = {**family.generation, "return_dict_in_generate": True, "output_logits": True, **options}
        output = model.generate(**inputs, **asked)
        return output.sequences, torch.stack(output.logits)

    if way == "chunked prefill" and family.name in CUT_BY_CHUNKS:
        _, logits = generate(family.without_index, family.base)
        _, other_logits = generate(family.without_index, family.base, **options)
        assert not torch.allclose(other_logits, logits, rtol=1e-3, atol=1e-4)
        pytest.skip("transformers' own model gives other logits with a chunked prefill")

    ids, logits = generate(family.inputs)
    other_ids, other_logits = generate(family.inputs, **options)
    assert torch.equal(other_ids, ids)
    assert torch.allclose(other_logits, logits, rtol=1e-3, atol=1e-4)

    # Ids alone may be the same without the adapters.
    _, without_adapters = generate(family.without_index, **options)
    assert not torch.allclose(without_adapters[0], logits[0], rtol=1e-3, atol=1e-4)


def test_batch(family):
    """Two images of different grids, padded, as each alone."""
    batch = family.prepare_batch()
    alone = [family.inputs, family.prepare(seed=1, grid=(1, 2))]
    with torch.no_grad():
        logits = run(family.model, batch).logits[:, -1]
        expected = torch.cat([run(family.model, inputs).logits[:, -1] for inputs in alone])
    assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-3)

    new_tokens = family.generation["max_new_tokens"]
    for options in ({}, {"num_beams": 2}):
        generated = family.model.generate(**batch, **family.generation, **options)[:, -new_tokens:]
        each = [family.model.generate(**inputs, **family.generation, **options) for inputs in alone]
        assert torch.equal(generated, torch.cat([ids[:, -new_tokens:] for ids in each]))


def test_training(family):
    """A small step along the gradient lowers the loss: in double precision, since it may be a tiny bit."""
    # transformers' Kosmos-2 masks with a number that has no double precision.
    dtype = torch.float32 if family.name == "kosmos2" else torch.float64
    model = copy.deepcopy(family.model).to(dtype)
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in family.inputs.items()
    }
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss():
        return run(model, inputs).logits[:, -1].log_softmax(dim=-1)[:, 5].neg().mean()

    before = loss()
    gradients = torch.autograd.grad(before, learning)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    with torch.no_grad():
        for parameter, gradient in zip(learning, gradients, strict=True):
            parameter -= 1e-3 * gradient / norm
    assert loss() < before


def test_conversations(family):
    """Answers alone are learned, and a padded batch of two has the loss of each alone."""
    conversations = Conversations(family.model, family.processor)
    records = [(0, (2, 2), "ab", "cde"), (1, (1, 2), "abcd", "f")]

    def loss(records):
        rows, images = [], []
        for seed, grid, question, answer in records:
            image = ImagePart(noise_image(seed))
            messages = [Message("user", (image, question)), Message("assistant", (answer,))]
            rows.append(conversations.encode(messages, [Grid(*grid)]))
            learned = [label for label in rows[-1].labels if label != IGNORE_INDEX]
            assert conversations.tokenizer.decode(learned) == f"{answer}</s>"
            images.append([image.source])
        views = conversations.views_of(images, [[Grid(*grid)] for _, grid, _, _ in records])
        batch = conversations.pad(rows)
        del batch["turns"]
        with torch.no_grad():
            return family.model(**batch, **views).loss.item()

    # The loss is a mean over labels: four of the first, two of the second.
    expected = (4 * loss(records[:1]) + 2 * loss(records[1:])) / 6
    assert loss(records) == pytest.approx(expected, rel=1e-3)


def test_checkpointing(family):
    """Two calls before one backward pass have the gradients that they have without checkpointing."""
    model = copy.deepcopy(family.model)
    others = family.prepare(seed=1, grid=(1, 2))

    def gradients():
        model.zero_grad()
        model.train()
        # Dropout draws the same numbers in both runs.
        torch.manual_seed(0)
        sum(run(model, inputs).logits.square().mean() for inputs in (family.inputs, others)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.activation_checkpointing_enable({"use_reentrant": False})
    checkpointed = gradients()
    assert checkpointed.keys() == plain.keys() and plain
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, rtol=1e-3, atol=1e-5), name


def test_files(family, tmp_path):
    """What is saved is loaded on the base, and peft alone computes the same of it."""
    Raised(family.model, family.processor, family.model.raising_settings).save(tmp_path / "raised")
    vlm = tiny_vlms.build(family.name)
    loaded = load_raised(tmp_path / "raised", vlm.model, vlm.processor)
    with torch.no_grad():
        expected = run(family.model, family.inputs).logits
        assert torch.equal(run(loaded.model, family.inputs).logits, expected)

        # One adapter for all views, since peft tells no views apart here.
        of_tile = run(family.model, {**family.inputs, "tile_index": torch.full((5,), 2)}).logits
        model = PeftModel.from_pretrained(
            copy.deepcopy(family.base), str(tmp_path / "raised" / "tile-2")
        ).eval()
        of_peft = run(model, family.without_index).logits
        if family.name == "florence2":
            # The last bit: its last stage has four patches a view, whose products are summed differently.
            assert torch.allclose(of_peft, of_tile, rtol=0, atol=1e-6)
        else:
            assert torch.equal(of_peft, of_tile)


@pytest.mark.parametrize("name", ["llava_siglip", "internvl"])
def test_adapters_and_connector_learn_eight_records(name):
    """`overfitting` does so with all families; that would take this suite too long."""
    training = overfitting.overfit(name, learning_rate=1e-2, steps=150)
    assert training.losses[0] > 1 and training.losses[-1] < overfitting.LOSS
    assert training.adapter_weights > 0 and training.connector_weights > 0


def test_table_in_the_docs_is_that_of_these_tests():
    names = {name for name in globals() if name.startswith("test_")}
    assert {f"test_{check}" for check in CHECKS} < names

    # Rows of families whose needs are not installed stay as they were made where they are.
    table = re.search("<!-- families -->(.*)<!-- /families -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in family_table().splitlines():
        assert line in table[1].splitlines()


def test_all_families_learn_eight_records():
    rows = tables.read_table(overfitting.TABLE, overfitting.PROFILE)
    assert {row["family"] for row in rows} == {*tiny_vlms.FAMILIES, *tiny_vlms.NEEDS}
    assert max(row["loss"] for row in rows) < overfitting.LOSS
