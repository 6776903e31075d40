"""YAML to plain values that know their line, without the surprises and the bombs of YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from qcaps.errors import Problem, RecipeError, quoted, shortened

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 10_000


@dataclass(frozen=True)
class Node:
    """A value of a YAML text and its place.

    Parameters
    ----------
    value
        Mappings and lists hold nodes.
    line, column
        Counted from 1. The start of the value, or of its key if it stands in a mapping.
    source
        What an imported text is called; nothing for the text itself.
    """

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    line: int
    column: int
    source: str = ""


@dataclass(frozen=True)
class _Found:
    """Problems met while reading: values that cannot be used, and keys that can, once."""

    forbidden: list[Problem]
    keys: list[Problem]


def read_yaml(text: bytes, *, source: str) -> Node:
    """Read one YAML document of mappings, lists and scalars.

    Parameters
    ----------
    text
        UTF-8, at most 256 KiB, 20 levels and 10,000 nodes.
    source
        What the text is called in the error.

    Returns
    -------
    Node
        An empty document is None.

    Raises
    ------
    RecipeError
        With every problem found: broken YAML, a limit exceeded, an anchor, alias or tag, a second document, a
        key that is given twice or is not text.

    Notes
    -----
    Only ``null``, ``~``, ``true``, ``false``, decimal whole numbers and finite decimal fractions such as
    ``0.2`` or ``1e-3`` are read as such. All else is text, unlike in YAML 1.1: ``no``, ``off``, ``010``,
    ``0x1F``, ``1_000``, ``12:30:00``, ``2020-01-01``, ``.inf``.
    """
    root, problems = read_with_problems(text, source=source)
    if problems:
        raise RecipeError(problems, source=source)
    return root


def read_with_problems(text: bytes, *, source: str) -> tuple[Node, list[Problem]]:
    """Read as :func:`read_yaml` does, and give keys that are wrong beside what could be read.

    Raises
    ------
    RecipeError
        With every other problem.
    """
    found = _Found([], [])
    root = Node(None, 1, 1)
    try:
        events = _events(_decode(text))
        for event in events:  # one at most; asking for more finds what follows it
            root = _read(event, events, "", found)
    except _UnreadableError as error:
        found.forbidden.append(error.problem)
    if found.forbidden:
        raise RecipeError([*found.forbidden, *found.keys], source=source)
    return root, found.keys


def plain(node: Node) -> object:
    """Give the value without the places: dict, list and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


class _UnreadableError(Exception):
    """The text cannot be read beyond this problem."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, "", message)


def _decode(text: bytes) -> str:
    """Turn bytes into printable text of a bearable size."""
    if len(text) > MAX_BYTES:
        raise _UnreadableError(1, f"{len(text)} bytes are more than the {MAX_BYTES} allowed")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise _UnreadableError(line, f"byte 0x{text[error.start]:02x} is not UTF-8") from error
    if odd := _UNPRINTABLE.search(decoded):
        line = decoded.count("\n", 0, odd.start()) + 1
        raise _UnreadableError(line, f"character U+{ord(odd.group()):04X} is not allowed")
    return decoded


# What YAML forbids, and the line ends that YAML 1.1 sees where editors do not: U+0085, U+2028, U+2029.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _events(text: str) -> Iterator[yaml.Event]:
    """Give the events of the nodes of one document, one by one and within the limits."""
    line = 1
    depth = nodes = documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = _place(event)[0]
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            nodes += isinstance(event, yaml.NodeEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if depth > MAX_DEPTH:
                raise _UnreadableError(line, f"more than {MAX_DEPTH} levels of nesting")
            if nodes > MAX_NODES:
                raise _UnreadableError(line, f"more than {MAX_NODES} values and keys")
            if documents > 1:
                raise _UnreadableError(line, "a second document starts here; only one is allowed")
            if isinstance(event, (yaml.NodeEvent, yaml.CollectionEndEvent)):
                yield event
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else line
        raise _UnreadableError(line, f"this is not YAML: {shortened(str(error.problem))}") from error
    except (ValueError, OverflowError) as error:
        # PyYAML hands numbers of escapes and directives to Python unchecked.
        raise _UnreadableError(line, "this is not YAML: a number is out of range") from error


def _read(event: yaml.Event, events: Iterator[yaml.Event], path: str, found: _Found) -> Node:
    """Build the node that starts with `event`, taking the rest of it from `events`."""
    line, column = _place(event)
    found.forbidden.extend(Problem(line, path, message) for message in _forbidden(event))
    if isinstance(event, yaml.MappingStartEvent):
        return Node(_read_mapping(events, path, found), line, column)
    if isinstance(event, yaml.SequenceStartEvent):
        return Node(_read_list(events, path, found), line, column)
    return Node(_resolve(event) if isinstance(event, yaml.ScalarEvent) else None, line, column)


def _place(event: yaml.Event) -> tuple[int, int]:
    """Give line and column, counted from 1."""
    mark = event.start_mark
    assert mark is not None  # every event that was read from text has one
    return mark.line + 1, mark.column + 1


def _forbidden(event: yaml.Event) -> Iterator[str]:
    """Name what a node carries besides its value."""
    if isinstance(event, yaml.AliasEvent):
        yield f"alias {quoted(f'*{event.anchor}')} is not allowed; repeat the value or use imports"
    elif isinstance(event, yaml.NodeEvent) and event.anchor is not None:
        yield f"anchor {quoted(f'&{event.anchor}')} is not allowed; repeat the value or use imports"
    if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
        yield f"tag {quoted(event.tag)} is not allowed; leave it out"
    if isinstance(event, yaml.ScalarEvent) and _HALF_CHARACTER.search(event.value):
        yield "an escape gives half a character; write the character itself"


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def _read_mapping(events: Iterator[yaml.Event], path: str, found: _Found) -> dict[str, Node]:
    """Read keys and values up to the end of a mapping."""
    entries: dict[str, Node] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _read(event, events, path, found)
        name: str = getattr(event, "value", "…")
        child = f"{path}.{shortened(name)}" if path else shortened(name)
        if not isinstance(key.value, str):
            found.keys.append(Problem(key.line, path, f"key {quoted(name)} is not text; quote it"))
        elif name in entries:
            first = entries[name].line
            found.keys.append(Problem(key.line, child, f"key {quoted(name)} is already given on line {first}"))
        value = _read(next(events), events, child, found)
        entries.setdefault(name, Node(value.value, key.line, key.column))
    return entries


def _read_list(events: Iterator[yaml.Event], path: str, found: _Found) -> list[Node]:
    """Read values up to the end of a list."""
    items: list[Node] = []
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        items.append(_read(event, events, f"{path}[{len(items)}]", found))
    return items


def _resolve(scalar: yaml.ScalarEvent) -> str | int | float | bool | None:
    """Tell the type of a scalar from its text; what is quoted is text."""
    text: str = scalar.value
    if scalar.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _LONGEST_INTEGER else text
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_LONGEST_INTEGER = 100  # Python reads longer ones slowly, or not at all
_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
