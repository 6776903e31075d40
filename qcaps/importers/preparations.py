"""How the published systems prepare the images of their networks."""

from __future__ import annotations

from qcaps.models.spec import ModelSpec, image_of

# Source, then channels and height of the network's images → registry name.
_OF_SOURCE: dict[str, dict[tuple[int, int], str]] = {
    "q-capsnets": {(3, 64): "cifar-64"},
    "efficient-capsnet": {(1, 28): "plain-256", (2, 48): "norb-efficient-split"},
    "q7-capsnets": {(2, 32): "norb-32-q7"},
    "ethanleet": {(1, 28): "ethanleet-mnist", (1, 32): "ethanleet-norb", (3, 32): "ethanleet-cifar"},
    "eagleeye": {(3, 224): "imagenet-224"},
    "towards-efficient": {(3, 64): "imagenet-64", (3, 224): "imagenet-224"},
}
# Sources that standardise images of whatever size.
_OTHERWISE = {"eagleeye": "imagenet", "towards-efficient": "imagenet"}


def source_preparation(source: str, spec: ModelSpec) -> str:
    """Give the registry name of what a published system does to the images of one of its networks.

    Parameters
    ----------
    source
        Registry name of the system.
    spec
        The network.
    """
    channels, height, _ = image_of(spec)
    return _OF_SOURCE.get(source, {}).get((channels, height), _OTHERWISE.get(source, "plain"))
