"""Read the pickle of a foreign torch zip as data; nothing it names is looked up, imported or called.

PyTorch describes a state dict with two dozen operations and a handful of names. They are carried out here one by
one on dictionaries, lists and tuples, and a tensor becomes a description of where its numbers lie. Any other
operation or name refuses the file.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcaps.artifacts.records import refusal
from qcaps.errors import quoted


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the record ``data/<key>``, as many as `elements`, of a kind such as ``Float``."""

    kind: str
    key: str
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its storage; `offset` and `stride` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(pickled: bytes, where: str) -> object:
    """Give what a pickle holds: plain values, containers and :class:`StoredTensor`.

    Raises
    ------
    ArtifactError
        If it asks for anything else.
    Exception
        Of any kind, if it is damaged; for the caller to translate.
    """
    return _Machine(where).run(pickled)


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names."""

    text: str


# So many operations need a quarter of a second and 50 MB; a ResNet-50 needs fifteen thousand.
_MOST_STEPS = 250_000
# Bounds of what an operation may copy: a name, and the dimensions of a tensor.
_STORAGE_NAME = re.compile(r"torch ([A-Za-z0-9]{1,20})Storage")
_MOST_DIMENSIONS = 16
_LARGEST_NUMBER = 1 << 63
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> object:
        for step, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if operation.name == "STOP":
                return self.stack.pop()
            if step > _MOST_STEPS:
                raise refusal("holds far more than tensors", self.where)
            if operation.name not in _OPERATIONS:
                raise refusal(f"holds the pickle operation {operation.name}, which no state dict needs", self.where)
            _OPERATIONS[operation.name](self, argument)
        raise EOFError

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(count))[::-1]

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("no list to append to")
        self.stack[-1].extend(values)

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("no dictionary to fill")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Not even shown, for a tuple of tuples of one tuple has a text, and a hash, without end.
            if type(key) not in (str, int):
                raise refusal(f"holds a dictionary with a key of kind {type(key).__name__}", self.where)
            if key in target:
                raise refusal(f"holds the key {quoted(key)} twice", self.where)
            target[key] = value

    def name(self, text: str) -> None:
        if text not in (_ORDERED_DICT, _TENSOR, _PARAMETER) and not _STORAGE_NAME.fullmatch(text):
            raise refusal(f"asks for {quoted(text)} on loading", self.where)
        self.push(_Name(text))

    def call(self) -> None:
        function, arguments = self.last(2)
        if function == _Name(_ORDERED_DICT) and arguments == ():
            self.push({})
        elif function == _Name(_TENSOR):
            self.push(_tensor(*arguments))
        elif function == _Name(_PARAMETER) and type(arguments[0]) is StoredTensor:
            self.push(arguments[0])
        else:
            raise refusal("calls a function on loading that no state dict needs", self.where)

    def set_state(self) -> None:
        """Drop the attributes of an object: a state dict carries the versions of its modules so."""
        target, _ = self.last(2)
        if type(target) is not dict:
            raise TypeError("only an ordered dictionary has attributes")
        self.push(target)

    def persistent(self) -> None:
        word, name, key, location, elements = self.stack.pop()
        kind = _STORAGE_NAME.fullmatch(name.text)
        if word != "storage" or kind is None or type(key) is not str or type(location) is not str:
            raise ValueError("no storage")
        self.push(Storage(kind[1], key, _whole(elements)))


def _tensor(
    storage: object, offset: object, shape: object, stride: object, gradient: object, hooks: object, *more: object
) -> StoredTensor:
    """Describe a tensor by the arguments of PyTorch's rebuilding function."""
    if type(storage) is not Storage or type(shape) is not tuple or type(stride) is not tuple or len(more) > 1:
        raise TypeError("no dense tensor")
    if len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS:
        raise TypeError("no plain tensor")
    return StoredTensor(storage, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, stride)))


def _whole(number: object) -> int:
    """Take a number that counts something."""
    if type(number) is not int or not 0 <= number < _LARGEST_NUMBER:
        raise TypeError("no whole number")
    return number


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.last(3)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "MARK": lambda machine, _: machine.mark(),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.last(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": _Machine.name,
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.set_state(),
    "BINPERSID": lambda machine, _: machine.persistent(),
} | {
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
}
