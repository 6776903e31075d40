"""ModelSpec: the name of an architecture and every number needed to build it.

Specs are plain data; networks are only ever built from them, never read from a file.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from qcaps.errors import ArtifactError, QcapsError, UsageError, quoted
from qcaps.models.network import CapsuleNetwork, array_sites
from qcaps.registry import MODELS, near_matches

# No dimension of any published capsule network comes near this; a larger one in a file is an attack.
LARGEST_NUMBER = 1_000_000
LARGEST_SIDE = 4096
# Values of one image at all sites together; a file that asks for more is refused before anything is computed.
LARGEST_ACTIVATIONS = 1 << 25


class ModelSpec(Protocol):
    """What the rest of qcaps needs of the spec of a network, a frozen dataclass in `models/`."""

    architecture: ClassVar[str]

    @property
    def channels(self) -> int:
        """Channels of the input image."""

    @property
    def height(self) -> int:
        """Height of the input image in pixels."""

    @property
    def width(self) -> int:
        """Width of the input image in pixels."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def decoder(self) -> str:
        """Registry name of the decoder."""

    @property
    def usual_decoder(self) -> str:
        """Registry name of the decoder it is trained with unless another is asked for."""

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers of an untrained network."""

    def folded(self) -> Self:
        """Give the spec of the same network after its batch norms are folded away."""

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units, by their names."""


# What a network takes over from its images.
SHAPE_NUMBERS = frozenset({"channels", "height", "width", "classes"})


@dataclass(frozen=True)
class Preset:
    """A spec under a name that users type.

    Parameters
    ----------
    spec
        Every number.
    any_size
        Whether the network adapts to images of another size; otherwise it takes those of `spec` alone.
    """

    spec: ModelSpec
    any_size: bool = False


def preset(name: str, *, where: str = "") -> Preset:
    """Find a named network.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    found = MODELS.load(name, where=where)
    assert isinstance(found, Preset)
    return found


def fitted_spec(name: str, image: tuple[int, int, int], classes: int, numbers: Mapping[str, object]) -> ModelSpec:
    """Make the spec of a named network for images of a data set.

    Parameters
    ----------
    name
        Registry name.
    image
        Channels, height and width.
    classes
        Of the data set.
    numbers
        Changes of other numbers.

    Raises
    ------
    UsageError
        If the network does not take such images, the message names those that do; or if a number is wrong, one of
        the images' own for example.
    """
    fixed = sorted(SHAPE_NUMBERS & numbers.keys())
    if fixed:
        raise UsageError(f"{fixed[0]} of a network follows its images", where="--model-arg", do="leave it out")
    known = preset(name, where="--model")
    if not known.any_size and image != image_of(known.spec):
        wanted, given = ("x".join(map(str, shape)) for shape in (image_of(known.spec), image))
        others = tuple(entry.name for entry in MODELS if _takes(preset(entry.name), image))
        raise UsageError(
            f"{name} takes {wanted} images, not {given}",
            where="--model",
            do=f"{near_matches(name, others)}networks for these are {', '.join(others)}",
        )
    channels, height, width = image
    shape = {"channels": channels, "height": height, "width": width, "classes": classes}
    return model_spec(name, {**shape, **numbers}, where="--model-arg")


def image_of(spec: ModelSpec) -> tuple[int, int, int]:
    """Give channels, height and width of the images of a network."""
    return spec.channels, spec.height, spec.width


def _takes(known: Preset, image: tuple[int, int, int]) -> bool:
    if image_of(known.spec) == image:
        return True
    if not known.any_size:
        return False
    channels, height, width = image
    try:
        build(dataclasses.replace(cast("Any", known.spec), channels=channels, height=height, width=width))
    except UsageError:
        return False
    return True


def model_spec(name: str, numbers: Mapping[str, object], *, where: str) -> ModelSpec:
    """Make the spec of a named network, its own numbers where `numbers` is silent.

    Raises
    ------
    UsageError
        If the name or a key is unknown, a value has the wrong type or lies out of bounds.
    """
    known_spec = preset(name, where=where).spec
    cls = type(known_spec)
    hints = get_type_hints(cls)
    known = tuple(f.name for f in dataclasses.fields(cast("Any", cls)))
    for key, value in numbers.items():
        if key not in known:
            close = near_matches(key, known)
            raise UsageError(f"{name} has no number {quoted(key)}", where=where, do=f"{close}it has {', '.join(known)}")
        problem = _misfit(value, hints[key])
        if not problem and key in ("height", "width") and cast("int", value) > LARGEST_SIDE:
            problem = f"a whole number from 1 to {LARGEST_SIDE}"
        if problem:
            raise UsageError(f"{key} of {name} is {quoted(value)}, not {problem}", where=where)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()}
    return cast("ModelSpec", dataclasses.replace(cast("Any", known_spec), **values))


def spec_to_dict(spec: ModelSpec) -> dict[str, object]:
    """Write a spec as plain data: every number that the network has is spelled out."""
    numbers = dataclasses.asdict(cast("Any", spec)).items()
    return {"architecture": spec.architecture, **{key: value for key, value in numbers if value is not None}}


def spec_from_dict(data: object, *, where: str) -> ModelSpec:
    """Read a spec out of the header of a file.

    Raises
    ------
    ArtifactError
        If anything is missing, unknown, of the wrong type or out of bounds: a missing attribute never
        falls back to a default.
    """
    if not isinstance(data, dict) or not isinstance(data.get("architecture"), str):
        raise ArtifactError("the header names no architecture", where=where)
    numbers = {str(k): v for k, v in data.items() if k != "architecture"}
    try:
        spec = model_spec(data["architecture"], numbers, where=where)
    except UsageError as error:
        raise ArtifactError(error.what, where=where, do=error.do) from error
    if spec.architecture != data["architecture"]:
        raise ArtifactError(f"{quoted(data['architecture'])} is no architecture", where=where)
    missing = set(spec_to_dict(spec)) - set(data)
    if missing:
        raise ArtifactError(f"the model spec lacks {', '.join(sorted(missing))}", where=where)
    return spec


def build(spec: ModelSpec) -> CapsuleNetwork:
    """Build a network without memory for its numbers (on the meta device).

    Raises
    ------
    UsageError
        If the numbers of the spec do not fit together.
    """
    try:
        with torch.device("meta"):
            return spec.build()
    except QcapsError:
        raise
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise UsageError(f"{spec.architecture} cannot be built from these numbers: {error}") from error


def initialised(spec: ModelSpec, seed: int) -> CapsuleNetwork:
    """Build an untrained network, its numbers drawn from `seed` alone.

    Raises
    ------
    UsageError
        If its numbers do not fit together, or its file would be refused for what one image fills.
    """
    network = build(spec).eval()
    if _activations(spec, network) > LARGEST_ACTIVATIONS:
        raise UsageError(f"one image would fill more than {LARGEST_ACTIVATIONS:,} values in {spec.architecture}")
    network = network.to_empty(device="cpu").train()
    spec.initialise(network, torch.Generator().manual_seed(seed))
    return network


def _activations(spec: ModelSpec, network: CapsuleNetwork) -> int:
    """Count the values of one image at its input and at all sites."""
    image = image_of(spec)
    return math.prod(image) + sum(array_sites(network, image).values())


def filled(spec: ModelSpec, tensors: Mapping[str, Tensor], *, where: str) -> CapsuleNetwork:
    """Build a network in evaluation mode and fill it with exactly the given tensors.

    Raises
    ------
    ArtifactError
        If a tensor is missing, left over, of another shape, not in single precision, or lists units wrongly.
    """
    try:
        network = build(spec).eval()
    except UsageError as error:
        raise ArtifactError(error.what, where=where) from error
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise ArtifactError(f"tensor {quoted(odd[0])} is missing or left over ({len(odd)} in all)", where=where)
    for name, own in expected.items():
        if tensors[name].shape != own.shape:
            sizes = f"{tuple(tensors[name].shape)}, not {tuple(own.shape)}"
            raise ArtifactError(f"tensor {quoted(name)} has shape {sizes}", where=where)
        if tensors[name].dtype != own.dtype:
            wanted = str(own.dtype).removeprefix("torch.")
            raise ArtifactError(f"tensor {quoted(name)} holds {tensors[name].dtype}, not {wanted}", where=where)
    _check_indices(network, tensors, where)
    if _activations(spec, network) > LARGEST_ACTIVATIONS:
        raise ArtifactError("one image would fill more memory than any honest network needs", where=where)
    complete = {k: tensors.get(k, torch.zeros((), dtype=torch.int64)) for k in network.state_dict()}
    network.load_state_dict(complete, strict=True, assign=True)
    return network


def _check_indices(network: CapsuleNetwork, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a list of the units that are left if it is none."""
    for index in (unit.index for unit in network.units if unit.index is not None):
        name = f"stages.{index.tensor}"
        if name in tensors and not index.is_listed(tensors[name]):
            promised = f"{len(tensors[name])} of {index.of} units in ascending order"
            raise ArtifactError(f"tensor {quoted(name)} does not list {promised}", where=where)


def _misfit(value: object, hint: object) -> str:
    """Say what a value should have been, or nothing if it fits the type hint."""
    if get_origin(hint) is types.UnionType:
        hint = get_args(hint)[0]  # what may be absent is left out of a file, never null
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        fits = isinstance(value, str) and value in args
        close = near_matches(value, args) if isinstance(value, str) else ""
        return "" if fits else f"one of {', '.join(args)}; {close}".removesuffix("; ").rstrip()
    if origin in (tuple, types.GenericAlias):
        fits = isinstance(value, list | tuple) and 0 < len(value) <= 64 and not any(_misfit(v, args[0]) for v in value)
        return "" if fits else "a list of whole numbers, such as [8, 16]"
    if hint is bool:
        return "" if isinstance(value, bool) else "true or false"
    if hint is int:
        fits = type(value) is int and 0 < value <= LARGEST_NUMBER
        return "" if fits else f"a whole number from 1 to {LARGEST_NUMBER}"
    if hint is float:
        fits = type(value) in (int, float) and 0 <= cast("float", value) <= LARGEST_NUMBER
        return "" if fits else f"a number from 0 to {LARGEST_NUMBER}"
    return "" if isinstance(value, str) and len(value) <= 64 else "a name"
