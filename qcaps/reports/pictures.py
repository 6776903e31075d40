"""Small pictures for a page: wrong images, and what a decoder draws from capsules."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.data.preparation import restored
from qcaps.evaluation.outputs import Outputs
from qcaps.reports.image_facts import ImageFacts, PanelImage, panel

# Capsules ``(n, classes, dim)`` and the class to draw of each, ``(n,)`` → images ``(n, channels, height, width)``,
# float32 on the CPU.
Draw = Callable[[Tensor, Tensor], Tensor]
# All pictures of one kind together have at most so many pixels, but at least a few pictures are shown.
MOST_PIXELS, FEWEST = 600_000, 8
GAP = 1


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of images as PNG, by the place of the image in its source.

    Parameters
    ----------
    wrong, panel
        Index → the tiles of one image side by side, and one below the other.
    wrong_tiles, panel_tiles
        What every tile shows.
    width, height
        Of a tile.
    """

    wrong: Mapping[int, bytes] = field(default_factory=dict)
    panel: Mapping[int, bytes] = field(default_factory=dict)
    wrong_tiles: tuple[str, ...] = ()
    panel_tiles: tuple[str, ...] = ()
    width: int = 0
    height: int = 0


def with_pictures(
    facts: ImageFacts, images: ImageSet, networks: Mapping[str, Outputs], decoders: Mapping[str, Draw], *, seed: int
) -> tuple[ImageFacts, Pictures]:
    """Draw the wrong images, and the panel if there is a decoder; add the errors of the latter to the facts.

    Parameters
    ----------
    facts
        Of these images and networks.
    images, networks
        As for :func:`~qcaps.reports.image_facts.image_facts`.
    decoders
        Network → its decoder; empty for none, else the last network has one.
    seed
        Chooses the panel.
    """
    height, width = _shown(images.subset(torch.arange(1)).prepared(), images).shape[2:]
    last = list(networks)[-1]
    wrong, wrong_tiles = _wrong(facts, images, networks[last], decoders.get(last))
    if not decoders:
        return facts, Pictures(wrong, wrong_tiles=wrong_tiles, width=width, height=height)
    rows, columns, panel_tiles = _panel(images, networks, decoders, seed)
    return dataclasses.replace(facts, panel=rows), Pictures(wrong, columns, wrong_tiles, panel_tiles, width, height)


def png(pixels: Tensor) -> bytes:
    """Write an image, uint8, shape ``(channels, height, width)``, of one channel in grey or of three in colour."""
    from PIL import Image

    array = np.ascontiguousarray(np.moveaxis(pixels.numpy(), 0, -1))
    buffer = io.BytesIO()
    Image.fromarray(array if array.shape[-1] == 3 else array[..., 0]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _wrong(
    facts: ImageFacts, images: ImageSet, outputs: Outputs, draw: Draw | None
) -> tuple[dict[int, bytes], tuple[str, ...]]:
    place_of = {index: place for place, index in enumerate(images.indices.tolist())}
    shown = facts.wrong[: _most(images, 1 if draw is None else 3)]
    places = torch.tensor([place_of[one.index] for one in shown], dtype=torch.int64)
    tiles, names = [_shown(images.subset(places).prepared(), images)], ["the image"]
    if draw is not None and shown:
        capsules = outputs.capsules[places]
        for kept, name in (
            (torch.tensor([one.prediction for one in shown]), "what its longest capsule draws"),
            (torch.tensor([one.label for one in shown]), "what the capsule of its label draws"),
        ):
            tiles.append(_shown(draw(capsules, kept), images))
            names.append(name)
    sheets = _joined(tiles, axis=3)
    return {one.index: png(sheet) for one, sheet in zip(shown, sheets, strict=True)}, tuple(names)


def _panel(
    images: ImageSet, networks: Mapping[str, Outputs], decoders: Mapping[str, Draw], seed: int
) -> tuple[tuple[PanelImage, ...], dict[int, bytes], tuple[str, ...]]:
    """Reconstruct the panel from the longest capsules of every network, and from the label's of the last."""
    places = panel(images.labels, seed)[: _most(images, len(decoders) + 3)]
    chosen = images.subset(places)
    target, errors = chosen.prepared(), dict[str, Tensor]()
    tiles, names = [target], ["the image"]
    for name, draw in decoders.items():
        capsules, longest = networks[name].capsules[places], networks[name].scores[places].argmax(1)
        drawn = draw(capsules, longest)
        errors[name] = (drawn - target).square().mean(dim=(1, 2, 3))
        tiles.append(drawn)
        names.append(f"{name}, from the longest capsule")
    tiles.append(draw(capsules, chosen.labels))
    names += [f"{name}, from the capsule of the label", "what the longest capsule leaves out"]
    rows = tuple(
        PanelImage(
            index=int(chosen.indices[i]),
            label=int(chosen.labels[i]),
            prediction=int(longest[i]),
            errors={name: float(each[i]) for name, each in errors.items()},
        )
        for i in range(len(chosen))
    )
    shown = [_shown(tile, images) for tile in tiles]
    left_out = (shown[len(decoders)].int() - shown[0].int()).abs().to(torch.uint8)
    columns = _joined([*shown, left_out], axis=2)
    return rows, {row.index: png(column) for row, column in zip(rows, columns, strict=True)}, tuple(names)


def _most(images: ImageSet, tiles: int) -> int:
    """Say how many pictures of so many tiles are shown."""
    height, width = images.preparation.size(*images.pixels.shape[2:])
    return max(FEWEST, MOST_PIXELS // (tiles * height * width))


def _shown(values: Tensor, images: ImageSet) -> Tensor:
    """Turn what a network sees into pixels, the two channels of a stereo pair side by side."""
    pixels = restored(values, images.preparation)
    return torch.cat(pixels.chunk(2, dim=1), dim=3) if pixels.shape[1] == 2 else pixels


def _joined(tiles: Sequence[Tensor], *, axis: int) -> Tensor:
    """Put the tiles of every image together with a white gap between them."""
    shape = list(tiles[0].shape)
    shape[axis] = GAP
    gap = torch.full(shape, 255, dtype=torch.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    return torch.cat(parts, dim=axis)
