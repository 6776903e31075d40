"""What every importer needs: tensors that can be taken once, and what their shapes say of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from qcaps.errors import ArtifactError, UsageError, quoted
from qcaps.importers.foreign_file import Foreign
from qcaps.models.spec import ModelSpec, build, model_spec

# Numbers of the spec that the user gives, in place of those found in the file.
Numbers = Mapping[str, object]
# Of the published networks; preferred where several sizes of image leave the same map.
PUBLISHED_SIDES = (28, 32, 36, 40, 48, 64)
COUNTER = "num_batches_tracked"


class ForeignTensors:
    """The tensors of a foreign checkpoint; each can be taken once, and those left at the end are an error.

    Parameters
    ----------
    foreign
        The file. Counters of batches are ignored from the start.
    """

    def __init__(self, foreign: Foreign) -> None:
        self.foreign = foreign
        self._left = dict(foreign.tensors)
        self._ignored: list[str] = []
        self.ignore(*(name for name in foreign.tensors if name.endswith(COUNTER)))

    def __contains__(self, name: str) -> bool:
        """Tell whether a tensor is there and not yet taken."""
        return name in self._left

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Take one tensor.

        Parameters
        ----------
        name
            As in the file.
        shape
            What it must have, None for any length of an axis; left out, any.

        Raises
        ------
        ArtifactError
            If it is missing, taken already or of another shape.
        """
        if name not in self._left:
            raise self.refusal(f"the file lacks the tensor {quoted(name)}")
        tensor = self._left.pop(name)
        fits = [wanted in (None, found) for found, wanted in zip(tensor.shape, shape, strict=False)]
        if shape and (len(shape) != tensor.dim() or not all(fits)):
            wanted = "x".join("any" if length is None else str(length) for length in shape)
            raise self.refusal(f"the tensor {quoted(name)} has shape {tuple(tensor.shape)}, not {wanted}")
        return tensor

    def take_all(self, prefix: str) -> list[Tensor]:
        """Take every tensor that is left and whose name begins with `prefix`, in the order of the file."""
        return [self._left.pop(name) for name in self.names(prefix)]

    def names(self, prefix: str = "") -> list[str]:
        """List the tensors that are left and whose names begin with `prefix`."""
        return [name for name in self._left if name.startswith(prefix)]

    def renamed(self, path: str, ours: str) -> dict[str, Tensor]:
        """Take every tensor right below `path` and give it the same last name below `ours`.

        Raises
        ------
        ArtifactError
            If there is none.
        """
        names = [name for name in self._left if name.rpartition(".")[0] == path]
        if not names:
            raise self.refusal(f"the file has no tensors below {quoted(path)}")
        return {f"{ours}.{name.rpartition('.')[2]}": self._left.pop(name) for name in names}

    def ignore(self, *names: str) -> None:
        """Leave tensors out on purpose."""
        for name in names:
            del self._left[name]
            self._ignored.append(name)

    def ignored(self) -> tuple[str, ...]:
        """List what was left out on purpose, once all others are taken.

        Raises
        ------
        ArtifactError
            If a tensor is left over.
        """
        if self._left:
            first = next(iter(self._left))
            raise self.refusal(f"the file has {len(self._left)} tensors left over, the first is {quoted(first)}")
        return tuple(self._ignored)

    def refusal(self, what: str, do: str = "") -> ArtifactError:
        """Say why the file is none of this source."""
        return ArtifactError(what, where=str(self.foreign.path), do=do)

    def spec(self, preset: str, found: Numbers, given: Numbers) -> ModelSpec:
        """Make the spec of a named network.

        Parameters
        ----------
        preset
            Registry name.
        found, given
            Numbers found in the file, and those of the user, which come first.

        Raises
        ------
        ArtifactError
            If a number of the file is impossible.
        UsageError
            If one of the user is.
        """
        try:
            model_spec(preset, found, where=str(self.foreign.path))
        except UsageError as error:
            raise self.refusal(f"the file asks for an impossible network: {error.what}") from error
        return model_spec(preset, {**found, **given}, where="--model-arg")


def in_order(spec: ModelSpec, part: str, tensors: Sequence[Tensor], where: str) -> dict[str, Tensor]:
    """Name tensors after those of our own network, one after the other.

    Parameters
    ----------
    spec
        Of the network.
    part
        Beginning of our names, for example ``decoder.``.
    tensors
        As many as the network has there, in the same order and shapes; counters of batches left out.
    where
        The file, for messages.

    Raises
    ------
    ArtifactError
        If their number or a shape differs, or the network is impossible.
    """
    try:
        state = build(spec).state_dict()
    except UsageError as error:
        raise ArtifactError(error.what, where=where) from error
    expected = {name: t.shape for name, t in state.items() if name.startswith(part) and not name.endswith(COUNTER)}
    if [tensor.shape for tensor in tensors] != list(expected.values()):
        raise ArtifactError(f"the {part.strip('.')} has other layers than that of {spec.architecture}", where=where)
    return dict(zip(expected, tensors, strict=True))


def image_sides(
    tensors: ForeignTensors, cells: int, kernels: Sequence[int], strides: Sequence[int], given: Numbers
) -> dict[str, int]:
    """Find height and width of square images from what unpadded convolutions leave of them.

    Several sizes can leave the same map: published ones come first, then the smallest even one.

    Parameters
    ----------
    tensors
        Of the file, for messages.
    cells
        Rows times columns behind the last convolution.
    kernels, strides
        Of the convolutions, in order.
    given
        Numbers of the user; nothing is guessed where they hold both sides.

    Raises
    ------
    ArtifactError
        If the map is not square.
    """
    if {"height", "width"} <= given.keys():
        return {}
    left = square_root(cells)
    if left is None:
        raise tensors.refusal(f"the file leaves {cells} positions, no square map", "give height and width")
    least, spread = left, 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        least = (least - 1) * stride + kernel
        spread *= stride
    fitting = range(least, least + spread)
    published = (side for side in PUBLISHED_SIDES if side in fitting)
    side = next(published, next((side for side in fitting if side % 2 == 0), least))
    return {"height": side, "width": side}


def square_root(number: int) -> int | None:
    """Give the whole square root, None if there is none."""
    root: int = math.isqrt(number)
    return root if root * root == number else None
