from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prunable import DEEP, EFFICIENT, EM, MOBILE_CAPS, NETWORKS, RESNET_CAPS, SHALLOW, drawn_tensors, pixels_for

from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.readers import Substitute, readers
from qcaps.pruning.surgery import cut

PLAIN_VOTES = replace(SHALLOW, routing="uniform")


def network_of(spec, tensors=None):
    return to_inference(filled(spec, tensors or drawn_tensors(build(spec)), where="test"))


def all_kept(network, **fewer):
    names = {name.replace("_", "."): indices for name, indices in fewer.items()}
    return {unit.name: names.get(unit.name, tuple(range(unit.count))) for unit in network.units}


def paths(spec):
    return [reader.path for reader in readers(build(spec))]


def test_every_layer_that_a_unit_shrinks_at_its_input_is_a_reader():
    assert sorted(paths(SHALLOW)) == ["class_caps", "conv2.conv", "primary.conv"]


def test_a_depthwise_layer_reads_nothing_of_its_own():
    assert "primary.conv" not in paths(EFFICIENT)
    assert not any("depthwise" in path for path in paths(MOBILE_CAPS))


def test_both_branches_of_deepcaps_read_into_the_class_capsules():
    assert paths(DEEP).count("class_caps") == 2


def test_layers_of_matrix_capsules_are_left_out():
    assert sorted(paths(EM)) == ["primary.activation.conv", "primary.pose.conv"]


def test_types_that_compete_with_each_other_are_not_read_as_channels():
    assert "class_caps" not in paths(replace(MOBILE_CAPS, softmax_axis="inputs"))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_readers_whose_kept_channels_are_as_many_as_its_cut_layers_have(name):
    network = build(NETWORKS[name])
    kept = {unit.name: tuple(range(0, unit.count, 2)) for unit in network.units}
    smaller = build(NETWORKS[name].with_widths({unit: len(indices) for unit, indices in kept.items()}))
    found = readers(network)
    assert found
    for reader in found:
        stays = reader.kept_channels(kept)
        assert stays.tolist() == sorted(set(stays.tolist()))
        size = smaller.stages.get_submodule(reader.path).weight.shape
        inputs = size[2] * -(-reader.types.count // 2) if reader.path == "class_caps" else size[1]
        assert inputs % len(stays) == 0
        assert reader.path == "class_caps" or len(size) == 2 or inputs == len(stays)


def random_substitute(channels, stays, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mix, offset = torch.randn(channels, len(stays), generator=generator), torch.randn(channels, generator=generator)
    mix[stays], offset[stays] = 0, 0
    return Substitute(0.3 * mix, 0.3 * offset)


def restored(x, stays, found):
    """Put substitutes where channels are gone: the second axis of x holds those that stay."""
    flat = x.flatten(2).movedim(1, 2)  # (batch, places, kept)
    full = flat @ found.mix.T + found.offset
    full[:, :, stays] = flat
    return full.movedim(2, 1).reshape(len(x), len(found.offset), *x.shape[2:])


def test_a_convolution_reads_substitutes_as_if_they_were_channels():
    source = network_of(SHALLOW)
    reader = next(r for r in readers(source) if r.path == "conv2.conv")
    kept = all_kept(source, conv1_channels=(0, 3), conv2_channels=(1, 2))
    network = network_of(*cut(SHALLOW, drawn_tensors(build(SHALLOW)), kept))
    found = random_substitute(5, [0, 3])
    reader.refit(network, kept, found)
    x = torch.rand(2, 2, 9, 8)
    expected = source.stages["conv2"](restored(x, [0, 3], found))[:, [1, 2]]
    torch.testing.assert_close(network.stages["conv2"](x), expected)


def test_a_bias_behind_a_coupling_takes_the_offset_times_the_coupling():
    source = network_of(SHALLOW)
    reader = next(r for r in readers(source) if r.path == "primary.conv")
    kept = all_kept(source, conv2_channels=(0, 3), primary_types=(2,), primary_dims=(1, 2, 3))
    network = network_of(*cut(SHALLOW, drawn_tensors(build(SHALLOW)), kept))
    found = random_substitute(4, [0, 3])
    reader.refit(network, kept, found)
    primary, x = source.stages["primary"], torch.rand(2, 2, 9, 8)
    sums = primary.conv(restored(x, [0, 3], found)) * primary.coupling + primary.bias.view(-1, 1, 1)
    smaller = network.stages["primary"]
    expected = sums.unflatten(1, (3, 4))[:, 2, [1, 2, 3]]
    torch.testing.assert_close(smaller.conv(x) * smaller.coupling + smaller.bias.view(-1, 1, 1), expected)


def test_a_norm_makes_up_for_the_bias_that_a_convolution_has_not():
    source = network_of(RESNET_CAPS)
    reader = next(r for r in readers(source) if r.path == "layer1.0.conv2.conv")
    assert reader.bias == ""
    assert reader.takes_constant


LINEAR = {"cnn-small": "classifier.linear", "cnn-cr": "class_caps.linear", "cnn-cr-sf": "primary.linear"}


@pytest.mark.parametrize(("name", "path"), LINEAR.items())
def test_a_linear_layer_reads_a_channel_at_all_its_positions(name, path):
    spec = NETWORKS[name]
    source = network_of(spec)
    reader = next(r for r in readers(source) if r.path == path)
    kept = all_kept(source, conv2_channels=(1, 4))
    network = network_of(*cut(spec, drawn_tensors(build(spec)), kept))
    found = random_substitute(5, [1, 4])
    reader.refit(network, kept, found)
    before, after = (each.stages.get_submodule(reader.path) for each in (source, network))
    x = torch.rand(3, 2, after.in_features // 2)
    torch.testing.assert_close(after(x.flatten(1)), before(restored(x, [1, 4], found).flatten(1)))


def capsules_restored(capsules, positions, order, kept, found, types=3, dims=4):
    """Put substitutes where types or dimensions are gone, capsule by capsule."""
    kept_types, kept_dims = kept["primary.types"], kept["primary.dims"]
    stays = [t * dims + d for t in kept_types for d in kept_dims]
    full = torch.zeros(len(capsules), types * positions, dims)
    place = (lambda t, p, n: t * positions + p) if order == "type_hw" else (lambda t, p, n: p * n + t)
    for position in range(positions):
        here = torch.cat([capsules[:, place(i, position, len(kept_types))] for i in range(len(kept_types))], 1)
        channels = here @ found.mix.T + found.offset
        channels[:, stays] = here
        for t in range(types):
            full[:, place(t, position, types)] = channels[:, t * dims : (t + 1) * dims]
    return full


@pytest.mark.parametrize("order", ["type_hw", "hw_type"])
@pytest.mark.parametrize("positions", [tuple(range(30)), (0, 4, 5, 29)])
def test_the_sum_of_the_votes_is_that_of_all_types_with_substitutes_in_place(order, positions):
    spec = replace(PLAIN_VOTES, reshape_order=order, height=18, width=16, primary_stride=2)  # 6 rows, 5 columns
    source = network_of(spec)
    kept = all_kept(source, primary_types=(0, 2), primary_dims=(0, 1, 3), primary_positions=positions)
    network = network_of(*cut(spec, drawn_tensors(build(spec)), kept))
    reader = next(r for r in readers(source) if r.path == "class_caps")
    stays = reader.kept_channels(kept)
    assert stays.tolist() == [0, 1, 3, 8, 9, 11]
    found = random_substitute(12, stays)
    reader.refit(network, kept, found)
    capsules = torch.rand(2, 2 * len(positions), 3)
    whole = capsules_restored(capsules, len(positions), order, kept, found)
    by_type = [t * 30 + p for t in range(3) for p in positions]
    by_place = [p * 3 + t for p in positions for t in range(3)]
    weight = source.stages["class_caps"].weight[by_type if order == "type_hw" else by_place]
    bias = source.stages["class_caps"].routing.bias
    expected = torch.einsum("bid,ijde->bje", whole, weight) / 3 + bias  # couplings of three classes
    layer = network.stages["class_caps"]
    sums = torch.einsum("bid,ijde->bje", capsules, layer.weight) / 3 + layer.routing.bias
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)


def test_each_branch_of_deepcaps_is_given_substitutes_of_its_own():
    source, tensors = network_of(DEEP), drawn_tensors(build(DEEP))
    kept = all_kept(source, block3_types=(0,), block4_types=(1, 2))
    network = network_of(*cut(DEEP, tensors, kept))
    plain = network.stages["class_caps"].weight.clone()
    first = next(r for r in readers(source) if r.path == "class_caps" and r.types.name == "block3.types")
    second = next(r for r in readers(source) if r.path == "class_caps" and r.types.name == "block4.types")
    positions = 9, 4  # on grids of 3×3 and 2×2
    first.refit(network, kept, random_substitute(10, first.kept_channels(kept)))
    changed = (network.stages["class_caps"].weight != plain).flatten(1).any(1)
    assert changed.tolist() == [True] * positions[0] + [False] * 2 * positions[1]
    second.refit(network, kept, random_substitute(15, second.kept_channels(kept)))
    changed = (network.stages["class_caps"].weight != plain).flatten(1).any(1)
    assert changed.all()


def test_refitting_changes_no_tensor_in_place():
    tensors = drawn_tensors(build(SHALLOW))
    source = network_of(SHALLOW, tensors)
    kept = all_kept(source, conv1_channels=(0, 3), conv2_channels=(0, 1), primary_types=(0, 1))
    spec, smaller = cut(SHALLOW, tensors, kept)
    before = {name: tensor.clone() for name, tensor in smaller.items()}
    network = filled(spec, smaller, where="test")
    for reader in readers(source):
        stays = reader.kept_channels(kept)
        reader.refit(network, kept, random_substitute(reader.samples(_inputs(source, reader)).shape[1], stays))
    assert all(tensor.equal(before[name]) for name, tensor in smaller.items())
    assert not network.stages["conv2"].conv.weight.equal(before["stages.conv2.conv.weight"])


def _inputs(network, reader):
    seen = []
    with network.stages.get_submodule(reader.path).register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        network(pixels_for(SHALLOW).float())
    return seen[0]
