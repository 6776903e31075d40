from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prunable import DEEP, EFFICIENT, EM, MOBILE_CAPS, RESNET, RESNET_CAPS, SHALLOW, drawn_tensors
from toys import ROUTED, toy_images, toy_network

from qcaps.artifacts.container import read_container
from qcaps.data.spec import data_spec
from qcaps.errors import UsageError
from qcaps.models.network import encoder_tensors, to_inference
from qcaps.models.spec import build, filled, initialised
from qcaps.pruning.surgery import cut
from qcaps.quantization.applying import round_weights, weights_replaced
from qcaps.quantization.artifact import Artifact, artifact_bytes, payload_bytes
from qcaps.quantization.calibration import calibrate, plan_of_width
from qcaps.quantization.loading import load

TENSORS = drawn_tensors(build(SHALLOW))


def refusal(kept, spec=SHALLOW):
    with pytest.raises(UsageError) as error:
        cut(spec, drawn_tensors(build(spec)), kept)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("spec", "groups"), [(RESNET_CAPS, 37), (MOBILE_CAPS, 14)])
def test_a_capsule_head_adds_its_types_and_dimensions_to_the_groups_of_its_backbone(spec, groups):
    kinds = [unit.kind for unit in build(spec).units]
    assert kinds == [*groups * ["channels"], "types", "dims"]


def test_the_widths_of_the_spec_are_those_that_were_kept():
    spec, tensors = cut(SHALLOW, TENSORS, {"primary.types": [0, 2], "conv2.channels": [3], "primary.positions": [1, 7]})
    assert (spec.primary_types, spec.conv_channels, spec.primary_positions) == (2, (5, 1), 2)
    assert tensors["stages.class_caps.weight"].shape == (4, 3, 4, 4)
    assert tensors["stages.primary.positions"].tolist() == [1, 7]


def test_the_rows_of_the_class_weights_are_those_of_the_kept_types_and_positions():
    tensors = {**TENSORS, "stages.class_caps.weight": torch.arange(36.0).view(36, 1, 1, 1).expand(36, 3, 4, 4)}
    _, found = cut(SHALLOW, tensors, {"primary.types": [0, 2], "primary.positions": [1, 7]})
    # 12 positions of type 0, then of type 1, then of type 2.
    assert found["stages.class_caps.weight"][:, 0, 0, 0].tolist() == [1, 7, 25, 31]


def test_the_order_of_the_request_does_not_matter():
    kept = {"primary.dims": [0, 3], "conv1.channels": [1, 2], "primary.types": [1], "primary.positions": [2, 3, 5]}
    spec, tensors = cut(SHALLOW, TENSORS, kept)
    other, others = cut(SHALLOW, TENSORS, dict(reversed(kept.items())))
    assert spec == other
    assert all(tensor.equal(others[name]) for name, tensor in tensors.items())


def test_one_cut_after_the_other_gives_what_both_at_once_do():
    kept = {"primary.dims": [0, 3], "primary.types": [1, 2], "primary.positions": [2, 3, 5], "conv2.channels": [0]}
    spec, tensors = SHALLOW, TENSORS
    for name, indices in kept.items():
        spec, tensors = cut(spec, tensors, {name: indices})
    at_once, expected = cut(SHALLOW, TENSORS, kept)
    assert spec == at_once
    assert tensors.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in tensors.items())


def test_the_source_stays_as_it_is_and_shares_no_memory_with_the_result():
    before = {name: tensor.clone() for name, tensor in TENSORS.items()}
    _, found = cut(SHALLOW, TENSORS, {"primary.types": [0, 2]})
    for tensor in found.values():
        tensor.zero_()
    assert all(tensor.equal(TENSORS[name]) for name, tensor in before.items())


@pytest.mark.parametrize("spec", [SHALLOW, EFFICIENT, DEEP, EM], ids=lambda spec: spec.architecture)
def test_a_request_to_keep_everything_changes_nothing(spec):
    tensors = drawn_tensors(build(spec))
    same, found = cut(spec, tensors, {unit.name: range(unit.count) for unit in build(spec).units})
    assert same == spec
    assert found.keys() == tensors.keys()
    assert all(tensor.equal(tensors[name]) for name, tensor in found.items())


def test_a_decoder_stays_whole_for_it_reads_class_capsules():
    spec = replace(SHALLOW, decoder="fc")
    network = initialised(spec, seed=0)
    kept = {unit.name: [0] for unit in network.units}
    smaller, tensors = cut(spec, network.state_dict(), kept)
    found = filled(smaller, tensors, where="cut")
    assert all(t.equal(tensors[n]) for n, t in network.state_dict().items() if n.startswith("decoder."))
    capsules = found(torch.rand(2, 1, 14, 12)).capsules
    assert found.reconstruct(capsules, torch.tensor([0, 2])).shape == (2, 1, 14, 12)


def test_types_that_compete_keep_their_number():
    for spec, name, field, kept in (
        (DEEP, "block4.types", "competing_types", 4),
        (EM, "conv_caps2.types", "competing_types", (4, 3)),
        (SHALLOW, "primary.types", "primary_coupling", 0.3),
    ):
        once, tensors = cut(spec, drawn_tensors(build(spec)), {name: [0, 1]})
        twice, _ = cut(once, tensors, {name: [1]})
        assert getattr(twice, field) == kept


def test_an_unknown_unit_is_refused_with_near_matches():
    message = "shallow-capsnet has no units 'primary.type'; did you mean 'primary.types'"
    assert refusal({"primary.type": [0]}).startswith(message)


@pytest.mark.parametrize(
    ("spec", "name"), [(SHALLOW, "class_caps.types"), (SHALLOW, "class_caps.dims"), (RESNET, "classifier.channels")]
)
def test_classes_are_never_cut(spec, name):
    assert refusal({name: [0]}, spec) == f"'{name}' cannot be cut: classes stay; cut what lies in front of them"


@pytest.mark.parametrize(
    ("indices", "reason"),
    [
        ([], "nothing would be left of primary.types; keep at least 1 of 3"),
        ([0, 3], "primary.types has no unit '3'; units are numbered 0 to 2"),
        ([-1, 0], "primary.types has no unit '-1'; units are numbered 0 to 2"),
        ([0.0], "primary.types has no unit '0.0'; units are numbered 0 to 2"),
        ([True], "primary.types has no unit 'True'; units are numbered 0 to 2"),
        ([1, 1], "the kept units of primary.types are repeated or out of order; list each once, ascending"),
        ([2, 0], "the kept units of primary.types are repeated or out of order; list each once, ascending"),
    ],
)
def test_what_is_no_set_of_units_is_refused_before_anything_is_cut(indices, reason):
    assert refusal({"conv1.channels": [0], "primary.types": indices}) == reason


def test_a_network_without_some_positions_is_quantized_without_loss_of_its_list(tmp_path):
    spec, tensors = cut(ROUTED, encoder_tensors(toy_network(ROUTED)), {"primary.positions": [0, 2, 3]})
    network = to_inference(filled(spec, tensors, where="cut"))
    ranges = calibrate(network, toy_images(spec, split="train"), batch_size=20, seed=0)
    plan = plan_of_width(ranges, 6, "round_to_nearest")
    with weights_replaced(network, round_weights(network, plan, 0).tensors):
        data = artifact_bytes(Artifact(spec, data_spec("digits"), plan, 0, network, {}))
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    loaded = load(path)  # replays its self-test
    assert loaded.network.stages["primary"].positions.tolist() == [0, 2, 3]
    assert loaded.checks.tensor_bytes == payload_bytes(network, plan)
    assert read_container(path, schema="qcaps.artifact").tensors["stages.primary.positions"].dtype == torch.int64
