"""The augmentations that published systems train with; Efficient-CapsNet's of digits has a file of its own.

Sources are the papers and the code published with them: Q-CapsNets (``bbussolino/Q-CapsNets``), Efficient-CapsNet
(``EscVM/Efficient-CapsNet``), ``ethanleet/CapsNet``, EfficientCN (``matthiasware/EfficientCN``), Towards Efficient
Capsule Networks (``EIDOSLAB/towards-efficient-capsule-networks``) and Q7-CapsNets (``MiguelCosta94/Q7-CapsNets``).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from qcaps.data.augment import Augmentation
from qcaps.data.augmentation.colour import jitter, lift, stretch
from qcaps.data.augmentation.draws import flags, integers, uniform
from qcaps.data.augmentation.geometry import crop, enlarge, mirror, shift, slide, turn
from qcaps.errors import UsageError

# Areas of the squares that EfficientCN enlarges, as shares of the image.
_AREAS = (0.8, 1.2)


def shifted(images: Tensor, generator: torch.Generator, *, pixels: int) -> Tensor:
    """Shift every image by up to so many whole pixels per axis, with zeros moving in."""
    return shift(images, integers((len(images), 2), -pixels, pixels, generator).to(images.device))


def mirrored(images: Tensor, generator: torch.Generator, *, probability: float) -> Tensor:
    """Swap left and right with a probability."""
    return mirror(images, flags((len(images),), probability, generator).to(images.device))


def shifted_mirrored(images: Tensor, generator: torch.Generator, *, pixels: int, probability: float) -> Tensor:
    """Shift, then mirror."""
    return mirrored(shifted(images, generator, pixels=pixels), generator, probability=probability)


def turned_shifted_mirrored(images: Tensor, generator: torch.Generator, *, degrees: float, share: float) -> Tensor:
    """Rotate, shift by up to a share of each axis in whole pixels, and mirror half of the images."""
    count, (height, width) = len(images), images.shape[2:]
    angles = uniform((count,), -degrees, degrees, generator).to(images.device)
    shares = uniform((count, 2), -share, share, generator).to(images.device)
    amounts = (shares * shares.new_tensor([height, width])).round()
    return mirrored(turn(images, angles, torch.zeros_like(angles), amounts), generator, probability=0.5)


def slid_mirrored(images: Tensor, generator: torch.Generator, *, share: float) -> Tensor:
    """Slide by up to a share of each axis, and mirror half of the images."""
    shares = uniform((len(images), 2), -share, share, generator).to(images.device)
    return mirrored(slide(images, shares * shares.new_tensor(images.shape[2:])), generator, probability=0.5)


def turned_sheared_enlarged(images: Tensor, generator: torch.Generator, *, degrees: float) -> Tensor:
    """Rotate and shear, then enlarge a square of at least 0.8 of the area to the whole."""
    count, size = len(images), min(images.shape[2:])
    angles, shears = (uniform((count,), -degrees, degrees, generator).to(images.device) for _ in range(2))
    turned = turn(images, angles, shears, torch.zeros(count, 2, device=images.device))
    low, high = _AREAS
    # A square that is larger than the image when its side is rounded counts as not drawn.
    largest = min(high, ((size + 0.5) / size) ** 2)
    sides = (size * uniform((count,), low, largest, generator).sqrt()).round().clamp(max=size)
    spare = torch.tensor(images.shape[2:], device=sides.device) - sides[:, None]
    corners = (uniform((count, 2), 0, 1, generator) * (spare + 1)).floor().minimum(spare)
    return enlarge(turned, corners.to(images.device), sides.to(images.device))


def jittered(images: Tensor, generator: torch.Generator, *, brightness: float, contrast: float) -> Tensor:
    """Change brightness and contrast by factors around 1, in either order."""
    shape = (len(images),)
    bright = uniform(shape, 1 - brightness, 1 + brightness, generator)
    stretched = uniform(shape, 1 - contrast, 1 + contrast, generator)
    first = flags(shape, 0.5, generator)
    return jitter(images, *(drawn.to(images.device) for drawn in (bright, stretched, first)))


def mirrored_jittered(images: Tensor, generator: torch.Generator, *, brightness: float, contrast: float) -> Tensor:
    """Mirror half of the images, and change brightness and contrast."""
    images = mirrored(images, generator, probability=0.5)
    return jittered(images, generator, brightness=brightness, contrast=contrast)


def turned_mirrored(images: Tensor, generator: torch.Generator, *, degrees: float) -> Tensor:
    """Rotate, and mirror half of the images."""
    return turned_shifted_mirrored(images, generator, degrees=degrees, share=0.0)


def cropped_jittered(
    images: Tensor, generator: torch.Generator, *, size: int, brightness: float, contrast: float
) -> Tensor:
    """Cut a square out, and change brightness and contrast."""
    return jittered(_cropped(images, generator, size), generator, brightness=brightness, contrast=contrast)


def cropped_lifted_stretched(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut 48x48 pixels out, add up to 2 standard deviations, and change the contrast by 0.5 to 1.5, unclipped."""
    images, shape = _cropped(images, generator, 48), (len(images),)
    amounts, factors = uniform(shape, -2, 2, generator), uniform(shape, 0.5, 1.5, generator)
    return stretch(lift(images, amounts.to(images.device)), factors.to(images.device))


def _cropped(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Cut a square out of a place of each image's own."""
    height, width = images.shape[2:]
    if min(height, width) < size:
        raise UsageError(
            f"the augmentation cuts {size}x{size} pixels out of images of {height}x{width}",
            do="choose a --preparation that leaves larger ones, or another --augmentation",
        )
    corners = [integers((len(images),), 0, side - size, generator) for side in (height, width)]
    return crop(images, torch.stack(corners, dim=1).to(images.device), size)


SHIFT = Augmentation(functools.partial(shifted, pixels=2))
SHIFT_FLIP = Augmentation(functools.partial(shifted_mirrored, pixels=2, probability=0.2))
Q_CAPSNETS_CIFAR = Augmentation(functools.partial(turned_shifted_mirrored, degrees=2, share=5 / 64))
NORB_EFFICIENT = Augmentation(cropped_lifted_stretched, standardised=True)
ETHANLEET_NORB = Augmentation(functools.partial(cropped_jittered, size=32, brightness=32 / 255, contrast=0.5))
ETHANLEET_CIFAR = Augmentation(functools.partial(mirrored_jittered, brightness=63 / 255, contrast=0.8))
EFFICIENTCN_MNIST = Augmentation(functools.partial(turned_sheared_enlarged, degrees=30))
TOWARDS_EFFICIENT_CIFAR = Augmentation(functools.partial(mirrored_jittered, brightness=0.25, contrast=0.8))
TOWARDS_EFFICIENT_TINY = Augmentation(functools.partial(turned_mirrored, degrees=20))
Q7_CIFAR = Augmentation(functools.partial(slid_mirrored, share=0.1))
