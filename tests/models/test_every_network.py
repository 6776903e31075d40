"""What holds for every network of the registry; a new one joins with a line in `NETWORKS`."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from qcaps.capsules.sites import Sites, hooked
from qcaps.data.spec import data_spec
from qcaps.evaluation.cost import stage_costs
from qcaps.models.network import array_sites, float_tensors, parameter_count, to_inference, weight_sites
from qcaps.models.spec import build, image_of, initialised, preset, spec_from_dict, spec_to_dict
from qcaps.models.units import cut_tensors
from qcaps.registry import MODELS


def conv(kernel, channels_in, channels_out, side):
    return kernel**2 * channels_in * channels_out * side**2


def routed(n_in, n_out, d_in, d_out, passes=3):
    """Count votes, a weighted sum in every pass and an agreement between two."""
    return n_in * n_out * d_out * (d_in + 2 * passes - 1)


def attended(n_in, n_out):
    """Count votes, agreement and weighted sum of Efficient-CapsNet's class capsules."""
    return n_in * n_out * 16 * (8 + 2)


def fitted(n_in, n_out):
    """Count votes of 4x4 matrices; two products per pose entry in each of 3 M-steps and each of 2 E-steps."""
    return n_in * n_out * (64 + 16 * 2 * (3 + 2))


SABOUR = conv(9, 1, 256, 20) + conv(9, 256, 256, 6)
# At 64 pixels every map has 2/7 of the side that it has at 224; the classifier's dense layer is left out.
RESNET50_64 = (4_089_184_256 - 2048 * 1000) * 4 // 49
MOBILENETV1_64 = (568_740_352 - 1024 * 1000) * 4 // 49

# Trainable values of the encoder, and multiply-accumulates of one image.
NETWORKS = {
    "shallow-capsnet": (6_804_384, 201_793_536),
    "capsnet-sabour": (6_804_384, SABOUR + routed(1152, 10, 8, 16)),
    "capsnet-tf-original": (6_804_384, SABOUR + routed(1152, 10, 8, 16)),
    "capsnet-efficientcn": (6_815_744, SABOUR + routed(1152, 10, 8, 16, passes=4)),
    "capsnet-ethanleet": (6_804_384, SABOUR + routed(1152, 10, 8, 16)),
    "q7-capsnet-mnist": (296_800, conv(7, 1, 16, 22) + conv(7, 16, 64, 8) + routed(1024, 10, 4, 6)),
    "q7-capsnet-smallnorb": (295_584, conv(7, 2, 32, 26) + conv(7, 32, 64, 10) + routed(1600, 5, 4, 6)),
    "q7-capsnet-cifar10": (
        115_296,
        conv(3, 3, 32, 30)
        + conv(3, 32, 32, 28)
        + conv(3, 32, 64, 13)
        + conv(3, 64, 64, 6)
        + conv(3, 64, 64, 2)
        + routed(64, 10, 4, 5),
    ),
    "efficient-capsnet": (161_824, 30_135_424),
    "efficient-capsnet-smallnorb": (
        151_664,
        conv(7, 2, 32, 21)
        + conv(3, 32, 64, 19)
        + conv(3, 64, 64, 17)
        + conv(3, 64, 128, 8)
        + conv(8, 1, 128, 1)
        + attended(16, 5),
    ),
    "efficient-capsnet-multimnist": (
        154_656,
        conv(5, 1, 32, 32)
        + conv(3, 32, 64, 30)
        + conv(3, 64, 64, 14)
        + conv(3, 64, 128, 6)
        + conv(5, 1, 128, 1)
        + attended(16, 10),
    ),
    "efficient-capsnet-affnist": (
        180_256,
        conv(5, 1, 32, 36)
        + conv(3, 32, 64, 34)
        + conv(3, 64, 64, 32)
        + conv(3, 64, 128, 15)
        + conv(15, 1, 128, 1)
        + attended(16, 10),
    ),
    "deepcaps": (8_445_504, 267_675_648),
    "deepcaps-64": (13_363_008, 1_346_666_496),
    "em-capsnet": (
        317_194,
        conv(5, 2, 32, 14)
        + conv(1, 32, 32 * 17, 14)
        + fitted(6**2 * 288, 32)
        + fitted(4**2 * 288, 32)
        + fitted(4**2 * 32, 5),
    ),
    "resnet50-capsnet": (40_615_136, RESNET50_64 + conv(2, 2048, 2048, 1) + routed(256, 10, 8, 16)),
    "mobilenetv1-capsnet": (7_566_304, MOBILENETV1_64 + conv(2, 1024, 1024, 1) + routed(128, 10, 8, 16)),
    "resnet50": (25_557_032, 4_089_184_256),
    "mobilenetv1": (4_231_976, 568_740_352),
    "cnn-r": (6_805_994, SABOUR + 9216 * 160 + 160 * 10),
    "cnn-cr": (6_804_384, SABOUR + 9216 * 160),
    "cnn-cr-sf": (6_530_080, SABOUR + 9216 * 128 + 128 * 160),
    "cnn-small": (28_938, conv(5, 1, 16, 28) + conv(5, 16, 32, 14) + 1568 * 10),
}
# Counted as they are, run on smaller images.
RUN_AT = {"resnet50": 64, "mobilenetv1": 64}

every_network = pytest.mark.parametrize("name", NETWORKS)


def spec_of(name):
    """Give the spec of a network at a size that can be run here."""
    spec = preset(name).spec
    return dataclasses.replace(spec, height=RUN_AT[name], width=RUN_AT[name]) if name in RUN_AT else spec


def images_of(spec, count=2):
    shape = (count, spec.channels, spec.height, spec.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def tensors_of(network):
    return {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


def test_every_registered_network_is_tested_here():
    assert list(NETWORKS) == list(MODELS.names())


@every_network
def test_the_encoder_has_the_published_number_of_parameters(name):
    assert parameter_count(build(preset(name).spec)) == NETWORKS[name][0]


@every_network
def test_an_image_costs_the_published_multiply_accumulates(name):
    spec = preset(name).spec
    assert sum(stage.macs for stage in stage_costs(build(spec).eval(), image_of(spec))) == NETWORKS[name][1]


@every_network
def test_its_usual_decoder_draws_its_images(name):
    spec = preset(name).spec
    network = build(dataclasses.replace(spec, decoder=spec.usual_decoder))
    if spec.usual_decoder == "none":
        assert network.decoder is None
        return
    capsules = network.eval()(torch.empty(2, *image_of(spec), device="meta")).capsules
    kept = torch.zeros(2, dtype=torch.int64, device="meta")
    assert network.reconstruct(capsules, kept).shape == (2, *image_of(spec))


@every_network
def test_it_learns_with_every_parameter_and_comes_back_from_its_file(name, tmp_path):
    spec = spec_of(name)
    network = initialised(spec, seed=0).train()
    images = images_of(spec)
    network(images).scores.square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    checkpoint = Checkpoint(spec, tensors_of(network), data_spec("mnist"), {})
    write_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    read, _ = read_checkpoint(tmp_path / "checkpoint.pt")
    assert read.model == spec
    with torch.inference_mode():
        before, after = to_inference(network)(images), read.network()(images)
    assert before.scores.shape == (2, spec.classes)
    assert before.scores.isfinite().all()
    assert after.scores.equal(before.scores)
    assert after.capsules.equal(before.capsules)


@every_network
def test_its_spec_survives_the_way_through_plain_data(name):
    spec = preset(name).spec
    assert spec_from_dict(spec_to_dict(spec), where="header") == spec
    assert type(preset(spec.architecture).spec) is type(spec)


@every_network
def test_uniform_routing_takes_the_same_tensors(name):
    spec = preset(name).spec
    own, uniform = tensors_of(build(spec)), tensors_of(build(spec.with_uniform_routing()))
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in uniform.items()}


@every_network
def test_the_weights_of_every_layer_are_sites(name):
    spec = preset(name).spec
    network = build(spec.folded())
    inside_norms = {
        f"stages.{path}.{leaf}"
        for path, module in network.stages.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for leaf in module.state_dict()
    }
    assert float_tensors(network).keys() <= inside_norms
    assert len(set(weight_sites(network).values())) == len(weight_sites(network))


@every_network
def test_every_declared_array_passes_its_site_with_the_batch_first(name):
    spec = preset(name).spec
    network = build(spec.folded()).eval()
    passed = {}
    with torch.no_grad(), hooked(network, lambda site, array: passed.setdefault(site, array.shape) and array):
        network(torch.empty(3, *image_of(spec), device="meta"))
    assert all(shape[0] == 3 for shape in passed.values())
    declared = {f"{m.owner}.{role}" for m in network.modules() if isinstance(m, Sites) for role in m.arrays}
    assert {site.split("@")[0] for site in passed} == declared
    assert list(passed) == list(array_sites(network, image_of(spec)))


@every_network
def test_every_unit_cuts_exactly_the_tensors_of_the_narrower_network(name):
    spec = preset(name).spec
    network = build(spec)
    classes = {"class_caps", "classifier"}
    assert not {unit.name for unit in network.units if unit.name.split(".")[0] in classes}
    for unit in network.units:
        kept = range(math.ceil(unit.count / 3))
        cut = cut_tensors(tensors_of(network), {unit: kept})
        narrow = build(spec.with_widths({unit.name: len(kept)}))
        assert {k: v.shape for k, v in cut.items()} == {k: v.shape for k, v in tensors_of(narrow).items()}, unit.name
        assert {u.name: u.count for u in narrow.units} == {
            u.name: len(kept) if u.name == unit.name else u.count for u in network.units
        }


@every_network
def test_all_units_can_be_cut_together(name):
    spec = preset(name).spec
    network = build(spec)
    kept = {unit: range(math.ceil(unit.count / 2)) for unit in network.units}
    tensors = cut_tensors(tensors_of(network), kept)
    expected = tensors_of(build(spec.with_widths({unit.name: len(indices) for unit, indices in kept.items()})))
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in expected.items()}
