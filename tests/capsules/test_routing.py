from __future__ import annotations

import functools

import pytest
import torch
from benchmarks.routing_straightforward import straightforward_class_capsules, straightforward_routing

from qcaps.capsules.layers import ClassCapsules
from qcaps.capsules.routing import (
    DynamicRouting,
    SelfAttentionRouting,
    agreement,
    cast_votes,
    weighted_sum,
)
from qcaps.capsules.sites import Sites

BATCH, N_IN, N_OUT, DIM = 2, 4, 3, 2
EPS = {"hinton_ratio": 0.0, "hinton": 1e-7, "hinton_sqrt": 1e-6, "efficient": 1e-20}


def random(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


# The slow forms: one number at a time, as the formulas stand in the papers. Numbers are tensors of no
# dimension, so that autograd can follow them.


def slow_squash(s, variant):
    n = sum(x * x for x in s) ** 0.5
    factor = {
        "hinton_ratio": lambda: n / (1 + n * n),
        "hinton": lambda: n * n / (1 + n * n) / (n + EPS["hinton"]),
        "hinton_sqrt": lambda: n * n / (1 + n * n) / (n * n + EPS["hinton_sqrt"]) ** 0.5,
        "efficient": lambda: (1 - torch.exp(-n)) / n,
    }[variant]()
    return [x * factor for x in s]


def slow_softmax(numbers):
    powers = [torch.exp(x) for x in numbers]
    return [x / sum(powers) for x in powers]


def slow_dynamic(votes, bias, passes, variant):
    """Sabour et al., procedure 1, for one image; gives the capsules and the last coupling."""
    n_in, n_out, dim = votes.shape
    b = [[torch.zeros((), dtype=votes.dtype) for _ in range(n_out)] for _ in range(n_in)]
    for _ in range(passes):
        c = [slow_softmax(b[i]) for i in range(n_in)]
        v = []
        for j in range(n_out):
            s = [sum(c[i][j] * votes[i, j, k] for i in range(n_in)) for k in range(dim)]
            v.append(slow_squash([s[k] + bias[j, k] for k in range(dim)] if bias is not None else s, variant))
        for i in range(n_in):
            for j in range(n_out):
                b[i][j] = b[i][j] + sum(votes[i, j, k] * v[j][k] for k in range(dim))
    return torch.stack([torch.stack(row) for row in v]), torch.stack([torch.stack(row) for row in c])


def slow_attention(votes, bias, scale, uniform, variant):
    """Efficient-CapsNet, pair by pair, for one image; gives the capsules and the coupling."""
    n_in, n_out, dim = votes.shape
    c = []
    for i in range(n_in):
        a = []
        for j in range(n_out):
            pairs = [sum(votes[i, j, k] * votes[m, j, k] for k in range(dim)) for m in range(n_in)]
            a.append(sum(pairs) / scale)
        softmax = [1 / torch.tensor(float(n_out), dtype=votes.dtype)] * n_out if uniform else slow_softmax(a)
        c.append([softmax[j] + bias[i, j, 0] for j in range(n_out)])
    v = [
        slow_squash([sum(c[i][j] * votes[i, j, k] for i in range(n_in)) for k in range(dim)], variant)
        for j in range(n_out)
    ]
    return torch.stack([torch.stack(row) for row in v]), torch.stack([torch.stack(row) for row in c])


def every_image(slow, votes, *args):
    return torch.stack([slow(image, *args)[0] for image in votes])


def dynamic(passes=3, bias=None, variant="hinton_ratio", n_out=N_OUT, dim=DIM):
    routing = DynamicRouting(
        n_out, dim, iterations=passes, squash_variant=variant, squash_eps=EPS[variant], with_bias=bias is not None
    )
    if bias is not None:
        routing.bias = torch.nn.Parameter(bias)
    return routing


def attention(bias, scale=4.0, uniform=False, variant="efficient"):
    n_in, n_out, _ = bias.shape
    routing = SelfAttentionRouting(
        n_in, n_out, scale=scale, squash_variant=variant, squash_eps=EPS[variant], uniform=uniform
    )
    routing.bias = torch.nn.Parameter(bias)
    return routing


def float_sites(routing):
    return Sites(*routing.arrays)


def recorded(routing, votes):
    """Run a routing and give every array that passed one of its sites."""
    arrays = {}
    sites = float_sites(routing)
    sites.owner = "layer"
    sites.hook = lambda name, array: arrays.setdefault(name.removeprefix("layer."), array)
    routing(votes, sites)
    return arrays


ROUTINGS = {
    "dynamic": lambda: dynamic(bias=random(N_OUT, DIM, seed=9)),
    "dynamic without bias": dynamic,
    "attention": lambda: attention(random(N_IN, N_OUT, 1, seed=9)),
    "uniform attention": lambda: attention(random(N_IN, N_OUT, 1, seed=9), uniform=True),
}
SLOW = {
    "dynamic": functools.partial(every_image, slow_dynamic),
    "attention": functools.partial(every_image, slow_attention),
}
every_routing = pytest.mark.parametrize("make", ROUTINGS.values(), ids=ROUTINGS.keys())


@pytest.mark.parametrize("variant", EPS)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_dynamic_routing_is_the_published_procedure(passes, with_bias, variant):
    votes = random(BATCH, N_IN, N_OUT, DIM)
    bias = random(N_OUT, DIM, seed=1) if with_bias else None
    routing = dynamic(passes, bias, variant)
    torch.testing.assert_close(
        routing(votes, float_sites(routing)), SLOW["dynamic"](votes, bias, passes, variant), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("variant", ["efficient", "hinton"])
@pytest.mark.parametrize("scale", [4.0, 8**0.5])
@pytest.mark.parametrize("uniform", [False, True], ids=["attention", "uniform"])
def test_attention_routing_is_the_published_procedure(uniform, scale, variant):
    votes = random(BATCH, N_IN, N_OUT, DIM)
    bias = random(N_IN, N_OUT, 1, seed=1)
    routing = attention(bias, scale, uniform, variant)
    torch.testing.assert_close(
        routing(votes, float_sites(routing)),
        SLOW["attention"](votes, bias, scale, uniform, variant),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("passes", [1, 3])
def test_the_gradient_of_dynamic_routing_is_that_of_the_slow_form(passes):
    votes = random(BATCH, N_IN, N_OUT, DIM).requires_grad_()
    routing = dynamic(passes, random(N_OUT, DIM, seed=1))
    weights = random(BATCH, N_OUT, DIM, seed=2)
    fast = torch.autograd.grad((weights * routing(votes, float_sites(routing))).sum(), (votes, routing.bias))
    slow_output = SLOW["dynamic"](votes, routing.bias, passes, "hinton_ratio")
    slow = torch.autograd.grad((weights * slow_output).sum(), (votes, routing.bias))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_attention_routing_is_that_of_the_slow_form():
    votes = random(BATCH, N_IN, N_OUT, DIM).requires_grad_()
    routing = attention(random(N_IN, N_OUT, 1, seed=1))
    weights = random(BATCH, N_OUT, DIM, seed=2)
    fast = torch.autograd.grad((weights * routing(votes, float_sites(routing))).sum(), (votes, routing.bias))
    slow_output = SLOW["attention"](votes, routing.bias, 4.0, False, "efficient")
    slow = torch.autograd.grad((weights * slow_output).sum(), (votes, routing.bias))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)


@every_routing
def test_the_gradient_of_a_routing_is_its_finite_difference(make):
    routing = make()
    votes = random(1, N_IN, N_OUT, DIM, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: routing(x, float_sites(routing)), votes)


@every_routing
def test_an_image_is_routed_alike_alone_and_in_a_batch(make):
    routing = make()
    votes = random(3, N_IN, N_OUT, DIM, seed=4)
    together = routing(votes, float_sites(routing))
    alone = torch.cat([routing(image.unsqueeze(0), float_sites(routing)) for image in votes])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)


@every_routing
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_votes_give_no_nan_and_no_nan_gradient(make, dtype):
    routing = make().to(dtype)
    votes = torch.zeros(1, N_IN, N_OUT, DIM, dtype=dtype, requires_grad=True)
    capsules = routing(votes, float_sites(routing))
    capsules.sum().backward()
    assert capsules.isfinite().all()
    assert votes.grad.isfinite().all()


@every_routing
def test_routing_under_autocast_is_finite_and_in_single_precision(make):
    routing = make().float()
    votes = random(BATCH, N_IN, N_OUT, DIM, seed=5, scale=5.0).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        capsules = routing(votes, float_sites(routing))
    capsules.sum().backward()
    assert capsules.equal(routing(votes.float(), float_sites(routing)))
    assert votes.grad.isfinite().all()


@pytest.mark.parametrize("n_out", [3, 5, 10])
def test_one_pass_of_dynamic_routing_couples_exactly_evenly(n_out):
    coupling = recorded(dynamic(passes=1, n_out=n_out), random(BATCH, N_IN, n_out, DIM).float())["coupling@1"]
    assert coupling.equal(torch.full((BATCH, N_IN, n_out), 1 / n_out))


def test_the_couplings_of_every_pass_are_those_of_the_slow_form():
    votes = random(1, N_IN, N_OUT, DIM, seed=6)
    arrays = recorded(dynamic(passes=3), votes)
    for t in (1, 2, 3):
        _, coupling = slow_dynamic(votes[0], None, t, "hinton_ratio")
        torch.testing.assert_close(arrays[f"coupling@{t}"][0], coupling, rtol=1e-10, atol=1e-12)


def test_dynamic_couplings_of_a_lower_capsule_sum_to_one():
    arrays = recorded(dynamic(passes=3), random(BATCH, N_IN, N_OUT, DIM, seed=7))
    for t in (1, 2, 3):
        total = arrays[f"coupling@{t}"].sum(2)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_dynamic_routing_skips_the_logit_update_that_nothing_reads():
    assert list(recorded(dynamic(passes=2), random(1, N_IN, N_OUT, DIM))) == [
        "coupling@1",
        "sum@1",
        "out@1",
        "logits@1",
        "coupling@2",
        "sum@2",
        "out@2",
    ]


def test_the_bias_lies_inside_the_sum_of_every_pass():
    bias = random(N_OUT, DIM, seed=8)
    arrays = recorded(dynamic(passes=2, bias=bias), torch.zeros(1, N_IN, N_OUT, DIM, dtype=torch.float64))
    assert arrays["sum@1"][0].equal(bias)
    assert arrays["sum@2"][0].equal(bias)


def test_uniform_attention_adds_the_bias_to_the_even_coupling():
    bias = random(N_IN, N_OUT, 1, seed=9)
    arrays = recorded(attention(bias, uniform=True), random(BATCH, N_IN, N_OUT, DIM))
    assert arrays["coupling"].equal((1 / N_OUT + bias[:, :, 0]).expand(BATCH, N_IN, N_OUT))


def test_uniform_attention_has_no_logits():
    arrays = recorded(attention(random(N_IN, N_OUT, 1), uniform=True), random(BATCH, N_IN, N_OUT, DIM))
    assert list(arrays) == ["coupling", "sum", "out"]


def test_attention_adds_the_bias_after_the_softmax():
    arrays = recorded(attention(torch.full((N_IN, N_OUT, 1), -1.0)), random(BATCH, N_IN, N_OUT, DIM).float())
    torch.testing.assert_close(arrays["coupling"].sum(2), torch.full((BATCH, N_IN), 1.0 - N_OUT))


def test_votes_are_the_products_of_capsules_and_matrices():
    lower, weight = random(BATCH, N_IN, 3), random(N_IN, N_OUT, 3, DIM, seed=1)
    expected = torch.zeros(BATCH, N_IN, N_OUT, DIM, dtype=torch.float64)
    for b, i, j, k in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        expected[b, i, j, k] = sum(lower[b, i, d] * weight[i, j, d, k] for d in range(3))
    torch.testing.assert_close(cast_votes(lower, weight), expected)


def test_the_gradient_of_votes_is_its_finite_difference():
    lower, weight = random(BATCH, N_IN, 3).requires_grad_(), random(N_IN, N_OUT, 3, DIM, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(cast_votes, (lower, weight))


def test_weighted_sum_adds_the_votes_for_each_class():
    coupling, votes = random(BATCH, N_IN, N_OUT), random(BATCH, N_IN, N_OUT, DIM, seed=1)
    expected = torch.zeros(BATCH, N_OUT, DIM, dtype=torch.float64)
    for b, j, k in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        expected[b, j, k] = sum(coupling[b, i, j] * votes[b, i, j, k] for i in range(N_IN))
    torch.testing.assert_close(weighted_sum(coupling, votes), expected)


def test_agreement_multiplies_each_vote_with_the_capsule_of_its_class():
    votes, capsules = random(BATCH, N_IN, N_OUT, DIM), random(BATCH, N_OUT, DIM, seed=1)
    expected = torch.zeros(BATCH, N_IN, N_OUT, dtype=torch.float64)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        expected[b, i, j] = sum(votes[b, i, j, k] * capsules[b, j, k] for k in range(DIM))
    torch.testing.assert_close(agreement(votes, capsules), expected)


@pytest.mark.parametrize("passes", [1, 3])
def test_the_frozen_straightforward_form_is_the_published_procedure(passes):
    votes, bias = random(BATCH, N_IN, N_OUT, DIM), random(N_OUT, DIM, seed=1)
    torch.testing.assert_close(
        straightforward_routing(votes, bias, passes),
        SLOW["dynamic"](votes, bias, passes, "hinton_ratio"),
        rtol=1e-10,
        atol=1e-12,
    )


def test_the_frozen_straightforward_form_and_the_layer_agree():
    bias = random(10, 16, seed=1, scale=0.1).float()
    layer = ClassCapsules(72, 8, 10, 16, dynamic(bias=bias, n_out=10, dim=16))
    layer.weight = torch.nn.Parameter(random(72, 10, 8, 16, seed=2, scale=0.2).float())
    lower = random(5, 72, 8, seed=3).float()
    torch.testing.assert_close(
        layer(lower), straightforward_class_capsules(lower, layer.weight, bias, 3), rtol=1e-5, atol=1e-6
    )
