from __future__ import annotations

import dataclasses

import pytest
import torch

from qcaps.capsules.sites import hooked
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.network import (
    CapsuleNetwork,
    Fold,
    Output,
    encoder_tensors,
    parameter_count,
    predictions,
    to_inference,
    weight_sites,
)
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import build, initialised

# Both networks with few channels, so that a forward pass takes milliseconds.
SHALLOW = ShallowCapsNetSpec(
    height=19, width=20, conv_channels=(6,), conv_kernels=(5,), primary_kernel=5, primary_types=3, classes=4
)
EFFICIENT = EfficientCapsNetSpec(height=14, width=15, conv_channels=(4, 6, 8, 16), classes=4)
both = pytest.mark.parametrize("spec", [SHALLOW, EFFICIENT], ids=["shallow", "efficient"])

SHALLOW_SITES = [
    "conv1.out",
    "primary.votes",
    "primary.coupling",
    "primary.sum",
    "primary.out",
    "class_caps.votes",
    "class_caps.coupling@1",
    "class_caps.sum@1",
    "class_caps.out@1",
    "class_caps.logits@1",
    "class_caps.coupling@2",
    "class_caps.sum@2",
    "class_caps.out@2",
    "class_caps.logits@2",
    "class_caps.coupling@3",
    "class_caps.sum@3",
    "class_caps.out@3",
]
EFFICIENT_SITES = [
    "conv1.out",
    "conv2.out",
    "conv3.out",
    "conv4.out",
    "primary.presquash",
    "primary.out",
    "class_caps.votes",
    "class_caps.logits",
    "class_caps.coupling",
    "class_caps.sum",
    "class_caps.out",
]


def images(spec, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, spec.channels, spec.height, spec.width, generator=generator)


def sites_in_order(spec):
    network = initialised(spec, seed=0).eval()
    names = []
    with hooked(network, lambda name, array: names.append(name) or array):
        network(images(spec))
    return names


@pytest.mark.parametrize(("spec", "names"), [(SHALLOW, SHALLOW_SITES), (EFFICIENT, EFFICIENT_SITES)])
def test_the_arrays_of_a_network_pass_its_sites_in_execution_order(spec, names):
    assert sites_in_order(spec) == names


def test_the_conv_bias_flavour_has_a_presquash_site_instead_of_a_routing_pass():
    spec = dataclasses.replace(SHALLOW, primary_bias="conv", routing_passes=1)
    assert sites_in_order(spec) == [
        "conv1.out",
        "primary.presquash",
        "primary.out",
        *("class_caps.votes", "class_caps.coupling@1", "class_caps.sum@1", "class_caps.out@1"),
    ]


@both
def test_every_site_that_is_passed_was_declared_by_its_layer(spec):
    network = build(spec)
    declared = {f"{name}.{role}" for name, stage in network.stages.items() for role in stage.sites.arrays}
    assert {name.split("@")[0] for name in sites_in_order(spec)} == declared


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            SHALLOW,
            {
                "conv1.weight": "stages.conv1.conv.weight",
                "conv1.bias": "stages.conv1.conv.bias",
                "primary.weight": "stages.primary.conv.weight",
                "primary.bias": "stages.primary.bias",
                "class_caps.weight": "stages.class_caps.weight",
                "class_caps.bias": "stages.class_caps.routing.bias",
            },
        ),
        (
            EFFICIENT,
            {
                **{
                    f"conv{n}.{role}": f"stages.conv{n}.conv.{role}"
                    for n in (1, 2, 3, 4)
                    for role in ("weight", "bias")
                },
                "primary.weight": "stages.primary.conv.weight",
                "primary.bias": "stages.primary.conv.bias",
                "class_caps.weight": "stages.class_caps.weight",
                "class_caps.bias": "stages.class_caps.routing.bias",
            },
        ),
    ],
    ids=["shallow", "efficient"],
)
def test_weight_sites_name_the_parameters_in_execution_order(spec, expected):
    network = build(spec)
    assert list(weight_sites(network).items()) == list(expected.items())
    assert set(expected.values()) <= dict(network.named_parameters()).keys()


@both
def test_a_network_with_an_identity_hook_is_the_float_network_bit_for_bit(spec):
    network = to_inference(initialised(spec, seed=0))
    plain = network(images(spec))
    with hooked(network, lambda name, array: array.clone()):
        watched = network(images(spec))
    assert watched.scores.equal(plain.scores)
    assert watched.capsules.equal(plain.capsules)


@both
def test_the_last_site_of_a_network_is_its_class_capsules(spec):
    network = initialised(spec, seed=0).eval()
    last = {}
    with hooked(network, lambda name, array: last.update(array=array) or array):
        output = network(images(spec))
    assert last["array"].equal(output.capsules)


@both
@pytest.mark.parametrize("length_eps", [0.0, 1e-7, 0.25])
def test_the_scores_are_the_lengths_of_the_class_capsules(spec, length_eps):
    network = initialised(dataclasses.replace(spec, length_eps=length_eps), seed=0).eval()
    output = network(images(spec))
    assert output.capsules.shape == (3, 4, 16)
    torch.testing.assert_close(output.scores, (output.capsules.double().square().sum(2) + length_eps).sqrt().float())


@both
def test_a_network_scores_one_image_as_it_scores_a_batch(spec):
    network = to_inference(initialised(spec, seed=0))
    together = network(images(spec)).scores
    torch.testing.assert_close(network(images(spec)[1:2]).scores[0], together[1])


@both
def test_black_images_and_zero_weights_give_no_nan(spec):
    network = initialised(spec, seed=0).eval()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    output = network(torch.zeros_like(images(spec)))
    output.scores.sum().backward()
    assert output.scores.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@both
def test_a_network_under_autocast_gives_single_precision_scores_without_nan(spec):
    network = initialised(spec, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(images(spec)).scores
    scores.sum().backward()
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@both
def test_inference_form_freezes_the_network_and_keeps_its_scores(spec):
    network = initialised(spec, seed=0)
    expected = network.eval()(images(spec)).scores
    inference = to_inference(network.train())
    assert not inference.training
    assert not any(p.requires_grad for p in inference.parameters())
    assert inference.stages["conv1"].conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(inference(images(spec)).scores, expected)


def test_the_prediction_is_the_largest_score_and_the_lowest_class_on_a_tie():
    scores = torch.tensor([[0.1, 0.7, 0.3], [0.2, 0.5, 0.5], [0.0, 0.0, 0.0]])
    assert predictions(Output(scores, torch.empty(3, 3, 2))).tolist() == [1, 1, 0]


def test_a_network_without_decoder_cannot_draw():
    with pytest.raises(ValueError, match="no decoder"):
        initialised(SHALLOW, seed=0).reconstruct(torch.zeros(1, 4, 16), torch.tensor([0]))


@pytest.mark.parametrize("layout", ["zeros", "select"])
def test_a_reconstruction_depends_on_the_kept_capsule_alone(layout):
    spec = dataclasses.replace(SHALLOW, decoder="fc", mask_layout=layout)
    network = initialised(spec, seed=0).eval()
    capsules = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    others_changed, kept_changed = capsules.clone(), capsules.clone()
    others_changed[:, [0, 1, 3]] += 1
    kept_changed[:, 2] += 1
    drawn = network.reconstruct(capsules, torch.tensor([2]))
    assert drawn.shape == (1, 1, 19, 20)
    assert network.reconstruct(others_changed, torch.tensor([2])).equal(drawn)
    assert not network.reconstruct(kept_changed, torch.tensor([2])).equal(drawn)


def test_the_tensors_of_the_encoder_are_its_parameters_and_running_statistics():
    network = build(dataclasses.replace(EFFICIENT, decoder="fc", decoder_norm=True))
    names = set(encoder_tensors(network))
    assert {"stages.conv2.norm.running_mean", "stages.class_caps.weight"} <= names
    assert len(names) == 4 * 6 + 2 + 2
    assert all(name.startswith("stages.") and not name.endswith("num_batches_tracked") for name in names)


def test_the_parameter_count_leaves_the_decoder_out():
    with_decoder = build(dataclasses.replace(EFFICIENT, decoder="fc"))
    assert parameter_count(with_decoder) == parameter_count(build(EFFICIENT))


def test_the_norms_of_efficient_capsnet_fold_into_the_next_convolution():
    assert build(EFFICIENT).folds == (
        Fold("conv1.norm", "conv2.conv"),
        Fold("conv2.norm", "conv3.conv"),
        Fold("conv3.norm", "conv4.conv"),
        Fold("conv4.norm", "primary.conv"),
    )


@pytest.mark.parametrize("spec", [EFFICIENT.folded(), SHALLOW], ids=["efficient folded", "shallow"])
def test_a_network_without_norms_has_nothing_to_fold(spec):
    assert build(spec).folds == ()


class Pair(torch.nn.Module):
    """A last stage that knows its scores: the mean of the pixels for each of two classes."""

    def forward(self, images):
        capsules = images.flatten(1)[:, :4].view(-1, 2, 2)
        return capsules, capsules.mean(2)


def test_a_last_stage_may_give_its_own_scores():
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    output = CapsuleNetwork({"pair": Pair()})(images)
    assert output.capsules.equal(images.view(3, 2, 2))
    assert output.scores.equal(images.view(3, 2, 2).mean(2))


def test_frozen_stages_learn_nothing_and_keep_their_statistics():
    network = initialised(EFFICIENT, seed=0)
    network.freeze(["conv1", "conv2"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    network(torch.rand(4, 1, 14, 15, generator=torch.Generator().manual_seed(0))).scores.sum().backward()
    moved = {n.split(".")[1] for n, t in network.state_dict().items() if not t.equal(before[n])}
    assert moved == {"conv3", "conv4"}  # their running statistics
    learning = {n.split(".")[1] for n, p in network.named_parameters() if p.grad is not None}
    assert learning == {"conv3", "conv4", "primary", "class_caps"}


def test_freezing_takes_hold_in_a_network_that_is_being_trained():
    network = initialised(EFFICIENT, seed=0).train()
    network.freeze(["conv1"])
    assert not network.stages["conv1"].training
    assert network.stages["conv2"].training


def test_one_decoder_draws_several_capsules_of_an_image_as_it_draws_each_alone():
    network = initialised(dataclasses.replace(SHALLOW, decoder="fc"), seed=0).eval()
    capsules = torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[0, 1], [3, 2], [1, 3]])
    together = network.reconstruct(capsules, kept)
    assert together.shape == (3, 2, 1, 19, 20)
    for place in range(2):
        torch.testing.assert_close(together[:, place], network.reconstruct(capsules, kept[:, place]))
