"""Checkpoints in monkeylib's layout that are broken or hostile, with what must be said about each.

Each case changes a copy of a sound folder. It must be refused in one sentence that names the file, within
little memory, and nothing in it may be executed.
"""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
KEY = "resampler.kv_proj.weight"


@dataclass(frozen=True)
class HostileCheckpoint:
    """A change that makes a folder unfit to load.

    Fields:
        change: makes it.
        sentence: regular expression of what the error says.
        in_processor: the processor is at fault, which a conversion of the LoRA alone does not read.
    """

    change: Callable[[Path], None]
    sentence: str
    in_processor: bool = False

    def write(self, source: Path, folder: Path) -> Path:
        """Copy a sound checkpoint into a new folder and spoil the copy."""
        shutil.copytree(source, folder)
        self.change(folder)
        return folder


class Payload:
    """Makes a file called `executed` when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / 'executed'}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


# --- ways to change a folder


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the bytes of a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def header(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Change the header of the weights, and leave their bytes."""

    def spoil(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        entries = json.loads(content[8 : 8 + size])
        change(entries)
        text = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Change the tensors of the weights."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def field(name: str, path: str, value: Any) -> Callable[[Path], None]:
    """Set a field of a JSON file, such as "text_config.hidden_size"."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *sections, last = path.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[last] = value
        (folder / name).write_text(json.dumps(content))

    return spoil


def text(name: str, content: str) -> Callable[[Path], None]:
    """Replace a file by a text."""
    return lambda folder: (folder / name).write_text(content) and None


def gone(*names: str) -> Callable[[Path], None]:
    """Remove files."""
    return lambda folder: [(folder / name).unlink() for name in names] and None


def _set_value(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[KEY].view(-1)[7] = value

    return change


def _index(name: str) -> Callable[[Path], None]:
    """Write an index that keeps one key in a file of another name, which lies outside of the folder."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file({KEY: weights[KEY]}, folder.parent / "outside.safetensors", metadata={"format": "pt"})
        file_of = dict.fromkeys(weights, WEIGHTS) | {KEY: name}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))

    return spoil


def _link(name: str, target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        outside = Path(target)
        if not outside.is_absolute():
            outside = folder.parent / target
            shutil.move(folder / name, outside)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)

    return spoil


def _pickled(content: Callable[[Path], Any], protocol: str) -> Callable[[Path], None]:
    """Put a pickle in the weights' place, as torch writes it or as Python does."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        if protocol == "torch":
            torch.save(content(folder), folder / "pytorch_model.bin")
        else:
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content(folder)))

    return spoil


def _torch_pickle(content: bytes) -> Callable[[Path], None]:
    """Put bytes in the weights' place, where torch expects the pickle of its archive."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        sound = folder / "sound.bin"
        torch.save({KEY: torch.zeros(2)}, sound)
        with zipfile.ZipFile(sound) as source, zipfile.ZipFile(folder / "pytorch_model.bin", "w") as target:
            for name in source.namelist():
                target.writestr(name, content if name.endswith("/data.pkl") else source.read(name))
        sound.unlink()

    return spoil


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    """Make a file of so many bytes that takes no room on the disk."""
    return lambda folder: os.truncate(folder / name, size)


def _deep(depth: int) -> str:
    return '{"a": ' + "[" * depth + "]" * depth + "}"


def _evil(folder: Path) -> None:
    """Add code that a configuration asks for; it must not run, and the weights are cut off besides."""
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        field(name, "auto_map", {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]})(
            folder
        )
    bytes_of(WEIGHTS, lambda content: content[:-10])(folder)


def _rename_key(weights: dict[str, torch.Tensor]) -> None:
    weights["resampler.kv_project.weight"] = weights.pop(KEY)


def _drop(word: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if word in name]:
            del weights[name]

    return change


# --- the table

CUT = f"{WEIGHTS} is cut off or is no file of weights"
BIN_CUT = "pytorch_model.bin is cut off or is no file of weights"
CONFIG, PROCESSOR, TOKENIZER = "config.json", "processor_config.json", "tokenizer.json"

HOSTILE: dict[str, HostileCheckpoint] = {
    # files of weights
    "weights cut off": HostileCheckpoint(bytes_of(WEIGHTS, lambda b: b[:-100]), CUT),
    "weights cut in the header": HostileCheckpoint(bytes_of(WEIGHTS, lambda b: b[:50]), CUT),
    "weights empty": HostileCheckpoint(bytes_of(WEIGHTS, lambda b: b""), f"{WEIGHTS} is empty"),
    "weights random": HostileCheckpoint(bytes_of(WEIGHTS, lambda b: os.urandom(4_096)), CUT),
    "weights zero": HostileCheckpoint(bytes_of(WEIGHTS, lambda b: bytes(4_096)), CUT),
    "weights that are a page of HTML": HostileCheckpoint(text(WEIGHTS, "<html>404</html>"), CUT),
    "weights that are a pointer of Git LFS": HostileCheckpoint(
        text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"), CUT
    ),
    "weights gone": HostileCheckpoint(gone(WEIGHTS), "there are no weights in"),
    "weights that are a folder": HostileCheckpoint(
        lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()) and None, "is missing"
    ),
    "weights that are a pipe": HostileCheckpoint(
        lambda folder: ((folder / WEIGHTS).unlink(), os.mkfifo(folder / WEIGHTS)) and None, "is missing"
    ),
    "a header of 2^60 bytes": HostileCheckpoint(
        bytes_of(WEIGHTS, lambda b: struct.pack("<Q", 2**60) + b[8:]), CUT
    ),
    "a header that claims 4 TB": HostileCheckpoint(
        header(lambda h: h[KEY].update(shape=[10**6, 10**6], data_offsets=[0, 4 * 10**12])), CUT
    ),
    "a header whose tensors overlap": HostileCheckpoint(
        header(lambda h: h[KEY].update(data_offsets=[0, 10])), CUT
    ),
    "bytes after the weights": HostileCheckpoint(bytes_of(WEIGHTS, lambda b: b + bytes(64)), CUT),
    "a link to another file": HostileCheckpoint(
        _link(WEIGHTS, "moved.safetensors"), "link that leads out of its folder, to .*moved.safetensors"
    ),
    "a link to /etc/passwd": HostileCheckpoint(_link(WEIGHTS, "/etc/passwd"), "leads out of its folder"),
    "a link into nothing": HostileCheckpoint(_link(WEIGHTS, "/nowhere/at/all"), "is missing"),
    # tensors
    "a shape": HostileCheckpoint(
        tensors(lambda w: w.update({KEY: w[KEY].flatten()[:-1].clone()})),
        f"{KEY} in .*{WEIGHTS} has the shape",
    ),
    "a transposed tensor": HostileCheckpoint(
        tensors(lambda w: w.update({"query": w[KEY].T.contiguous()})), "hold query"
    ),
    "a key gone": HostileCheckpoint(tensors(_drop(KEY)), f"lack {KEY}"),
    "a key renamed": HostileCheckpoint(
        tensors(_rename_key), f"lack {KEY} and hold resampler.kv_project.weight .{WEIGHTS}"
    ),
    "no vision weights": HostileCheckpoint(tensors(_drop("vision.")), "lack vision.*and .* more"),
    "an unknown key": HostileCheckpoint(
        tensors(lambda w: w.update({"evil": torch.zeros(1)})),
        f"hold evil .{WEIGHTS}., which config.json knows",
    ),
    "no tensor at all": HostileCheckpoint(tensors(lambda w: w.clear()), "hold 0 tensors"),
    "NaN": HostileCheckpoint(
        tensors(_set_value(float("nan"))), f"{KEY} in .*{WEIGHTS} holds 1 of .* not finite"
    ),
    "infinity": HostileCheckpoint(tensors(_set_value(float("inf"))), f"{KEY} in .* not finite"),
    "minus infinity": HostileCheckpoint(tensors(_set_value(-float("inf"))), f"{KEY} in .* not finite"),
    "all NaN": HostileCheckpoint(tensors(lambda w: [t.fill_(torch.nan) for t in w.values()]), "not finite"),
    "int8": HostileCheckpoint(
        tensors(lambda w: w.update({KEY: w[KEY].to(torch.int8)})), f"{KEY} in .* is of the dtype I8"
    ),
    "bool": HostileCheckpoint(tensors(lambda w: w.update({KEY: w[KEY] > 0})), "is of the dtype BOOL"),
    "complex numbers": HostileCheckpoint(
        tensors(lambda w: w.update({KEY: w[KEY].to(torch.complex64)})), "is of the dtype C64"
    ),
    # pickles
    "a payload": HostileCheckpoint(
        _pickled(lambda folder: {"x": Payload(folder)}, "torch"),
        "pytorch_model.bin holds .*system, which could",
    ),
    "a plain pickle": HostileCheckpoint(_pickled(Payload, "python"), "pytorch_model.bin"),
    "a module": HostileCheckpoint(
        _pickled(lambda folder: torch.nn.Linear(2, 2), "torch"), "holds torch.nn.*, which could run code"
    ),
    "a list": HostileCheckpoint(_pickled(lambda folder: [1, 2], "torch"), "other than tensors by name"),
    "a whole-number tensor": HostileCheckpoint(
        _pickled(lambda folder: {KEY: torch.zeros(2, dtype=torch.int64)}, "torch"), "is of the dtype int64"
    ),
    "a sparse tensor": HostileCheckpoint(
        _pickled(lambda folder: {KEY: torch.zeros(2, 2).to_sparse()}, "torch"),
        f"{KEY} in .*is of the dtype|cut off",
    ),
    "a pickle of one byte": HostileCheckpoint(_torch_pickle(b"."), f"{BIN_CUT} .pop from empty list"),
    "a pickle cut in a number": HostileCheckpoint(_torch_pickle(b"\x80\x02J\x01"), BIN_CUT),
    "a pickle of bytes for text": HostileCheckpoint(
        _torch_pickle(b"\x80\x02X\x01\x00\x00\x00\xff."), BIN_CUT
    ),
    "a pickle of a storage that is none": HostileCheckpoint(
        _torch_pickle(b"\x80\x02(X\x07\x00\x00\x00storagetQ."), BIN_CUT
    ),
    # the index
    "an index to a file outside": HostileCheckpoint(
        _index("../outside.safetensors"), f"{INDEX} names the file '../outside.safetensors' for {KEY}"
    ),
    "an index to an absolute path": HostileCheckpoint(_index("/etc/passwd"), "names the file '/etc/passwd'"),
    "an index to a number": HostileCheckpoint(_index(5), "names the file 5"),  # type: ignore[arg-type]
    "an index to a missing file": HostileCheckpoint(
        _index("model-2.safetensors"), "model-2.safetensors is missing"
    ),
    "an index of another file": HostileCheckpoint(
        text(INDEX, json.dumps({"weight_map": {"a": WEIGHTS}})),
        f"index of .* and its file {WEIGHTS} do not agree",
    ),
    "an index without a map": HostileCheckpoint(text(INDEX, "{}"), f"{INDEX} has no weight_map"),
    "an index that is a list": HostileCheckpoint(text(INDEX, "[]"), f"{INDEX} must hold a JSON object"),
    # config.json
    "no config": HostileCheckpoint(gone(CONFIG), "[Tt]here is no (checkpoint|base model) at|no config.json"),
    "config: cut off": HostileCheckpoint(text(CONFIG, "{"), "config.json is no JSON"),
    "config: a list": HostileCheckpoint(text(CONFIG, "[]"), "config.json must hold a JSON object"),
    "config: deep": HostileCheckpoint(text(CONFIG, _deep(100_000)), "config.json is nested too deeply"),
    "config: a terabyte": HostileCheckpoint(
        _sparse(CONFIG, 10**12), "config.json has 1,000,000,000,000 bytes"
    ),
    "config: bytes": HostileCheckpoint(
        bytes_of(CONFIG, lambda b: b"\xff\xfe"), "config.json, line 1, is not text"
    ),
    "config: NaN": HostileCheckpoint(text(CONFIG, '{"a": NaN}'), "config.json is no JSON .NaN"),
    "config: another model": HostileCheckpoint(
        field(CONFIG, "model_type", "llama"), "config.json, model_type, is 'llama': expected 'monkey'"
    ),
    "config: no model": HostileCheckpoint(field(CONFIG, "model_type", None), "model_type, is None"),
    "config: an unknown language model": HostileCheckpoint(
        field(CONFIG, "text_config.model_type", "nonsense"), "config.json: "
    ),
    "config: a ViT for a language model": HostileCheckpoint(
        field(CONFIG, "text_config.model_type", "clip_vision_model"), "config.json"
    ),
    "config: a section gone": HostileCheckpoint(field(CONFIG, "text_config", None), "text_config is missing"),
    "config: a section of words": HostileCheckpoint(
        field(CONFIG, "vision_config", "vit"), "vision_config is missing"
    ),
    "config: no heads": HostileCheckpoint(
        field(CONFIG, "vision_config.heads", 0), "vision_config.heads is 0"
    ),
    "config: -1 layers": HostileCheckpoint(
        field(CONFIG, "vision_config.layers", -1), "vision_config.layers is -1"
    ),
    "config: a billion layers": HostileCheckpoint(
        field(CONFIG, "text_config.num_hidden_layers", 10**9), "text_config.num_hidden_layers is 1000000000"
    ),
    "config: 900 layers": HostileCheckpoint(
        field(CONFIG, "vision_config.layers", 900),
        "vision_config.layers, is 900, but the files of weights hold",
    ),
    "config: a width in words": HostileCheckpoint(
        field(CONFIG, "vision_config.width", "wide"), "vision_config.width is 'wide'"
    ),
    "config: a width of 2^40": HostileCheckpoint(
        field(CONFIG, "text_config.hidden_size", 2**40), "text_config.hidden_size is 1099511627776"
    ),
    "config: a width of 60,000": HostileCheckpoint(
        field(CONFIG, "text_config.hidden_size", 60_000), "has the shape .* config.json asks for"
    ),
    "config: half a head": HostileCheckpoint(field(CONFIG, "resampler_config.heads", 1.5), "heads is 1.5"),
    "config: heads that do not divide": HostileCheckpoint(
        field(CONFIG, "resampler_config.heads", 3), "config.json: .* does not divide by its 3 heads"
    ),
    "config: three heads of the language model": HostileCheckpoint(
        field(CONFIG, "text_config.num_attention_heads", 3), "text_config.num_attention_heads is 3"
    ),
    "config: an unknown activation": HostileCheckpoint(
        field(CONFIG, "text_config.hidden_act", "boom"), "config.json: 'boom' is missing or unknown"
    ),
    "config: ten billion queries": HostileCheckpoint(
        field(CONFIG, "resampler_config.queries", 10**10), "resampler_config.queries is 10000000000"
    ),
    "config: a vocabulary of 10^12": HostileCheckpoint(
        field(CONFIG, "text_config.vocab_size", 10**12), "text_config.vocab_size is 1000000000000"
    ),
    "config: a grid of 10^12 tiles": HostileCheckpoint(
        field(CONFIG, "grids", [[10**6, 10**6]]), "grids is 1000000"
    ),
    "config: a grid of words": HostileCheckpoint(field(CONFIG, "grids", ["2x2"]), "grids holds '2x2'"),
    "config: automatic grids of 10^6 tiles": HostileCheckpoint(
        field(CONFIG, "max_tiles", 10**6), "max_tiles is 1000000"
    ),
    "config: automatic grids of no tile": HostileCheckpoint(field(CONFIG, "max_tiles", 0), "max_tiles is 0"),
    "config: automatic grids of half a tile": HostileCheckpoint(
        field(CONFIG, "max_tiles", 0.5), "max_tiles is 0.5"
    ),
    "config: automatic grids of more tiles": HostileCheckpoint(
        field(CONFIG, "max_tiles", 4), r"lora_A in .* has the shape .* config.json asks for \[8"
    ),
    "config: another grid": HostileCheckpoint(
        field(CONFIG, "grids", [[3, 3]]), r"lora_A in .* has the shape .* config.json asks for \[9"
    ),
    "config: another rank": HostileCheckpoint(
        field(CONFIG, "mlp_rank", 5), "mlp_lora.lora_A in .* has the shape"
    ),
    "config: an unknown mode": HostileCheckpoint(field(CONFIG, "lora_mode", "some"), "config.json"),
    "config: a dtype that is none": HostileCheckpoint(field(CONFIG, "dtype", "os"), "dtype is 'os'"),
    "config: whole numbers": HostileCheckpoint(field(CONFIG, "dtype", "int8"), "dtype is 'int8'"),
    "config: weights of another file": HostileCheckpoint(
        field(CONFIG, "transformers_weights", "../outside.safetensors"), "transformers_weights: "
    ),
    "config: a kernel of a hub": HostileCheckpoint(
        field(CONFIG, "text_config.attn_implementation", "evil/kernel"),
        "attn_implementation is 'evil/kernel'",
    ),
    "config: quantised": HostileCheckpoint(
        field(CONFIG, "quantization_config", {"quant_method": "gptq"}), "quantization_config: "
    ),
    "config: a link out": HostileCheckpoint(
        _link(CONFIG, "moved.json"), "config.json is a link that leads out"
    ),
    # generation, code
    "a million beams": HostileCheckpoint(
        text("generation_config.json", '{"num_beams": 1000000}'),
        "generation_config.json, num_beams, is 1000000",
    ),
    "code in auto_map": HostileCheckpoint(_evil, CUT),
    # processor and tokenizer
    "no processor": HostileCheckpoint(gone(PROCESSOR), f"holds no {PROCESSOR}", True),
    "processor: cut off": HostileCheckpoint(text(PROCESSOR, "{"), f"{PROCESSOR} is no JSON", True),
    "processor: deep": HostileCheckpoint(text(PROCESSOR, _deep(100_000)), "nested too deeply", True),
    "processor: a list": HostileCheckpoint(text(PROCESSOR, "[]"), "must hold a JSON object", True),
    "processor: no images": HostileCheckpoint(
        text(PROCESSOR, "{}"), f"{PROCESSOR}, image_processor: expected", True
    ),
    "processor: a billion queries": HostileCheckpoint(
        field(PROCESSOR, "queries", 10**9), f"{PROCESSOR}, queries is 1000000000", True
    ),
    "processor: other queries": HostileCheckpoint(
        field(PROCESSOR, "queries", 9), "queries, is 9, but the model", True
    ),
    "processor: tiles of 10^6 pixels": HostileCheckpoint(
        field(PROCESSOR, "image_processor.tile_size", 10**6), "image_processor.tile_size is 1000000", True
    ),
    "processor: 10^5 rows": HostileCheckpoint(
        field(PROCESSOR, "image_processor.rows", 10**5), "image_processor.rows is 100000", True
    ),
    "processor: automatic grids of 10^6 tiles": HostileCheckpoint(
        field(PROCESSOR, "image_processor.max_tiles", 10**6), "image_processor.max_tiles is 1000000", True
    ),
    "processor: no rows": HostileCheckpoint(
        field(PROCESSOR, "image_processor.rows", 0), "image_processor.rows is 0", True
    ),
    "processor: 1000x2 tiles of 1000 pixels": HostileCheckpoint(
        lambda folder: (
            (
                field(PROCESSOR, "image_processor.rows", 1_000)(folder),
                field(PROCESSOR, "image_processor.tile_size", 1_000)(folder),
            )
            and None
        ),
        "2,000,000,000 pixels an image",
        True,
    ),
    "processor: a mean of words": HostileCheckpoint(
        field(PROCESSOR, "image_processor.image_mean", ["a", "b", "c"]),
        "image_mean is .*: expected three",
        True,
    ),
    "processor: a deviation of nothing": HostileCheckpoint(
        field(PROCESSOR, "image_processor.image_std", [0, 0, 0]), "image_std is .*: expected three", True
    ),
    "processor: of another model": HostileCheckpoint(
        field(PROCESSOR, "image_processor.image_processor_type", "CLIPImageProcessor"),
        "'CLIPImageProcessor'",
        True,
    ),
    "processor: unknown views": HostileCheckpoint(
        field(PROCESSOR, "image_processor.views", "all"), "no setting of views called 'all'", True
    ),
    "no tokenizer": HostileCheckpoint(gone(TOKENIZER), f"holds no {TOKENIZER}", True),
    "tokenizer: cut off": HostileCheckpoint(
        bytes_of(TOKENIZER, lambda b: b[: len(b) // 2]),
        "the processor or the tokenizer in .* cannot be loaded",
        True,
    ),
    "tokenizer: deep": HostileCheckpoint(text(TOKENIZER, _deep(100_000)), "cannot be loaded", True),
    "tokenizer: another JSON": HostileCheckpoint(
        text(TOKENIZER, '{"version": "1.0"}'), "cannot be loaded", True
    ),
    "tokenizer: a terabyte": HostileCheckpoint(
        _sparse(TOKENIZER, 10**12), "that a file of a tokenizer may have", True
    ),
    "tokenizer: settings that are a list": HostileCheckpoint(
        text("tokenizer_config.json", "[1]"), "cannot be loaded", True
    ),
    "tokenizer: too few embeddings": HostileCheckpoint(
        lambda folder: (
            (
                field(CONFIG, "text_config.vocab_size", 40)(folder),
                tensors(
                    lambda w: w.update(
                        {n: t[:40].clone() for n, t in w.items() if "embed_tokens" in n or "lm_head" in n}
                    )
                )(folder),
            )
            and None
        ),
        "the tokenizer in .* has .* tokens, the model of config.json has embeddings for 40",
        True,
    ),
    "tokenizer: other image tokens": HostileCheckpoint(
        field(CONFIG, "image_token_id", 7), "gives the image's tokens the ids", True
    ),
}


# Fields of a released `config.json`, and what must be said about each.
HOSTILE_RELEASED: dict[str, tuple[str, Any, str]] = {
    "a billion layers": ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000"),
    "900 layers": ("num_hidden_layers", 900, "num_hidden_layers, is 900, but the files"),
    "a billion blocks": ("visual.layers", 10**9, "visual.layers is 1000000000"),
    "no heads": ("visual.heads", 0, "visual.heads is 0"),
    "a width in words": ("visual.width", "wide", "visual.width is 'wide'"),
    "a width of nothing": ("hidden_size", None, "config.json"),
    "another width": ("hidden_size", 256, "has the shape"),
    "a ratio in words": ("visual.mlp_ratio", "four", "visual.mlp_ratio is 'four': expected a number"),
    "a ratio that is too large": ("visual.mlp_ratio", 1e300, "config.json"),
    "an image of 10^9 pixels": ("visual.image_size", 10**9, "visual.image_size is 1000000000"),
    "a million LoRAs": ("visual.lora_repeat_num", 10**6, "LoRA for 1000000 tiles"),
    "LoRAs in words": ("visual.lora_repeat_num", "four", "LoRA for four tiles"),
    "a grid of words": ("grid", "2x2", "grid holds '2x2'"),
    "a grid of 10^12": ("grid", [10**6, 10**6], "grid is 1000000"),
    "a start id in words": ("visual.image_start_id", "x", "visual.image_start_id is 'x'"),
    "a base of nothing": ("rotary_emb_base", None, "config.json: its values describe no model"),
    "a section that is a list": ("visual", [], "model_type|no released checkpoint"),
}
