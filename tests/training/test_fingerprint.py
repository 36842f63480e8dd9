"""What makes a training run: the content of what it starts from, read in bounded time."""

import os
import time

import pytest

from monkeylib.model import limits
from monkeylib.profiles import load_profile
from monkeylib.training.fingerprint import training_fingerprint
from monkeylib.training.synthetic_records import synthetic_data


def profile_on(folder, **options):
    """Return the profile `smoke` with a language model from a folder."""
    smoke = load_profile("smoke")
    language_model = smoke.language_model.model_copy(update={"pretrained": str(folder), **options})
    return smoke.model_copy(update={"language_model": language_model})


def fields_of(profile):
    return training_fingerprint(profile, synthetic_data(load_profile("smoke")))[0]


def write_sparse(path, size):
    """Write a file that has a size and takes no space."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)


def test_pretrained_folder_counts_with_its_content_and_not_its_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("weights")
        (tmp_path / name / "tokenizer.json").write_text("tokens")
    (tmp_path / "b" / "notes.txt").write_text("mine")

    digests = fields_of(profile_on(tmp_path / "a"))["language_model"]["pretrained"]
    assert list(digests) == ["model.safetensors", "tokenizer.json"]
    assert fields_of(profile_on(tmp_path / "b"))["language_model"]["pretrained"] == digests

    (tmp_path / "b" / "tokenizer.json").write_text("Tokens")
    other = fields_of(profile_on(tmp_path / "b"))["language_model"]["pretrained"]
    assert [name for name in digests if digests[name] != other[name]] == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("tokenizer.json", limits.MAX_TOKENIZER_BYTES),
        ("qwen.tiktoken", limits.MAX_TOKENIZER_BYTES),
        ("model.safetensors", limits.MAX_WEIGHTS_BYTES),
        ("model.gguf", limits.MAX_WEIGHTS_BYTES),
    ],
)
def test_absurdly_large_file_is_refused_and_not_read(tmp_path, name, largest):
    write_sparse(tmp_path / name, largest + 1)
    start = time.process_time()
    with pytest.raises(ValueError, match=f"{name} has .* bytes, more than the {largest:,} that a file of"):
        fields_of(profile_on(tmp_path))
    assert time.process_time() - start < 5


def test_absurdly_large_tokenizer_of_a_profile_is_refused(tmp_path):
    write_sparse(tmp_path / "tokenizer.json", limits.MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(ValueError, match=r"tokenizer.json has .* that a file of a tokenizer may have"):
        fields_of(profile_on(tmp_path, pretrained=None, tokenizer=str(tmp_path)))


def test_projector_counts_with_its_content_and_not_its_name(tmp_path):
    nano = load_profile("nano")
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    digests = []
    for file, content in zip(files * 2, ("weights", "weights", "weights", "others"), strict=True):
        file.write_text(content)
        profile = nano.model_copy(update={"projector": str(file)})
        digests.append(fields_of(profile)["projector"])
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert "projector" not in fields_of(nano)
