"""Profiles and mixtures that are broken or hostile, with what must be said about each.

A file may come from a stranger: it must be refused in one sentence with file and line, quickly, within little
memory, and nothing in it may be executed.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class HostileYAML:
    """A YAML file that must be refused.

    Fields:
        text: content of `hostile.yaml`.
        sentence: regular expression of what the error says.
        others: further files beside it, by name.
        line: line that the error must name, None where there is none to name.
    """

    text: str | bytes
    sentence: str
    line: int | None = None
    others: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and return the hostile one."""
        for name, text in self.others.items():
            (folder / name).write_text(text, encoding="utf-8")

        content = self.text if isinstance(self.text, bytes) else self.text.encode()
        (folder / "hostile.yaml").write_bytes(content)
        return folder / "hostile.yaml"


def _bomb(levels: int = 12) -> str:
    """Return lists of ten aliases of lists of ten aliases … : few bytes, 10^levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def _ladder(levels: int = 100) -> str:
    """Return lists that each hold an alias of the one before: flat to read, deep once spelt out."""
    return "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, levels))


def _deep(depth: int) -> str:
    return "description: " + "[" * depth + "]" * depth + "\n"


# What is wrong with the YAML itself: of a profile and of a mixture alike.
BROKEN: dict[str, HostileYAML] = {
    "a tab": HostileYAML("description: x\n\tseed: 1\n", "is not YAML: found a tab", 2),
    "NUL": HostileYAML(b"description: x\nseed: \0\n", "is not YAML: .*not allowed", 2),
    "NUL in a text": HostileYAML('description: "a\\0b"\n', "a text holds NUL", 1),
    "half a character": HostileYAML('description: "\\ud800"\n', "half a character|is not YAML", 1),
    "Latin-1": HostileYAML("description: x\nroot: Größe\n".encode("latin-1"), "is not text in UTF-8", 2),
    "an image": HostileYAML(b"\x89PNG\r\n\x1a\n\0\0\0", "is not text in UTF-8", 1),
    "nothing": HostileYAML("", "is empty"),
    "only comments": HostileYAML("# nothing\n", "is empty"),
    "a list": HostileYAML("- smoke\n- nano\n", "holds a list"),
    "a word": HostileYAML("smoke\n", "holds a single value"),
    "two documents": HostileYAML("description: x\n---\ndescription: y\n", "is not YAML: .*document", 2),
    "an open bracket": HostileYAML("description: [1, 2\nseed: 1\n", "is not YAML"),
    "an open quote": HostileYAML("description: 'x\nseed: 1\n", "is not YAML"),
    "bad indentation": HostileYAML("description: x\n  seed: 1\n", "is not YAML", 2),
    "an undefined alias": HostileYAML("seed: 1\ndescription: *gone\n", "is not YAML: .*alias", 2),
    "a python object": HostileYAML(
        "seed: 1\ndescription: !!python/object/apply:os.system ['touch executed']\n",
        "the tag !!python/object/apply:os.system is not read",
        2,
    ),
    "a python name": HostileYAML("description: !!python/name:os.system\n", "the tag !!python/name", 1),
    "a tag on the top": HostileYAML(
        "!!python/object/new:type\nseed: 1\n", "the tag !!python/object/new:type"
    ),
    "a private tag": HostileYAML("description: !secret x\n", "the tag !secret is not read", 1),
    "binary": HostileYAML("description: !!binary aGk=\n", "the tag !!binary is not read", 1),
    "a set": HostileYAML("description: !!set {a, b}\n", "the tag !!set is not read", 1),
    "a false number": HostileYAML("seed: !!int many\n", "many is no value of the kind int", 1),
    "a number of 10,000 digits": HostileYAML(f"seed: {'9' * 10_000}\n", "is no value of the kind int", 1),
    "whole-number names": HostileYAML("description: x\n5: y\n", "name of a field is text, got 5", 2),
    "a yes for a name": HostileYAML("description: x\nyes: y\n", "name of a field is text, got yes", 2),
    "a list for a name": HostileYAML("[a, b]: y\n", "name of a field is text, got a list", 1),
    "a name twice": HostileYAML(
        "description: x\nseed: 1\ndescription: y\n", "description stands here again, after line 1", 3
    ),
    "a bomb of aliases": HostileYAML(_bomb(), "more than 50,000 values"),
    "levels of aliases": HostileYAML(_ladder(), "aliases spell out more than 32 levels"),
    "a value within itself": HostileYAML("description: &a [*a]\n", "contains itself by an alias", 1),
    "a merge of a word": HostileYAML("<<: word\n", "takes fields from a section", 1),
    "100 levels": HostileYAML(_deep(100), "beyond 32 levels", 1),
    "400,000 levels": HostileYAML(_deep(400_000), "beyond 32 levels", 1),
    "deep by indentation": HostileYAML("".join(f"{' ' * i}a:\n" for i in range(600)), "beyond 32 levels", 33),
    "200,000 values": HostileYAML(f"description: [{','.join(['1'] * 200_000)}]\n", "beyond 50,000 values"),
    "two megabytes": HostileYAML(f"description: {'x' * 2**21}\n", "has 2,097,166 bytes, more than"),
}

SMOKE = "extends: smoke\n"

# Profiles whose YAML is well formed.
PROFILES: dict[str, HostileYAML] = {
    "extends a number": HostileYAML("extends: 5\n", "extends: expected the name of a profile", 1),
    "extends a list": HostileYAML("extends: [smoke]\n", "extends: expected the name of a profile", 1),
    "extends nothing": HostileYAML("description: x\nextends:\n", "extends: expected .* got None", 2),
    "extends an unknown one": HostileYAML("extends: smok\n", "no profile called 'smok'", 1),
    "extends a missing file": HostileYAML("extends: gone.yaml\n", "no profile called 'gone.yaml'", 1),
    "extends a path": HostileYAML("extends: ../../etc/passwd\n", "no profile called", 1),
    "extends itself": HostileYAML("extends: hostile.yaml\n", "extend each other: .*hostile.yaml", 1),
    "extends in a circle": HostileYAML(
        "extends: other.yaml\n",
        "other.yaml, line 1, extends: .*extend each other",
        others={"other.yaml": "extends: hostile.yaml\n"},
    ),
    "extends a chain of forty": HostileYAML(
        "extends: p0.yaml\n",
        "more than 10 profiles extend",
        others={f"p{i}.yaml": f"extends: p{i + 1}.yaml\n" for i in range(40)},
    ),
    "extends a broken one": HostileYAML(
        "extends: other.yaml\n",
        "other.yaml, line 2, is not YAML",
        others={"other.yaml": "seed: 1\n\tx: 1\n"},
    ),
    "a wrong value of the parent": HostileYAML(
        "extends: other.yaml\ndescription: x\n",
        "other.yaml, line 2, rows: ",
        others={"other.yaml": "extends: smoke\nrows: none\n"},
    ),
    "a name": HostileYAML(SMOKE + "name: other\n", "name: a profile is called after its file", 2),
    "an unknown field": HostileYAML(
        SMOKE + "tilesize: 56\n", "tilesize: there is no such field; .*tile_size", 2
    ),
    "an unknown field of a section": HostileYAML(
        SMOKE + "training:\n  learning_rat: 1\n  lrr: 2\n", "training.learning_rat: there is no such field", 3
    ),
    "a misspelled field of a section": HostileYAML(
        SMOKE + "training:\n  warm_up: 3\n",
        "training.warm_up: there is no such field; did you mean warmup",
        3,
    ),
    "an unknown field of the encoder": HostileYAML(
        SMOKE + "vision: {widht: 3}\n", "vision.widht: there is no such field; did you mean width", 2
    ),
    "a rate of infinity": HostileYAML(
        SMOKE + "training: {lr: .inf}\n", "training.lr is .inf: expected a finite", 2
    ),
    "a rate of no number": HostileYAML(SMOKE + "training:\n  lr: .nan\n", "training.lr is .nan", 3),
    "an infinity in words": HostileYAML(
        SMOKE + "training: {lr: inf}\n", "training.lr: Input should be a finite", 2
    ),
    "an infinity in digits": HostileYAML(SMOKE + "training: {lr: 1.0e+999}\n", "expected a finite number", 2),
    "a negative rate": HostileYAML(SMOKE + "training: {lr: -1.0}\n", "training.lr: .*greater than 0", 2),
    "a million rows": HostileYAML(SMOKE + "rows: 1000000\n", "rows: .*less than or equal to 1024", 2),
    "no rows": HostileYAML(SMOKE + "rows: 0\n", "rows: .*greater than 0", 2),
    "negative rows": HostileYAML(SMOKE + "rows: -2\n", "rows: .*greater than 0", 2),
    "a thousand by a thousand": HostileYAML(
        SMOKE + "rows: 1000\ncols: 1000\n", "number of tiles .* is 1000000"
    ),
    "tiles of a million pixels": HostileYAML(SMOKE + "tile_size: 1000000\n", "tile_size: .*less than", 2),
    "an image of a terabyte": HostileYAML(
        SMOKE + "tile_size: 16384\nrows: 32\ncols: 32\n", "pixels an image, more than"
    ),
    "a billion layers": HostileYAML(
        SMOKE + "vision:\n  layers: 1000000000\n", "vision.layers: .*less than or equal to 1000", 3
    ),
    "a billion layers of the language model": HostileYAML(
        SMOKE + "language_model:\n  config:\n    num_hidden_layers: 1000000000\n",
        "language_model.config: num_hidden_layers is 1000000000",
        3,
    ),
    "a width in words": HostileYAML(SMOKE + "vision: {width: wide}\n", "vision.width: .*valid integer", 2),
    "half a layer": HostileYAML(SMOKE + "vision: {layers: 1.5}\n", "vision.layers: .*valid integer", 2),
    "a billion workers": HostileYAML(SMOKE + "training: {workers: 1000000000}\n", "training.workers: ", 2),
    "a section that is a word": HostileYAML(SMOKE + "training: fast\n", "training: .*valid dictionary", 2),
    "a section that is nothing": HostileYAML(SMOKE + "lora:\n", "lora: .*valid dictionary", 2),
    "an unknown choice": HostileYAML(SMOKE + "views: all\n", "views: Input should be 'tiles", 2),
    "sections left out": HostileYAML("description: x\n", "tile_size: Field required"),
}

_SET = "sets:\n- name: a\n  format: llava\n  path: a.json\n"

# Mixtures whose YAML is well formed.
MIXTURES: dict[str, HostileYAML] = {
    "no sets": HostileYAML("description: x\n", "sets: Field required"),
    "sets that are empty": HostileYAML("sets: []\n", "sets: List should have at least 1", 1),
    "sets that are a word": HostileYAML("sets: all\n", "sets: .*valid list", 1),
    "a set that is a word": HostileYAML("sets: [textvqa]\n", "sets.0: .*valid dictionary", 1),
    "an unknown field": HostileYAML(
        "setz: []\n" + _SET, "setz: there is no such field; did you mean sets", 1
    ),
    "an unknown field of a set": HostileYAML(
        _SET + "  wieght: 2\n", "sets.0.wieght: there is no such field; did you mean weight", 5
    ),
    "an unknown dataset": HostileYAML("sets:\n- dataset: textvq\n", "no public dataset called 'textvq'", 2),
    "a dataset that is a number": HostileYAML("sets:\n- dataset: 5\n", "no public dataset called", 2),
    "a count of 10^30": HostileYAML(_SET + f"  count: {10**30}\n", "sets.0.count: ", 5),
    "a negative count": HostileYAML(_SET + "  count: -1\n", "sets.0.count: .*greater than 0", 5),
    "a weight of infinity": HostileYAML(_SET + "  weight: .inf\n", "sets.0.weight is .inf", 5),
    "a weight of 1e300": HostileYAML(_SET + "  weight: 1.0e+300\n", "sets.0.weight: ", 5),
    "a seed of 10^40": HostileYAML(f"seed: {10**40}\n" + _SET, "seed: ", 1),
    "a path that is a number": HostileYAML(
        "sets:\n- name: a\n  format: llava\n  path: 5\n", r"sets.0.path: Input should be a valid string", 4
    ),
    "one name twice": HostileYAML(_SET + _SET.removeprefix("sets:\n"), "two datasets are called a"),
    "a share of two": HostileYAML("validation: {share: 2}\n" + _SET, "validation.share: .*less than 1", 1),
    "a missing file": HostileYAML(_SET, "a.json"),
}
