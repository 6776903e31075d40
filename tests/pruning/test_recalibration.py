from __future__ import annotations

import pytest
from prunable import DEEP, EFFICIENT, NETWORKS, RESNET_CAPS, SHALLOW, drawn_tensors, labelled_images

from qcaps.errors import QcapsWarning
from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.recalibration import recalibration
from qcaps.pruning.surgery import cut

METHODS = ["batch-norm", "mean-fold", "least-squares", "tuning"]


def network_of(spec, tensors):
    return to_inference(filled(spec, tensors, where="test"))


def halves(spec):
    return {unit.name: tuple(range(0, unit.count, 2)) for unit in build(spec).units}


def everything(network):
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return tensors, [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]


def assert_same(before, after):
    assert all(tensor.equal(before[0][name]) for name, tensor in after[0].items())
    assert after[1:] == before[1:]


def prepared(spec, method="least-squares", count=12, tensors=None):
    source = network_of(spec, tensors or drawn_tensors(build(spec)))
    return recalibration(source, labelled_images(spec, count), method=method, batch_size=5)


def candidate(spec, tensors=None):
    return network_of(*cut(spec, tensors or drawn_tensors(build(spec)), halves(spec)))


def test_without_a_word_it_is_least_squares():
    images = labelled_images(SHALLOW, 12)
    assert recalibration(network_of(SHALLOW, drawn_tensors(build(SHALLOW))), images).method == "least-squares"


@pytest.mark.parametrize("spec", [SHALLOW, EFFICIENT.folded(), DEEP], ids=["no norm", "folded", "norm in front"])
def test_adaptive_batch_norm_is_not_applicable_where_no_statistic_can_shift(spec):
    with pytest.warns(QcapsWarning, match="not applicable"):
        found = prepared(spec, "batch-norm")
    network = candidate(spec)
    before = everything(network)
    found.apply(network, halves(spec))
    assert found.method == "not applicable"
    assert_same(before, everything(network))


def test_no_recalibration_is_warned_of():
    with pytest.warns(QcapsWarning, match="without recalibration"):
        found = prepared(EFFICIENT, "none")
    network = candidate(EFFICIENT)
    before = everything(network)
    found.apply(network, halves(EFFICIENT))
    assert found.method == "none"
    assert_same(before, everything(network))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spec", [EFFICIENT, RESNET_CAPS], ids=["efficient", "resnet"])
def test_the_method_asked_for_is_the_one_reported(spec, method):
    assert prepared(spec, method).method == method


@pytest.mark.parametrize("method", ["mean-fold", "least-squares", "tuning", "batch-norm"])
def test_the_source_and_the_tensors_it_was_cut_from_stay_as_they_are(method):
    tensors = drawn_tensors(build(EFFICIENT))
    source = network_of(EFFICIENT, tensors)
    before, given = everything(source), {name: tensor.clone() for name, tensor in tensors.items()}
    found = recalibration(source, labelled_images(EFFICIENT, 12), method=method, batch_size=5)
    spec, smaller = cut(EFFICIENT, tensors, halves(EFFICIENT))
    cut_before = {name: tensor.clone() for name, tensor in smaller.items()}
    found.apply(network_of(spec, smaller), halves(EFFICIENT))
    assert_same(before, everything(source))
    assert all(tensor.equal(given[name]) for name, tensor in tensors.items())
    assert all(tensor.equal(cut_before[name]) for name, tensor in smaller.items())


def changed_by(method, spec):
    network = candidate(spec)
    before = everything(network)[0]
    prepared(spec, method).apply(network, halves(spec))
    return {name.removeprefix("stages.") for name, t in network.state_dict().items() if not t.equal(before[name])}


def test_adaptive_batch_norm_changes_statistics_alone():
    parts = ("running_mean", "running_var", "num_batches_tracked")
    assert changed_by("batch-norm", EFFICIENT) == {f"conv{i}.norm.{part}" for i in (1, 2, 3, 4) for part in parts}


def test_mean_fold_changes_biases_alone():
    assert changed_by("mean-fold", SHALLOW) == {"conv2.conv.bias", "primary.bias", "class_caps.routing.bias"}


def test_least_squares_changes_weights_and_biases_behind_cuts():
    layers = {"conv2.conv.weight", "conv2.conv.bias", "primary.conv.weight", "primary.bias"}
    assert changed_by("least-squares", SHALLOW) == layers | {"class_caps.weight", "class_caps.routing.bias"}


def test_with_norms_least_squares_measures_their_statistics_as_well():
    changed = changed_by("least-squares", EFFICIENT)
    assert {"conv2.conv.weight", "class_caps.weight", "conv4.norm.running_mean"} <= changed
    assert "primary.conv.weight" not in changed  # depthwise


@pytest.mark.parametrize("method", ["mean-fold", "least-squares"])
@pytest.mark.parametrize("name", ["shallow-capsnet, learned table", "efficient-capsnet", "deepcaps", "cnn-cr-sf"])
def test_a_network_of_which_nothing_was_cut_stays_as_it_is(name, method):
    spec = NETWORKS[name]
    tensors = drawn_tensors(build(spec))
    network = network_of(spec, {key: tensor.clone() for key, tensor in tensors.items()})
    everything_kept = {unit.name: tuple(range(unit.count)) for unit in network.units}
    prepared(spec, method, tensors=tensors).apply(network, everything_kept)
    assert all(parameter.equal(tensors[key]) for key, parameter in network.named_parameters())


@pytest.mark.parametrize("method", ["mean-fold", "least-squares", "tuning"])
@pytest.mark.parametrize("name", ["efficient-capsnet", "mobilenetv1-capsnet, depthwise", "deepcaps", "em-capsnet"])
def test_every_network_can_be_recalibrated_when_everything_was_halved(name, method):
    spec = NETWORKS[name]
    network = candidate(spec)
    prepared(spec, method).apply(network, halves(spec))
    assert network(labelled_images(spec, 3).pixels / 255).scores.isfinite().all()


def test_the_same_images_give_the_same_network():
    found = []
    for _ in range(2):
        network = candidate(EFFICIENT)
        prepared(EFFICIENT, "least-squares").apply(network, halves(EFFICIENT))
        found.append(network.state_dict())
    assert all(tensor.equal(found[1][name]) for name, tensor in found[0].items())


def test_batches_are_even():
    sizes = []
    tensors = drawn_tensors(build(EFFICIENT))
    network = network_of(EFFICIENT, tensors)
    network.stages["conv1"].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    recalibration(network, labelled_images(EFFICIENT, 12), method="least-squares", batch_size=5)
    assert sizes == [6, 6]
