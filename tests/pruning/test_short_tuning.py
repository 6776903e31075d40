from __future__ import annotations

import pytest
import torch
from prunable import NETWORKS, SHALLOW, drawn_tensors, labelled_images

from qcaps.capsules.losses import margin_loss
from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.short_tuning import tune


def network_of(spec, tensors=None):
    return to_inference(filled(spec, tensors or drawn_tensors(build(spec)), where="test"))


def test_the_loss_of_the_images_learned_from_falls():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, 20)

    def loss():
        with torch.no_grad():
            return float(margin_loss(network(images.pixels / 255).scores, images.labels).mean())

    before = loss()
    tune(network, [images] * 10)
    assert loss() < 0.9 * before


def test_every_batch_makes_one_step_of_adam():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, 8)
    before = network.stages["conv1"].conv.weight.clone()
    tune(network, [images])
    moved = (network.stages["conv1"].conv.weight - before).abs()
    # The first step of Adam is as long as the learning rate, wherever there is a gradient to speak of.
    assert moved.max().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("name", ["shallow-capsnet", "efficient-capsnet", "em-capsnet", "cnn-small"])
def test_statistics_stay_and_no_gradient_is_left(name):
    network = network_of(NETWORKS[name])
    before = {key: tensor.clone() for key, tensor in network.named_buffers()}
    tune(network, [labelled_images(NETWORKS[name], 4)])
    assert all(tensor.equal(before[key]) for key, tensor in network.named_buffers())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(module.training for module in network.modules())


def test_tensors_that_another_network_shares_are_left_alone():
    tensors = drawn_tensors(build(SHALLOW))
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    tune(filled(SHALLOW, tensors, where="test"), [labelled_images(SHALLOW, 8)])
    assert all(tensor.equal(before[name]) for name, tensor in tensors.items())
