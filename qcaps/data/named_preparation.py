"""Published ways to prepare images, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcaps.data.preparation import Preparation
from qcaps.registry import PREPARATIONS


@dataclass(frozen=True)
class NamedPreparation:
    """A preparation under a name that users type.

    Parameters
    ----------
    preparation
        Its numbers.
    statistics
        Whose mean and deviation take the place of its own: those of training images, those of training images for
        all but test images and of test images for these, or nobody's.
    each_value
        Whether they are taken of every value of the resized image over all images, and not of every channel over all
        pixels of the source.
    """

    preparation: Preparation
    statistics: Literal["none", "train", "split"] = "none"
    each_value: bool = False


def named_preparation(name: str) -> NamedPreparation:
    """Find a preparation by its registry name.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    found = PREPARATIONS.load(name)
    assert isinstance(found, NamedPreparation)
    return found


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081
_EFFICIENT_NORB = Preparation(resize=(64, 64), crop=(48, 48))

PLAIN = NamedPreparation(Preparation())
PLAIN_256 = NamedPreparation(Preparation(256))
CIFAR_64 = NamedPreparation(Preparation(resize=(64, 64), resize_rounds=True))
IMAGENET = NamedPreparation(Preparation(mean=_IMAGENET_MEAN, std=_IMAGENET_STD))
IMAGENET_64, IMAGENET_224 = (
    NamedPreparation(Preparation(resize=(side, side), resize_rounds=True, mean=_IMAGENET_MEAN, std=_IMAGENET_STD))
    for side in (64, 224)
)
NORB_EFFICIENT = NamedPreparation(_EFFICIENT_NORB, "train")
NORB_EFFICIENT_SPLIT = NamedPreparation(_EFFICIENT_NORB, "split")
NORB_32_Q7 = NamedPreparation(Preparation(resize=(32, 32)), "train", each_value=True)
ETHANLEET_MNIST = NamedPreparation(Preparation(mean=(_MNIST_MEAN,), std=(_MNIST_STD,)))
# Divided by the deviation of MNIST, as the source has it.
ETHANLEET_NORB = NamedPreparation(Preparation(resize=(48, 48), resize_rounds=True, std=(_MNIST_STD,), crop=(32, 32)))
ETHANLEET_CIFAR = NamedPreparation(Preparation(std=(0.5,)))
