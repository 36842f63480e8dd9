"""Read the YAML and JSON files that people write or download, and check them against a schema.

Profiles, mixtures, dataset cards and the settings of checkpoints are all read here. A file may come from a
stranger: its size and depth are bounded, nothing in it is executed, and whatever is wrong with it becomes one
sentence that names the file, the line and the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import yaml

from monkeylib import resources
from monkeylib.errors import first_problem, problem_location

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

# What a settings file may hold. The largest that the library ships has 20 kB and a depth of 6; the index of a
# large checkpoint's weights has a few megabytes.
MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 2**26
MAX_DEPTH = 32
MAX_VALUES = 50_000

# The loader in C is twenty times as fast; a build of PyYAML may lack it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Place of a value: the keys and the positions in lists that lead to it.
Location = tuple[str | int, ...]

# Plain values. Dates stay text, since no field holds one.
_TEXT_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"}
_SCALAR_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}
_MERGE_TAG = "tag:yaml.org,2002:merge"
_MAPPING_TAG, _SEQUENCE_TAG = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"


@dataclass
class Settings:
    """Values of a YAML file, and where they stand.

    Fields:
        path: the file.
        values: its content.
        lines: file and line of each value.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Location, tuple[Path, int]] = field(default_factory=dict)

    def place(self, location: Location) -> str:
        """Return "file, line 3" of a value, of the section around it if it is not there itself."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.lines:
                path, line = self.lines[location[:length]]
                return f"{resources.display_path(path)}, line {line}"
        return resources.display_path(self.path)

    def merged_over(self, base: Settings) -> Settings:
        """Return the settings of `base` with the values of these, section by section."""
        values = _merge(base.values, self.values)
        # A line of the base stays only where its value does.
        lines = {location: place for location, place in base.lines.items() if _holds(values, location)}
        return Settings(self.path, values, lines | self.lines)


def _merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            # A section states only what differs in it.
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value

    return merged


def _holds(value: Any, location: Location) -> bool:
    """Tell whether there is a value at a location."""
    for part in location:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return False
    return True


# --- YAML


def read_yaml(path: Path) -> Settings:
    """Read a YAML file whose top level is a mapping of named fields.

    Aliases are read, but count as often as they are used. Numbers are finite, and names are text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, not YAML, too large, too deep, no mapping, or holds a tag, a name twice,
            or a number that is not finite. The message names file and line.
    """
    text = _read_text(path, MAX_YAML_BYTES)
    try:
        _check_nesting(path, text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        _raise_broken(path, text, error)

    if node is None:
        raise ValueError(f"{resources.display_path(path)} is empty: expected fields such as `name: value`")
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ValueError(
            f"{resources.display_path(path)} holds {kind}: expected fields such as `name: value`"
        )

    reader = _NodeReader(path)
    values = reader.read(node, ())
    return Settings(path, values, reader.lines)


def _read_text(path: Path, most: int) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file at {resources.display_path(path)}")
    size = path.stat().st_size
    if size > most:
        raise ValueError(
            f"{resources.display_path(path)} has {size:,} bytes, more than the {most:,} that a file of "
            "settings may have"
        )

    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{resources.display_path(path)}, line {line}, is not text in UTF-8: save it as UTF-8"
        ) from error


def _check_nesting(path: Path, text: str) -> None:
    """Refuse what is too deep or too long, event by event: composing it would take the memory first."""
    depth = events = 0
    for event in yaml.parse(text, Loader=_LOADER):
        events += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1

        if depth > MAX_DEPTH or events > MAX_VALUES:
            limit = f"{MAX_DEPTH} levels deep" if depth > MAX_DEPTH else f"{MAX_VALUES:,} values"
            _raise_at(path, event.start_mark, f"the file goes beyond {limit}: no settings need as much")


def _raise_at(path: Path, mark: yaml.Mark, message: str) -> NoReturn:
    raise ValueError(f"{resources.display_path(path)}, line {mark.line + 1}: {message}")


def _raise_broken(path: Path, text: str, error: yaml.YAMLError) -> NoReturn:
    """Raise what the parser says as one sentence."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        line, problem = mark.line + 1, error.problem or error.context
    else:
        # A character that YAML does not allow, such as NUL: the error has its position.
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "reason", None) or str(error).splitlines()[0]

    if "\\t" in problem or "'\t'" in problem:
        problem = "found a tab: indent with blanks"
    raise ValueError(f"{resources.display_path(path)}, line {line}, is not YAML: {problem}") from error


class _NodeReader:
    """Turns the nodes of a YAML document into plain values, and notes their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Location, tuple[Path, int]] = {}
        self._constructor = yaml.constructor.SafeConstructor()
        self._values = 0
        self._open: set[int] = set()  # the nodes around the current one

    def read(self, node: yaml.Node, location: Location) -> Any:
        """Return the value of a node."""
        self.lines[location] = (self.path, node.start_mark.line + 1)

        # An alias is the node that it repeats: ten of ten of ten … are many values in few bytes.
        self._values += 1
        if self._values > MAX_VALUES:
            self._fail(node, f"its aliases spell out more than {MAX_VALUES:,} values: shorten it")
        if len(location) > MAX_DEPTH:
            self._fail(node, f"its aliases spell out more than {MAX_DEPTH} levels: make it flatter")
        if id(node) in self._open:
            self._fail(node, "this value contains itself by an alias: spell it out")

        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, location)
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, {_SEQUENCE_TAG})
                return [self.read(item, (*location, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, location)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        self._check_tag(node, {_MAPPING_TAG})
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}

        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for source in self._merge_sources(value_node):
                    # The first of several sources counts.
                    merged = self.read(source, location) | merged
                continue

            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in values:
                self._fail(key_node, f"{key} stands here again, after line {lines[key]}: keep one")
            values[key] = self.read(value_node, (*location, key))
            lines[key] = line
            # A section begins at its name, not at the first of its fields.
            self.lines[(*location, key)] = (self.path, line)

        return merged | values

    def _merge_sources(self, node: yaml.Node) -> Iterator[yaml.Node]:
        """Yield the mappings that `<<:` takes its fields from."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                self._fail(source, "`<<` takes fields from a section, got another value")
            yield source

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _TEXT_TAGS:
            value_text = node.value if isinstance(node, yaml.ScalarNode) else "a list or section"
            self._fail(node, f"the name of a field is text, got {value_text}: quote it")
        return self._text(node)

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        self._check_tag(node, _TEXT_TAGS | _SCALAR_TAGS)
        if node.tag in _TEXT_TAGS:
            return self._text(node)

        try:
            value = self._constructor.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as error:
            # A number of thousands of digits, or `!!int` before a word.
            value_text = node.value if len(node.value) < 20 else f"{node.value[:20]}…"
            raise ValueError(
                f"{resources.display_path(self.path)}, line {node.start_mark.line + 1}: {value_text} is no "
                f"value of the kind {node.tag.rpartition(':')[2]}"
            ) from error

        if isinstance(value, float) and not math.isfinite(value):
            name = ".".join(map(str, location))
            self._fail(node, f"{name} is {node.value}: expected a finite number")
        return value

    def _text(self, node: yaml.ScalarNode) -> str:
        """Return a text that can stand in a path and in a file."""
        if "\0" in node.value or any("\ud800" <= character <= "\udfff" for character in node.value):
            self._fail(node, "a text holds NUL or half a character: remove it")
        return node.value

    def _check_tag(self, node: yaml.Node, expected: set[str]) -> None:
        if node.tag not in expected:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._fail(node, f"the tag {tag} is not read: write plain values without tags")

    def _fail(self, node: yaml.Node, message: str) -> NoReturn:
        _raise_at(self.path, node.start_mark, message)


def validate(schema: type[Model], settings: Settings) -> Model:
    """Check settings against a schema.

    Raises:
        ValueError: they do not fit; the message names file, line and field, and for a field that does not
            exist the one with the nearest name.
    """
    from pydantic import ValidationError

    try:
        return schema.model_validate(settings.values)
    except ValidationError as error:
        place = settings.place(problem_location(error, schema))
        raise ValueError(f"{place}, {first_problem(error, 'the file', schema)}") from None


# --- JSON


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, not JSON, too large, too deep, no object, or holds a number that is not
            finite. The message names the file.
    """
    text = _read_text(path, MAX_JSON_BYTES)
    try:
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply: fetch it again") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it again") from error

    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object: fetch it again")
    return content


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
