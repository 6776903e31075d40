from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from prunable import DEEP, EFFICIENT, EM, MOBILE, RESNET, SHALLOW, drawn_tensors, labelled_images
from torch.nn.functional import cross_entropy

from qcaps.capsules.losses import margin_loss, spread_loss
from qcaps.capsules.sites import hooked
from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.taylor import taylor

IMAGES = 5
LOSSES = {
    "margin": margin_loss,
    "spread": lambda scores, labels: spread_loss(scores, labels, 0.9),
    "cross-entropy": lambda scores, labels: cross_entropy(scores, labels, reduction="none"),
}


def network_of(spec):
    return to_inference(filled(spec, drawn_tensors(build(spec)), where="toy"))


def losses(network, images):
    """Give the loss of one image after the other."""
    for pixels, label in zip(images.prepared(), images.labels, strict=True):
        yield LOSSES[network.loss](network(pixels.unsqueeze(0)).scores, label.unsqueeze(0)).sum()


def slow_channels(network, images, makers):
    """Square the sum of weight · gradient of every channel, image by image, with the gradients of the parameters."""
    network = copy.deepcopy(network).requires_grad_()
    total = 0.0
    for loss in losses(network, images):
        parameters = [network.stages.get_parameter(name) for name in makers]
        gradients = torch.autograd.grad(loss, parameters)
        products = [
            (p * g).detach().double().flatten(1) if p.ndim > 1 else (p * g).detach().double().unsqueeze(1)
            for p, g in zip(parameters, gradients, strict=True)
        ]
        total = total + sum(product.sum(1) for product in products).square()
    return total / len(images)


CONV = ("conv.weight", "conv.bias")
NORM = ("norm.weight", "norm.bias")
CHANNELS = [
    (SHALLOW, "conv2.channels", [f"conv2.{leaf}" for leaf in CONV]),
    (EFFICIENT, "conv1.channels", [f"conv1.{leaf}" for leaf in CONV + NORM]),
    (
        replace(EFFICIENT, norm="instance", activation_slope=0.3),
        "conv2.channels",
        [f"conv2.{leaf}" for leaf in CONV + NORM],
    ),
    (
        RESNET,
        "layer2.out.channels",
        [
            f"layer2.{layer}.{leaf}"
            for layer in ("0.conv3", "1.conv3", "2.conv3", "3.conv3", "0.downsample")
            for leaf in ("conv.weight", *NORM)
        ],
    ),
    (RESNET, "stem.channels", [f"stem.{leaf}" for leaf in ("conv.weight", *NORM)]),
    (
        MOBILE,
        "block2.channels",
        [f"{layer}.{leaf}" for layer in ("block2.pointwise", "block3.depthwise") for leaf in ("conv.weight", *NORM)],
    ),
    (EM, "conv1.channels", [f"conv1.{leaf}" for leaf in CONV]),
]


@pytest.mark.parametrize(("spec", "unit", "makers"), CHANNELS)
def test_channels_count_all_weights_that_make_them_squared_for_every_image(spec, unit, makers):
    network, images = network_of(spec), labelled_images(spec, IMAGES)
    expected = slow_channels(network, images, makers)
    assert expected.max() > 0
    torch.testing.assert_close(taylor(network, images)[unit], expected, rtol=1e-3, atol=1e-4 * expected.max())


def slow_capsules(network, images, gated):
    """Differentiate the loss of every image by a factor on each unit; `gated` multiplies an array by the factors."""
    total = 0.0
    for pixels, label in zip(images.prepared(), images.labels, strict=True):
        gates = torch.ones(gated.count, requires_grad=True)
        with hooked(network, lambda site, array, gates=gates: gated(site, array, gates)):
            loss = LOSSES[network.loss](network(pixels.unsqueeze(0)).scores, label.unsqueeze(0)).sum()
        (gradient,) = torch.autograd.grad(loss, gates)
        total = total + gradient.abs().double()
    return total / len(images)


class Gated:
    """Multiply arrays by factors, seen in the shape that `shapes` has for their site."""

    def __init__(self, count, shapes):
        self.count, self.shapes = count, shapes

    def __call__(self, site, array, gates):
        if site not in self.shapes:
            return array
        shape, factor_shape = self.shapes[site]
        return (array.reshape(shape) * gates.view(factor_shape)).reshape(array.shape)


CAPSULES = [
    (SHALLOW, "primary.types", Gated(3, {"primary.out": ((1, 3, 12, 4), (3, 1, 1))})),
    (SHALLOW, "primary.dims", Gated(4, {"primary.out": ((1, 36, 4), (4,))})),
    (SHALLOW, "primary.positions", Gated(12, {"primary.out": ((1, 3, 12, 4), (12, 1))})),
    (
        replace(SHALLOW, reshape_order="hw_type"),
        "primary.positions",
        Gated(12, {"primary.out": ((1, 12, 3, 4), (12, 1, 1))}),
    ),
    (EFFICIENT, "primary.types", Gated(3, {"primary.out": ((1, 3, 4), (3, 1))})),
    (DEEP, "block2.l1.types", Gated(3, {"block2.l1.out": ((1, 3, 5, 5, 3), (3, 1, 1, 1))})),
    (DEEP, "block2.types", Gated(4, {"block2.sum_out": ((1, 4, 3, 5, 5), (4, 1, 1, 1))})),
    (
        DEEP,
        "block3.dims",
        Gated(5, {"block3.sum_out": ((1, 2, 5, 3, 3), (5, 1, 1)), "block4.sum_out": ((1, 3, 5, 2, 2), (5, 1, 1))}),
    ),
    (
        EM,
        "primary.types",
        Gated(3, {"primary.pose.out": ((1, 3, 16, 56), (3, 1, 1)), "primary.activation.out": ((1, 3, 56), (3, 1))}),
    ),
    (
        EM,
        "conv_caps2.types",
        Gated(
            3,
            {
                "conv_caps2.out": ((1, -1, 3, 16), (3, 1)),
                "conv_caps2.routing.activation.out": ((1, -1, 3), (3,)),
            },
        ),
    ),
]


@pytest.mark.parametrize(("spec", "unit", "gated"), CAPSULES)
def test_capsules_count_what_a_factor_on_them_changes_for_every_image(spec, unit, gated):
    network, images = network_of(spec), labelled_images(spec, IMAGES)
    expected = slow_capsules(network, images, gated)
    assert expected.max() > 0
    torch.testing.assert_close(taylor(network, images)[unit], expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_images_do_not_cancel_one_another():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, IMAGES)
    each = [taylor(network, images.subset(torch.tensor([i])))["primary.types"] for i in range(IMAGES)]
    torch.testing.assert_close(taylor(network, images)["primary.types"], torch.stack(each).mean(0))


def test_the_network_keeps_its_flags_and_no_gradients():
    network = network_of(EFFICIENT).requires_grad_()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    taylor(network, labelled_images(EFFICIENT, 3))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    assert not network.stages["conv1"].conv._forward_hooks
