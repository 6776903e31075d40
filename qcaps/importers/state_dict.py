"""Find the state dict in what a foreign PyTorch file holds, and the plain names of its tensors."""

from __future__ import annotations

from typing import TypeVar

from qcaps.artifacts.records import refusal
from qcaps.errors import quoted

Leaf = TypeVar("Leaf")

DEEPEST = 32
# Put before every name by data parallelism and by EagleEye's wrapper.
PREFIXES = ("module.", "_net.")


def state_dict_of(loaded: object, leaf: type[Leaf], where: str) -> dict[str, Leaf]:
    """Give the tensors of a state dict, alone or below the key ``state_dict``, in their order.

    Parameters
    ----------
    loaded
        Plain values, containers and leaves.
    leaf
        The class that stands for a tensor; subclasses count.
    where
        The file, for messages.

    Raises
    ------
    ArtifactError
        If there is no such dictionary, something else lies in it, or the file nests too deep.
    """
    _check_depth(loaded, where)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not state:
        raise refusal("holds no state dict", where)
    if state.keys() == {"header", "tensors"}:
        raise refusal("is one of qcaps already, and needs no import", where)
    tensors: dict[str, Leaf] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise refusal(f"holds a key of kind {type(key).__name__} in its state dict", where)
        if not isinstance(value, leaf):
            raise refusal(f"holds {quoted(key)}, which is not a plain tensor, in its state dict", where)
        if not key.isprintable():
            raise refusal(f"has a tensor of the unprintable name {quoted(key)}", where)
        name = _without_prefixes(key)
        if name in tensors:
            raise refusal(f"holds the tensor {quoted(name)} twice", where)
        tensors[name] = value
    return tensors


def numbers_beside(loaded: object) -> dict[str, int]:
    """Give the whole numbers that lie beside a wrapped state dict, such as an epoch; none where it is alone."""
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        return {}
    return {key: value for key, value in loaded.items() if type(key) is str and type(value) is int}


def _check_depth(loaded: object, where: str) -> None:
    """Refuse containers in containers without end; each is visited once, however often it is referred to."""
    seen: set[int] = set()
    level = [loaded]
    for _ in range(DEEPEST):
        inside = {id(child): child for parent in level for child in _containers_in(parent)}
        level = [child for key, child in inside.items() if key not in seen]
        seen |= inside.keys()
        if not level:
            return
    raise refusal(f"nests its content deeper than {DEEPEST} levels", where)


def _containers_in(value: object) -> list[object]:
    """List the containers right inside a container; other values have none."""
    if isinstance(value, dict):
        value = list(value.values())
    return [child for child in value if isinstance(child, _CONTAINERS)] if isinstance(value, list | tuple) else []


_CONTAINERS = (dict, list, tuple)


def _without_prefixes(name: str) -> str:
    """Take the prefixes of wrappers off a tensor's name."""
    while name.startswith(PREFIXES):
        name = name[name.index(".") + 1 :]
    return name
