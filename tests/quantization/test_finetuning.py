from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from toys import FOLDED, NORMED, ROUTED, toy_images, toy_network

from qcaps.capsules.sites import Sites, hooked
from qcaps.data.augment import NO_AUGMENTATION, Augmentation
from qcaps.data.augmentation.published import SHIFT
from qcaps.errors import QcapsError, StoppedError
from qcaps.models.cnn_small import CNN_SMALL
from qcaps.models.em_capsnet import EM_CAPSNET
from qcaps.models.network import CapsuleNetwork, array_sites, to_inference, weight_sites
from qcaps.quantization import finetuning
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.calibration import calibrate, plan_of_width
from qcaps.quantization.finetuning import finetune
from qcaps.quantization.formats import FixedPoint, Float32, PerChannel
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.rounding import quantize

SHAPE = {"channels": 1, "height": 14, "width": 14, "classes": 3}
EM = dataclasses.replace(
    EM_CAPSNET.spec,
    **SHAPE,
    conv_channels=4,
    kernel_size=3,
    stride=1,
    primary_types=2,
    conv_types=(2, 2),
    variance_floor=1e-2,
)
PLAIN = dataclasses.replace(CNN_SMALL.spec, **SHAPE)
SCHEMES = ["round_to_nearest", "stochastic_rounding", "truncation", "logarithmic"]
COUNT = 20


def plan_of(network, spec, bits, rounding="round_to_nearest"):
    ranges = calibrate(network, toy_images(spec, split="train"), batch_size=COUNT, seed=0)
    return plan_of_width(ranges, bits, rounding)


def float_plan(network):
    return BitPlan(
        "round_to_nearest",
        dict.fromkeys(weight_sites(network), Float32()),
        dict.fromkeys(array_sites(network, (1, 14, 14)), Float32()),
    )


def learn(network, plan, spec=ROUTED, images=None, **changes):
    options = {"teacher": network, "augment": NO_AUGMENTATION, "steps": 2, "batch_size": COUNT, "lr": 0.01, "seed": 0}
    return finetune(network, plan, images or toy_images(spec, COUNT, split="train"), **{**options, **changes})


def quantized_loss(network, plan, spec, tensors=None):
    """Give how far the network as it would be stored is from the float one on the training images, on average."""
    images = toy_images(spec, COUNT, split="train")
    with weights_replaced(network, tensors or {}):
        rounded = round_weights(network, plan, 0).tensors
    with torch.inference_mode(), weights_replaced(network, rounded):
        scores = ArrayRounder(plan, 0).forward(network, images.pixels / 255, images.indices).scores
    return float(divergence_by_hand(network, images, scores))


def divergence_by_hand(network, images, scores):
    """Sum p log(p/q) over the classes; p and q are shares of exp(10 times a length), or of exp(a logit)."""
    sharpness = 1 if network.loss == "cross-entropy" else 10
    p, q = (torch.exp(sharpness * each) for each in (network(images.pixels / 255).scores.detach(), scores))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (p * (p / q).log()).sum(1).mean()


def everything(network):
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    hooks = [module.hook for module in network.modules() if isinstance(module, Sites)]
    flags = [(p.requires_grad, p.grad) for p in network.parameters()]
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, hooks, flags, network.training


def assert_same(before, after):
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in after[0].items())
    assert after[1:] == before[1:]


def test_fine_tuning_lowers_the_loss_of_the_rounded_network():
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 3)
    trained = learn(network, plan, steps=30)
    assert quantized_loss(network, plan, ROUTED, trained) < 0.8 * quantized_loss(network, plan, ROUTED)


def test_a_network_that_is_not_rounded_has_nothing_to_learn():
    network, notes = toy_network(ROUTED), []
    learn(network, float_plan(network), steps=1, on_progress=lambda step: notes.append(step.note))
    assert notes == ["divergence 0.0000"]


@pytest.mark.parametrize("spec", [FOLDED, ROUTED, EM, PLAIN], ids=["folded", "routed", "em", "plain"])
def test_the_first_loss_is_that_of_the_network_as_it_would_be_stored(spec):
    network, notes = toy_network(spec), []
    plan = plan_of(network, spec, 5)
    learn(network, plan, spec, steps=1, on_progress=lambda step: notes.append(step.note))
    assert notes == [f"divergence {quantized_loss(network, plan, spec):.4f}"]
    assert quantized_loss(network, plan, spec) != pytest.approx(quantized_loss(network, float_plan(network), spec))


def straight_through_gradients(network, plan, spec):
    """Give the gradients with arrays rounded by a detached difference, of the weights where they are not clamped."""
    images, weights = toy_images(spec, COUNT, split="train"), {}
    for site, name in weight_sites(network).items():
        weights[name] = quantize(network.get_parameter(name), plan.weights[site], plan.rounding).values
        weights[name].requires_grad_()

    def hook(site, x):
        fmt = plan.of_array(site)
        half = fmt.step / 2
        inside = (x >= fmt.lowest - half) & (x < fmt.highest + half)
        passing = torch.where(inside, x, x.detach())
        return passing + (quantize(x, fmt, plan.rounding).values - x).detach()

    with hooked(network, hook):
        scores = torch.func.functional_call(network, weights, (images.pixels / 255,)).scores
    divergence_by_hand(network, images, scores).backward()
    found = {}
    for site, name in weight_sites(network).items():
        fmt, weight = plan.weights[site], network.get_parameter(name)
        inside = (weight >= fmt.lowest - fmt.step / 2) & (weight < fmt.highest + fmt.step / 2)
        found[name] = weights[name].grad * inside
    return found


@pytest.mark.parametrize("spec", [FOLDED, ROUTED], ids=["folded", "routed"])
def test_a_step_follows_the_straight_through_gradient(spec):
    network, lr = toy_network(spec), 1e-3
    plan = plan_of(network, spec, 4)
    gradients = straight_through_gradients(network, plan, spec)
    trained = learn(network, plan, spec, steps=1, lr=lr)
    assert set(gradients) == set(trained)
    for name, gradient in gradients.items():
        # The first step of Adam, by hand: the gradient over its own magnitude.
        expected = network.get_parameter(name) - lr * gradient / (gradient.abs() + 1e-7)
        clear = gradient.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close(trained[name][clear], expected[clear], rtol=0, atol=1e-5)
        untouched = gradient == 0
        assert torch.equal(trained[name][untouched], network.get_parameter(name)[untouched])


def test_weights_beyond_the_range_of_their_format_stay_where_they_are():
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 8)
    narrow = PerChannel(FixedPoint(4, 0), (6,) * 4)  # [-1/8, 7/64] for each of four channels
    plan = dataclasses.replace(plan, weights={**plan.weights, "conv1.weight": narrow})
    before = network.get_parameter("stages.conv1.conv.weight").detach()
    after = learn(network, plan)["stages.conv1.conv.weight"]
    beyond = (before > 7.5 / 64) | (before < -8.5 / 64)
    assert 10 < int(beyond.sum()) < beyond.numel() - 10
    assert torch.equal(after[beyond], before[beyond])
    assert not torch.equal(after[~beyond], before[~beyond])


@pytest.mark.parametrize("rounding", SCHEMES)
def test_the_network_is_left_bit_for_bit_as_it_was(rounding):
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 4, rounding)
    before = everything(network)
    learn(network, plan)
    assert_same(before, everything(network))


def test_an_interruption_leaves_the_network_as_it_was():
    network = toy_network(ROUTED)
    plan, before, seen = plan_of(network, ROUTED, 4), everything(network), []
    with pytest.raises(StoppedError):
        learn(network, plan, steps=5, on_progress=seen.append, stop=lambda: len(seen) == 2)
    assert [(step.phase, step.done, step.total) for step in seen] == [("fine-tune", 1, 5), ("fine-tune", 2, 5)]
    assert_same(before, everything(network))


@pytest.mark.parametrize("rounding", SCHEMES)
def test_the_result_depends_on_the_seed_alone(rounding):
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 4, rounding)
    first, again, other = (learn(network, plan, augment=SHIFT, batch_size=8, steps=6, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stages.conv1.conv.weight"], other["stages.conv1.conv.weight"])


def test_every_parameter_comes_back_trained_and_not_rounded():
    network = toy_network(ROUTED)
    plan = plan_of(network, ROUTED, 4)
    trained = learn(network, plan)
    assert list(trained) == [name for name, _ in network.named_parameters()]
    for site, name in weight_sites(network).items():
        assert trained[name].dtype == torch.float32
        assert not trained[name].requires_grad
        assert not torch.equal(trained[name], network.get_parameter(name))
        assert not torch.equal(quantize(trained[name], plan.weights[site], plan.rounding).values, trained[name])


def test_norms_learn_but_keep_their_statistics():
    network = toy_network(NORMED)
    plan, before = plan_of(network, NORMED, 6), everything(network)
    trained = learn(network, plan, NORMED)
    assert_same(before, everything(network))
    assert "stages.conv1.norm.running_mean" not in trained
    assert not torch.equal(trained["stages.conv1.norm.weight"], network.get_parameter("stages.conv1.norm.weight"))


@pytest.mark.parametrize("rounding", SCHEMES)
def test_blocks_of_a_batch_add_up_to_the_whole(rounding, monkeypatch):
    network = toy_network(ROUTED).double()
    plan = plan_of(toy_network(ROUTED), ROUTED, 5, rounding)
    found = []
    for blocks in (1, 7):  # of 20 images, the last with two
        monkeypatch.setattr(finetuning, "even_blocks", lambda _network, blocks=blocks: lambda _pixels: blocks)
        found.append(learn(network, plan, steps=1, augment=Augmentation(lambda images, _: images.double())))
    whole, cut = found
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-9, atol=1e-9)


def losses_without_learning(rounding):
    network, notes = toy_network(ROUTED), []
    plan = plan_of(network, ROUTED, 3, rounding)
    learn(network, plan, steps=4, lr=0.0, on_progress=lambda step: notes.append(step.note))
    return set(notes)


def test_the_draws_of_an_image_follow_its_index_not_its_place_in_the_batch():
    network, notes = toy_network(ROUTED), []
    plan = plan_of(network, ROUTED, 3, "stochastic_rounding")
    images = toy_images(ROUTED, COUNT, split="train")
    for order in (torch.arange(COUNT), torch.arange(COUNT).flip(0)):
        learn(network, plan, images=images.subset(order), steps=1, on_progress=lambda step: notes.append(step.note))
    assert notes[1] == notes[0]


def test_every_step_draws_anew_for_stochastic_rounding():
    assert len(losses_without_learning("stochastic_rounding")) == 4


def test_other_roundings_repeat_themselves():
    assert len(losses_without_learning("round_to_nearest")) == 1


class _OneNumber(nn.Module):
    """Score class 0 by a single weight; class 1 stays at 0."""

    def __init__(self, score=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(score))
        self.sites = Sites("out", weights={"weight": "weight"})

    def forward(self, images):
        first = self.weight.expand(len(images), 1)
        scores = torch.cat([first, torch.zeros_like(first)], 1)
        return scores.unsqueeze(2), self.sites("out", scores)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_learning_rate_falls_evenly_to_zero(steps):
    network, teacher = (to_inference(CapsuleNetwork({"one": _OneNumber(score)})) for score in (0.5, 0.9))
    plan = BitPlan("truncation", {"one.weight": Float32()}, {"one.out": Float32()})
    images = toy_images(ROUTED, 4)
    trained = learn(network, plan, images=images, teacher=teacher, steps=steps, batch_size=4, lr=1e-4)
    # The gradient hardly changes, so that each step of Adam is as long as the learning rate.
    moved = float(trained["stages.one.weight"]) - 0.5
    assert moved == pytest.approx(1e-4 * sum(1 - k / steps for k in range(steps)), rel=1e-2)


def test_every_image_is_seen_once_before_one_is_seen_again():
    network, seen = toy_network(ROUTED), []
    plan = float_plan(network)

    def note(images, _generator):
        seen.extend(images.flatten(1).tolist())
        return images

    learn(network, plan, augment=Augmentation(note), batch_size=6, steps=7)
    first, second = (sorted(map(tuple, seen[start : start + COUNT])) for start in (0, COUNT))
    assert len(seen) == 42
    assert first == second == sorted(map(tuple, (toy_images(ROUTED, COUNT).pixels / 255).flatten(1).tolist()))


def test_numbers_that_grow_beyond_all_bounds_are_an_error_that_names_the_site():
    network = toy_network(ROUTED)
    with pytest.raises(QcapsError, match="NaN or infinity") as caught:
        learn(network, float_plan(network), steps=5, lr=1e30)
    assert caught.value.where in {*weight_sites(network), *array_sites(network, (1, 14, 14))}
