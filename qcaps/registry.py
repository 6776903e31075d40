"""Every name a user may type, with its one-line doc and the place of its code.

Targets are strings, so that listing names imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from qcaps.errors import UsageError, quoted


@dataclass(frozen=True)
class Entry:
    """One registered name; `target` is ``package.module:attribute``."""

    name: str
    doc: str
    target: str


class Registry:
    """Names of one kind, in the order in which they are listed.

    Parameters
    ----------
    kind
        The noun used in messages, for example ``model``.
    entries
        Must have distinct names.
    """

    def __init__(self, kind: str, *entries: Entry) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ValueError(f"{kind} {entry.name!r} is registered twice")
            self._entries[entry.name] = entry

    @property
    def plural(self) -> str:
        """Give the name of the list, as `qcaps list` knows it."""
        return f"{self.kind}es" if self.kind.endswith("ch") else f"{self.kind}s"

    def __iter__(self) -> Iterator[Entry]:
        """Go through the entries in listing order."""
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        """Tell whether `name` is registered."""
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """Give every name in listing order."""
        return tuple(self._entries)

    def entry(self, name: str, *, where: str = "") -> Entry:
        """Find the entry of a name.

        Raises
        ------
        UsageError
            If the name is unknown; the message lists near matches.
        """
        if name not in self._entries:
            raise UsageError(
                f"unknown {self.kind} {quoted(name)}",
                where=where,
                do=f"{near_matches(name, self.names())}`qcaps list {self.plural}` shows all",
            )
        return self._entries[name]

    def load(self, name: str, *, where: str = "") -> object:
        """Import and return what a name stands for."""
        module, attribute = self.entry(name, where=where).target.split(":")
        return getattr(importlib.import_module(module), attribute)


def near_matches(name: str, known: tuple[str, ...]) -> str:
    """Say ``did you mean 'x'? `` for the closest known names, or nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


MODELS = Registry(
    "model",
    Entry(
        "efficient-capsnet",
        "Efficient-CapsNet: four convolutions, 16 primary capsules, self-attention routing.",
        "qcaps.models.efficient_capsnet:EfficientCapsNetSpec",
    ),
    Entry(
        "shallow-capsnet",
        "ShallowCapsNet, the original CapsNet: two 9x9 convolutions and dynamic routing.",
        "qcaps.models.shallow_capsnet:ShallowCapsNetSpec",
    ),
)

DECODERS = Registry(
    "decoder",
    Entry("none", "No decoder: margin loss only.", "qcaps.capsules.decoders:no_decoder"),
    Entry("fc", "Three fully connected layers, any image size.", "qcaps.capsules.decoders:fc_decoder"),
    Entry(
        "deconv28",
        "Transposed convolutions to 28x28 pixels, 250,121 parameters for ten classes.",
        "qcaps.capsules.decoders:deconv28_decoder",
    ),
)

DATASETS = Registry(
    "dataset",
    Entry(
        "digits",
        "1,797 handwritten digits that ship inside scikit-learn, resized to 28x28; needs no network.",
        "qcaps.data.digits:DIGITS",
    ),
    Entry("mnist", "MNIST: 60,000 + 10,000 handwritten digits, 28x28 grey.", "qcaps.data.idx:MNIST"),
    Entry(
        "fashion-mnist",
        "Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28x28 grey.",
        "qcaps.data.idx:FASHION_MNIST",
    ),
)

AUGMENTATIONS = Registry(
    "augmentation",
    Entry("none", "Images as they are.", "qcaps.data.augment:no_augmentation"),
    Entry(
        "efficient-capsnet",
        "Rotate, shift, squish and erase, as Efficient-CapsNet does for MNIST.",
        "qcaps.data.augment:efficient_capsnet_augmentation",
    ),
    Entry("shift", "Shift by up to two pixels per axis.", "qcaps.data.augment:shift_augmentation"),
    Entry(
        "shift-flip",
        "Shift by up to two pixels per axis, horizontal flip with probability 0.2.",
        "qcaps.data.augment:shift_flip_augmentation",
    ),
)

ROUNDINGS = Registry(
    "rounding",
    Entry("round_to_nearest", "Nearest code, ties to even.", "qcaps.quantization.rounding:round_to_nearest"),
    Entry(
        "stochastic_rounding",
        "Up or down at random, unbiased; every draw is keyed by seed, site and image.",
        "qcaps.quantization.rounding:stochastic_rounding",
    ),
    Entry("truncation", "Floor: cheapest hardware, biased.", "qcaps.quantization.rounding:truncation"),
    Entry(
        "logarithmic",
        "Sign and power of two, nearest in the log domain; 2 to 8 bits.",
        "qcaps.quantization.rounding:logarithmic",
    ),
)

SEARCHES = Registry(
    "search",
    Entry(
        "common-width",
        "The smallest width common to all sites that holds the tolerance, by bisection.",
        "qcaps.quantization.common_width:search_common_width",
    ),
)
