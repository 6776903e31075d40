from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.capsules.sites import hooked
from qcaps.data.spec import data_spec
from qcaps.models.capsnet_flavours import EFFICIENTCN
from qcaps.models.cnn_baselines import CNN_R
from qcaps.models.deepcaps import DEEPCAPS
from qcaps.models.em_capsnet import EM_CAPSNET
from qcaps.models.mobilenetv1_capsnet import MOBILENETV1_CAPSNET
from qcaps.models.network import array_sites, encoder_tensors, to_inference
from qcaps.models.spec import filled, image_of, preset
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.artifact import Artifact, artifact_bytes
from qcaps.quantization.calibration import calibrate, plan_of_width
from qcaps.quantization.formats import FixedPoint, Float32
from qcaps.quantization.loading import load
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.routing_passes import with_fewer_passes
from qcaps.registry import MODELS

DIGITS = {"channels": 1, "height": 28, "width": 28, "classes": 10}
SMALL_DEEPCAPS = {"conv_channels": 4, "types": (2,) * 12, "dims": (2,) * 12, "competing_types": 2}
SPECS = {
    "dynamic": ROUTED,
    "prior logits": dataclasses.replace(
        EFFICIENTCN.spec, **DIGITS, conv_channels=(4,), primary_types=2, primary_dim=4, class_dim=4
    ),
    "3-d": dataclasses.replace(DEEPCAPS.spec, **DIGITS, **SMALL_DEEPCAPS, class_dim=4),
    "capsule head": dataclasses.replace(
        MOBILENETV1_CAPSNET.spec, **DIGITS, widths=(4,) * 13 + (16,), primary_types=2
    ).folded(),
    "em": dataclasses.replace(EM_CAPSNET.spec, **DIGITS, conv_channels=4, primary_types=2, conv_types=(2, 2)),
}
EMPTY = BitPlan("round_to_nearest", {}, {})
every_routing = pytest.mark.parametrize("name", SPECS)


def images_of(name, count=4):
    spec = SPECS[name]
    patches = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(count))
    pixels = patches.repeat_interleave(spec.height // 4 + 1, 2).repeat_interleave(spec.width // 4 + 1, 3)
    pixels = pixels[:, :, : spec.height, : spec.width].to(torch.uint8)
    return dataclasses.replace(toy_images(ROUTED, count), pixels=pixels)


def planned(name):
    """Give a toy network of a kind, and a plan that was calibrated for it."""
    network, images = toy_network(SPECS[name]), images_of(name)
    calibration = calibrate(network, images, batch_size=4, seed=0)
    return network, plan_of_width(calibration, 6, "round_to_nearest")


def shortened(name, passes):
    network, plan = planned(name)
    spec, shorter = with_fewer_passes(SPECS[name], plan, passes)
    return network, plan, spec, shorter, to_inference(filled(spec, encoder_tensors(network), where="test"))


@every_routing
@pytest.mark.parametrize("passes", [1, 2])
def test_the_plan_names_exactly_the_sites_of_the_shorter_routing(name, passes):
    _, plan, spec, shorter, network = shortened(name, passes)
    assert list(shorter.arrays) == list(array_sites(network, image_of(spec)))
    assert shorter.weights == plan.weights
    assert all(plan.arrays[site] == fmt for site, fmt in shorter.arrays.items())
    later = tuple(f"@{t}" for t in range(passes + 1, SPECS[name].routing_passes + 1))
    dropped = {site for site in plan.arrays if site.endswith((*later, f".logits@{passes}"))}
    assert plan.arrays.keys() - shorter.arrays.keys() == dropped


@every_routing
def test_up_to_its_last_pass_the_shorter_routing_computes_what_the_longer_one_does(name):
    longer, plan, _, shorter_plan, shorter = shortened(name, 2)
    images, seen = images_of(name, 3), []
    for network, own in ((longer, plan), (shorter, shorter_plan)):
        arrays = {}
        rounder = ArrayRounder(own, 0).hook(images.indices)
        with (
            torch.inference_mode(),
            weights_replaced(network, round_weights(network, own, 0).tensors),
            hooked(network, lambda site, x, arrays=arrays, rounder=rounder: arrays.setdefault(site, rounder(site, x))),
        ):
            network(images.pixels / 255)
        seen.append(arrays)
    first = next(site for site in seen[1] if site.endswith("sum@2"))
    assert seen[1][first].equal(seen[0][first])
    assert len(seen[1][first].unique()) > 2


@every_routing
def test_an_artifact_of_the_shorter_network_is_written_and_loaded(name, tmp_path):
    _, _, spec, plan, network = shortened(name, 1)
    with weights_replaced(network, round_weights(network, plan, 0).tensors):
        file = artifact_bytes(Artifact(spec, data_spec("digits"), plan, 0, network, {}))
    (tmp_path / "short.pt").write_bytes(file)
    loaded = load(tmp_path / "short.pt")
    assert loaded.model == spec
    assert loaded.model.routing_passes == 1
    assert loaded.artifact.plan == plan


def test_an_entry_for_all_iterations_stays_while_one_of_them_is_left():
    arrays = {"conv1.out": Float32(), "class_caps.coupling": FixedPoint(4, 4), "class_caps.logits": FixedPoint(5, 2)}
    plan = BitPlan("truncation", {}, arrays)
    assert with_fewer_passes(ROUTED, plan, 2)[1].arrays == arrays
    del arrays["class_caps.logits"]
    assert with_fewer_passes(ROUTED, plan, 1)[1].arrays == {
        "conv1.out": Float32(),
        "class_caps.coupling": FixedPoint(4, 4),
    }


@pytest.mark.parametrize("passes", [-1, 0, 3, 4])
def test_passes_that_are_none_or_not_fewer_are_no_move(passes):
    assert with_fewer_passes(ROUTED, EMPTY, passes) is None


@pytest.mark.parametrize(
    "spec", [FOLDED, CNN_R.spec, ROUTED.with_uniform_routing(), SPECS["3-d"].with_uniform_routing()]
)
def test_a_network_of_a_single_pass_has_nothing_to_drop(spec):
    assert with_fewer_passes(spec, EMPTY, 1) is None


def test_uniform_em_routing_makes_a_single_pass_and_has_nothing_to_drop():
    assert with_fewer_passes(SPECS["em"].with_uniform_routing(), EMPTY, 1) is None


def test_every_network_whose_routing_repeats_itself_can_drop_a_pass():
    found = {name for name in MODELS.names() if with_fewer_passes(preset(name).spec, EMPTY, 2)}
    assert found == {
        name for name in MODELS.names() if getattr(preset(name).spec, "routing", "none") in ("dynamic", "em")
    }
    assert {"shallow-capsnet", "deepcaps", "em-capsnet", "resnet50-capsnet"} <= found
