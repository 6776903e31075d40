from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.nn.functional import conv2d, conv3d

from qcaps.capsules.conv_capsules import CapsuleBlock, ConvCapsules2d, ConvCapsules3d
from qcaps.capsules.routing import RoutingSpec
from qcaps.capsules.sites import Sites, hooked

BATCH, TYPES_IN, DIM_IN, TYPES, DIM, ROWS, COLUMNS = 2, 3, 4, 2, 3, 2, 3
DYNAMIC = RoutingSpec("dynamic", "hinton_ratio", 0.0, iterations=3, bias="in_loop")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fill(module, *, std=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(11)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    for path, child in module.named_modules():
        if isinstance(child, Sites):
            child.owner = f"layer.{path}".removesuffix(".sites")
    return module.to(dtype)


def conv_capsules(channels=5, types=TYPES, dim=DIM, stride=1):
    layer = ConvCapsules2d(channels, types=types, dim=dim, stride=stride, squash_variant="hinton_ratio", squash_eps=0.0)
    return fill(layer)


def routed_capsules(routing=DYNAMIC, *, stride=1, grid=(ROWS, COLUMNS), **filling):
    layer = ConvCapsules3d(TYPES_IN, DIM_IN, types=TYPES, dim=DIM, grid=grid, stride=stride, routing=routing)
    return fill(layer, **filling)


def lower_maps(batch=BATCH, seed=0, dtype=torch.float64):
    return random(batch, TYPES_IN * DIM_IN, ROWS, COLUMNS, seed=seed, dtype=dtype)


def recorded(layer, x):
    """Run a layer and give every array that passed one of its sites."""
    arrays = {}
    with hooked(layer, lambda name, array: arrays.setdefault(name.removeprefix("layer."), array)):
        layer(x)
    return arrays


def hinton_ratio(vector):
    n = sum(x * x for x in vector) ** 0.5
    return [x * n / (1 + n * n) for x in vector]


def published_votes(x, weight, bias, stride):
    """Cast the votes by the published 3-D convolution: ``(batch, in, out, dim, h, w)``."""
    kernel = weight.reshape(TYPES * DIM, 1, DIM_IN, 3, 3)
    volume = x.reshape(len(x), 1, TYPES_IN * DIM_IN, *x.shape[2:])
    votes = conv3d(volume, kernel, bias, stride=(DIM_IN, stride, stride), padding=(0, 1, 1))
    return votes.reshape(len(x), TYPES, DIM, TYPES_IN, *votes.shape[3:]).permute(0, 3, 1, 2, 4, 5)


def slow_3d_routing(votes, bias, passes):
    """DeepCaps' routing of one image, number by number: votes ``(in, out, dim, h, w)`` → ``(out, dim, h, w)``."""
    n_in, n_out, dim, height, width = votes.shape
    upper = list(itertools.product(range(n_out), range(height), range(width)))
    b = {(i, *place): votes.new_zeros(()) for i in range(n_in) for place in upper}
    for _ in range(passes):
        c, v = {}, {}
        for i in range(n_in):
            total = sum(torch.exp(b[i, *place]) for place in upper)
            c |= {(i, *place): torch.exp(b[i, *place]) / total for place in upper}
        for t, y, x in upper:
            s = [sum(c[i, t, y, x] * votes[i, t, k, y, x] for i in range(n_in)) + bias[t, k] for k in range(dim)]
            v[t, y, x] = hinton_ratio(s)
        for i in range(n_in):
            for t, y, x in upper:
                b[i, t, y, x] = b[i, t, y, x] + sum(votes[i, t, k, y, x] * v[t, y, x][k] for k in range(dim))
    flat = torch.stack([v[t, y, x][k] for t, k, y, x in itertools.product(*map(range, (n_out, dim, height, width)))])
    return flat.reshape(n_out, dim, height, width)


def slow_routed_capsules(layer, x, passes, stride=1):
    votes = published_votes(x, layer.conv.weight, layer.conv.bias, stride)
    return torch.stack([slow_3d_routing(image, layer.routing.bias, passes) for image in votes]).flatten(1, 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutional_capsules_are_the_squashed_groups_of_the_channels(stride):
    layer = conv_capsules(stride=stride)
    x = random(BATCH, 5, 5, 4)
    maps = conv2d(x, layer.conv.weight, layer.conv.bias, stride=stride, padding=1)
    capsules = layer(x)
    assert capsules.shape == (BATCH, TYPES * DIM, *maps.shape[2:])
    for n, t, row, column in itertools.product(*map(range, (BATCH, TYPES, *maps.shape[2:]))):
        channels = slice(t * DIM, (t + 1) * DIM)
        expected = hinton_ratio(maps[n, channels, row, column].tolist())
        assert capsules[n, channels, row, column].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_capsule_at_a_site_is_numbered_by_type_row_column_and_dimension():
    layer = conv_capsules()
    x = random(BATCH, 5, 4, 5)
    arrays = recorded(layer, x)
    maps = conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
    assert list(arrays) == ["presquash", "out"]
    for n, t, row, column, k in itertools.product(*map(range, (BATCH, TYPES, 4, 5, DIM))):
        assert arrays["presquash"][n, t, row, column, k] == maps[n, t * DIM + k, row, column]
    assert arrays["out"].permute(0, 1, 4, 2, 3).flatten(1, 2).equal(layer(x))


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_3d_capsules_are_the_published_convolution_and_routing(passes):
    layer = routed_capsules(dataclasses.replace(DYNAMIC, iterations=passes))
    x = lower_maps()
    torch.testing.assert_close(layer(x), slow_routed_capsules(layer, x, passes), rtol=1e-10, atol=1e-12)


def test_3d_capsules_may_have_a_stride():
    layer = routed_capsules(stride=2, grid=(1, 2))
    x = lower_maps()
    torch.testing.assert_close(layer(x), slow_routed_capsules(layer, x, 3, stride=2), rtol=1e-10, atol=1e-12)


def test_the_gradient_of_3d_capsules_is_that_of_the_slow_form():
    layer = routed_capsules()
    x = lower_maps().requires_grad_()
    weights = random(BATCH, TYPES * DIM, ROWS, COLUMNS, seed=2)
    leaves = (x, layer.conv.weight, layer.conv.bias, layer.routing.bias)
    fast = torch.autograd.grad((weights * layer(x)).sum(), leaves)
    slow = torch.autograd.grad((weights * slow_routed_capsules(layer, x, 3)).sum(), leaves)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["dynamic", "attention", "uniform"])
def test_an_image_gives_the_same_3d_capsules_alone_and_in_a_batch(kind):
    layer = routed_capsules(dataclasses.replace(DYNAMIC, kind=kind))
    x = lower_maps(batch=3)
    alone = torch.cat([layer(image.unsqueeze(0)) for image in x])
    torch.testing.assert_close(alone, layer(x), rtol=1e-12, atol=1e-14)


def test_uniform_3d_routing_couples_every_pair_of_an_input_type_evenly():
    layer = routed_capsules(dataclasses.replace(DYNAMIC, kind="uniform"))
    x = lower_maps()
    mean = published_votes(x, layer.conv.weight, layer.conv.bias, 1).sum(1) / (TYPES * ROWS * COLUMNS)
    total = mean + layer.routing.bias[:, :, None, None]
    norm = total.norm(dim=2, keepdim=True)
    torch.testing.assert_close(layer(x), (total * norm / (1 + norm**2)).flatten(1, 2), rtol=1e-12, atol=1e-14)


def test_self_attention_routes_3d_votes_by_their_agreement_with_all_others():
    layer = routed_capsules(dataclasses.replace(DYNAMIC, kind="attention", scale=4.0))
    x = lower_maps()
    votes = published_votes(x, layer.conv.weight, layer.conv.bias, 1)  # (batch, in, out, dim, h, w)
    agreement = torch.einsum("bitkyx,bmtkyx->bityx", votes, votes) / 4
    coupling = agreement.flatten(2).softmax(2).reshape(agreement.shape)
    total = torch.einsum("bityx,bitkyx->btkyx", coupling, votes) + layer.routing.bias[:, :, None, None]
    norm = total.norm(dim=2, keepdim=True)
    torch.testing.assert_close(layer(x), (total * norm / (1 + norm**2)).flatten(1, 2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_votes_give_zero_capsules_and_finite_gradients(dtype):
    layer = routed_capsules(std=0.0, dtype=dtype)
    x = torch.zeros(1, TYPES_IN * DIM_IN, ROWS, COLUMNS, dtype=dtype, requires_grad=True)
    capsules = layer(x)
    gradients = torch.autograd.grad(capsules.sum(), (x, *layer.parameters()))
    assert (capsules == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("make", [routed_capsules, lambda **k: fill(conv_capsules(TYPES_IN * DIM_IN), **k)])
@pytest.mark.parametrize("size", [1.0, 0.0])
def test_bfloat16_convolutions_leave_capsules_close_and_finite(make, size):
    layer = make(dtype=torch.float32)
    x = size * lower_maps(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        capsules = layer(x)
    gradients = torch.autograd.grad(capsules.sum(), list(layer.parameters()))
    assert capsules.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(capsules, layer(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("make", [routed_capsules, lambda: conv_capsules(TYPES_IN * DIM_IN)])
def test_the_memory_format_changes_no_capsule(make):
    layer = make()
    expected = layer(lower_maps())
    found = layer.to(memory_format=torch.channels_last)(lower_maps().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_sites_of_3d_capsules_come_in_the_order_of_the_routing():
    arrays = recorded(routed_capsules(), lower_maps())
    out = TYPES * ROWS * COLUMNS
    pair, capsule = (BATCH, TYPES_IN, out), (BATCH, out, DIM)
    one_pass = [("coupling", pair), ("sum", capsule), ("out", capsule), ("logits", pair)]
    routed = [(f"{role}@{t}", shape) for t in (1, 2, 3) for role, shape in one_pass]
    assert [(name, array.shape) for name, array in arrays.items()] == [("votes", (*pair, DIM)), *routed[:-1]]


def test_the_biases_of_convolution_and_routing_are_two_weight_sites():
    layer = routed_capsules()
    named = {
        f"{m.owner}.{role}": path for m in layer.modules() if isinstance(m, Sites) for role, path in m.weights.items()
    }
    assert named == {
        "layer.weight": "conv.weight",
        "layer.bias": "conv.bias",
        "layer.routing.bias": "bias",
    }


def block(*, branches):
    l1, l2, l3, skip = conv_capsules(6, 2, 2, stride=2), conv_capsules(4, 1, 5), conv_capsules(5), conv_capsules(4)
    return fill(CapsuleBlock(l1, l2, l3, skip, branches=branches))


def test_the_skip_layer_of_a_block_starts_behind_its_first_layer():
    layer = block(branches=False)
    x = random(BATCH, 6, 5, 7)
    y = layer.l1(x)
    assert y.shape == (BATCH, 4, 3, 4)
    assert layer(x).equal(layer.l3(layer.l2(y)) + layer.skip(y))


def test_the_sum_of_a_block_is_a_site():
    layer = block(branches=False)
    with hooked(layer, lambda name, array: array + 1 if name == "layer.sum_out" else array):
        shifted = layer(random(1, 6, 4, 4))
    assert shifted.equal(layer(random(1, 6, 4, 4)) + 1)


def test_two_branches_are_the_capsules_of_the_input_and_then_those_of_the_sum():
    x = random(BATCH, 2 * DIM, 5, 7)
    merged, plain = (block(branches=branches) for branches in (True, False))
    capsules, total = merged(x), plain(x)
    assert capsules.shape == (BATCH, 2 * 5 * 7 + TYPES * 3 * 4, DIM)
    numbered = [(maps, *place) for maps in (x, total) for place in itertools.product(*map(range, grid(maps)))]
    for index, (maps, t, row, column) in enumerate(numbered):
        assert capsules[:, index].equal(maps[:, t * DIM : (t + 1) * DIM, row, column])


def grid(maps):
    return maps.shape[1] // DIM, *maps.shape[2:]
