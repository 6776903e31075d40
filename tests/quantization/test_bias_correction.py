from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn
from toy_search import by_hand, judged_images, toy_bench, toy_subject
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.capsules.sites import hooked
from qcaps.evaluation.measure import measure
from qcaps.models.cnn_small import CNN_SMALL
from qcaps.models.resnet50 import RESNET50
from qcaps.models.spec import ModelSpec
from qcaps.quantization.applying import weights_replaced
from qcaps.quantization.bias_correction import correctable, corrected_bias, mean_input, watching_inputs
from qcaps.quantization.calibration import calibrate
from qcaps.quantization.formats import FixedPoint, Rounding
from qcaps.quantization.loading import load
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.trial import make_trial

SHAPE = {"channels": 1, "height": 14, "width": 14, "classes": 3}
PLAIN = dataclasses.replace(CNN_SMALL.spec, **SHAPE)
RESNET = dataclasses.replace(RESNET50.spec, **SHAPE, widths=(4,) * 37, norm="none")


def prepared(
    spec: ModelSpec = ROUTED, rounding: Rounding = "round_to_nearest", *, per_channel: bool = False
) -> Subject:
    """Make a subject whose biases are corrected."""
    subject = toy_subject(spec, rounding, per_channel=per_channel)
    images = toy_images(spec, split="train")
    ranges = calibrate(subject.network, images, batch_size=7, seed=0, with_inputs=True)
    return dataclasses.replace(subject, calibration=ranges)


def slow_mean_input(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Average every patch that the convolution sees, one by one: ``(in, rows, columns)``."""
    (up, left), (down, right), (rows, columns) = conv.stride, conv.dilation, conv.kernel_size
    padded = nn.functional.pad(x.double(), [conv.padding[1]] * 2 + [conv.padding[0]] * 2)
    height, width = conv(x).shape[2:]
    total = torch.zeros(x.shape[1], rows, columns, dtype=torch.float64)
    for i, j, r, c in itertools.product(range(height), range(width), range(rows), range(columns)):
        total[:, r, c] += padded[:, :, i * up + r * down, j * left + c * right].mean(0)
    return total / (height * width)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 2, 3),
        nn.Conv2d(3, 2, (3, 2), stride=(2, 3)),
        nn.Conv2d(3, 2, 3, padding=(2, 1)),
        nn.Conv2d(3, 2, 2, dilation=(2, 3), stride=2),
        nn.Conv2d(3, 3, 3, padding=1, groups=3),
    ],
    ids=["plain", "strides", "padding", "dilation", "depthwise"],
)
def test_a_mean_input_is_the_average_of_all_patches(conv: nn.Conv2d) -> None:
    x = torch.randn(4, 3, 9, 10)
    assert torch.allclose(mean_input(conv, x), slow_mean_input(conv, x))


def test_a_mean_input_of_a_linear_layer_is_the_average_vector() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0], [3.0, 2.0, 0.0]])
    assert mean_input(nn.Linear(3, 2), x).tolist() == [2, 2, 2]


def test_batches_add_up_by_their_images() -> None:
    network, pixels = toy_network(ROUTED), toy_images(ROUTED).pixels / 255
    sums: dict[str, Tensor] = {}
    with torch.inference_mode(), watching_inputs(network, sums):
        network(pixels[:13])
        network(pixels[13:])
    expected = slow_mean_input(network.stages["conv1"].conv, pixels)
    assert torch.allclose(sums["conv1.weight"] / len(pixels), expected)
    assert sums.keys() == {"conv1.weight", "primary.weight"}


@pytest.mark.parametrize("spec", [ROUTED, FOLDED, RESNET, PLAIN], ids=["routed", "folded", "resnet", "plain"])
def test_a_corrected_layer_gives_the_mean_it_gave_before(spec: ModelSpec) -> None:
    network, pixels = toy_network(spec), toy_images(spec, split="train").pixels / 255
    for place in correctable(network).values():
        layer = network.get_submodule(place.layer)
        x = input_of(network, layer, pixels).double()
        rough = (layer.weight.double() * 4).round() / 4 - 0.05
        bias = torch.zeros(len(layer.weight), dtype=torch.float64)
        found = corrected_bias(layer, bias, rough - layer.weight, mean_input(layer, x), place.gain)
        exact, shifted = (place.gain * channel_means(layer, x, weight) for weight in (layer.weight.double(), rough))
        assert torch.allclose(shifted + found, exact)
        assert found.abs().max() > 0
    assert correctable(network)


def input_of(network: nn.Module, layer: nn.Module, pixels: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0].clone()))
    with torch.inference_mode():
        network(pixels)
    handle.remove()
    return found[0]


def channel_means(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return (x @ weight.T).mean(0)
    y = nn.functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return y.mean((0, 2, 3))


def test_the_routed_primary_capsules_add_their_bias_behind_the_coupling() -> None:
    places = correctable(toy_network(ROUTED))
    assert (places["primary.weight"].bias, places["primary.weight"].gain) == ("primary.bias", 1 / 3)
    assert places["conv1.weight"].gain == 1.0
    assert "class_caps.weight" not in places


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "stochastic_rounding", "logarithmic"])
def test_rounding_shifts_no_mean_of_what_leaves_a_layer(rounding: Rounding) -> None:
    subject = prepared(rounding=rounding)
    widths = dict.fromkeys(subject.sites, 32) | {"primary.weight": 3}
    tensors = subject.round_weights(subject.plan(widths)).tensors
    images = toy_images(ROUTED, split="train")

    def mean_sum() -> Tensor:
        found: dict[str, Tensor] = {}
        with torch.inference_mode(), hooked(subject.network, lambda site, array: found.setdefault(site, array)):
            subject.network(images.pixels / 255)
        return found["primary.sum"].mean((0, 2, 3))

    exact = mean_sum()
    with weights_replaced(subject.network, tensors):
        assert torch.allclose(mean_sum(), exact, atol=1e-5)
    bias = subject.network.stages["primary"].bias
    with weights_replaced(subject.network, {**tensors, "stages.primary.bias": bias.detach()}):
        assert not torch.allclose(mean_sum(), exact, atol=1e-4)


def test_the_scale_of_a_bias_holds_what_it_is_corrected_to() -> None:
    subject = prepared()
    subject.calibration.inputs["primary.weight"].fill_(100.0)  # type: ignore[index]
    widths = dict.fromkeys(subject.sites, 8) | {"primary.weight": 2}
    plan = subject.plan(widths)
    rounded = subject.round_weights(plan).tensors["stages.primary.bias"]
    fmt = plan.weights["primary.bias"]
    assert isinstance(fmt, FixedPoint)
    assert rounded.abs().max() > 4 * toy_network(ROUTED).stages["primary"].bias.abs().max()
    assert subject.round_weights(plan).saturation["primary.bias"].clamped == 0


def test_weights_in_float_leave_every_bias_as_it_is() -> None:
    subject = prepared()
    tensors = subject.round_weights(subject.common_width(32)).tensors
    parameters = dict(subject.network.named_parameters())
    assert all(torch.equal(tensors[name], parameters[name]) for name in tensors)


def test_the_file_holds_the_corrected_biases(tmp_path) -> None:
    subject = prepared(per_channel=True)
    with toy_bench() as bench:
        baseline = bench.measure_float(ROUTED, subject.network)
        trial = make_trial(bench, subject, dict.fromkeys(subject.sites, 3), baseline=baseline, allowed=5)
    (tmp_path / "a.pt").write_bytes(trial.file)
    file = load(tmp_path / "a.pt")
    expected = subject.round_weights(trial.plan).tensors
    for name, parameter in file.network.named_parameters():
        assert torch.equal(parameter, expected[name])
    found = measure(file.predictor(), judged_images(), batch_size=50)
    assert torch.equal(found.predictions, trial.measurements[0].predictions)
    assert not torch.equal(found.predictions, by_hand(toy_subject(per_channel=True), judged_images(), trial.plan))


def test_other_mean_inputs_are_another_candidate() -> None:
    one, other = prepared(), toy_subject()
    assert one.content != other.content
    assert one.content == prepared().content
    assert one.content[:-1] == other.content


def test_a_settled_network_has_the_corrected_biases_for_good() -> None:
    subject = prepared()
    widths = dict.fromkeys(subject.sites, 8) | {"primary.weight": 2, "conv1.weight": 3}
    plan = subject.plan(widths)
    settled = subject.settled(plan)
    assert settled.plan(widths) == plan
    before, after = subject.round_weights(plan).tensors, settled.round_weights(plan).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert settled.calibration.inputs == {}
    assert torch.equal(subject.network.stages["primary"].bias, toy_network(ROUTED).stages["primary"].bias)
