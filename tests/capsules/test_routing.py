from __future__ import annotations

import functools

import pytest
import torch
from benchmarks.routing_straightforward import straightforward_class_capsules, straightforward_routing

from qcaps.capsules.layers import ClassCapsules
from qcaps.capsules.routing import (
    RoutingSpec,
    agreement,
    build_routing,
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


def slow_dynamic(votes, bias, passes, variant, prior=None, kept_coupling=None, axis="classes"):
    """Sabour et al., procedure 1, for one image; gives the capsules and the last coupling."""
    n_in, n_out, dim = votes.shape
    zero = torch.zeros((), dtype=votes.dtype)
    b = [[zero if prior is None else prior[i, j] for j in range(n_out)] for i in range(n_in)]
    for _ in range(passes):
        if axis == "classes":
            c = [slow_softmax(b[i]) for i in range(n_in)] if kept_coupling is None else kept_coupling
        else:
            by_class = [slow_softmax([b[i][j] for i in range(n_in)]) for j in range(n_out)]
            c = [[by_class[j][i] for j in range(n_out)] for i in range(n_in)]
        v = []
        for j in range(n_out):
            s = [sum(c[i][j] * votes[i, j, k] for i in range(n_in)) for k in range(dim)]
            v.append(slow_squash([s[k] + bias[j, k] for k in range(dim)] if bias is not None else s, variant))
        for i in range(n_in):
            for j in range(n_out):
                b[i][j] = b[i][j] + sum(votes[i, j, k] * v[j][k] for k in range(dim))
    return torch.stack([torch.stack(row) for row in v]), torch.stack([torch.stack(row) for row in c])


def slow_attention(votes, bias, scale, temperature, uniform, variant):
    """Efficient-CapsNet, pair by pair, for one image; gives the capsules and the coupling."""
    n_in, n_out, dim = votes.shape
    c = []
    for i in range(n_in):
        a = []
        for j in range(n_out):
            pairs = [sum(votes[i, j, k] * votes[m, j, k] for k in range(dim)) for m in range(n_in)]
            a.append(sum(pairs) / scale / temperature)
        softmax = [1 / torch.tensor(float(n_out), dtype=votes.dtype)] * n_out if uniform else slow_softmax(a)
        c.append([softmax[j] + (0 if bias is None else bias[i, j, 0]) for j in range(n_out)])
    v = [
        slow_squash([sum(c[i][j] * votes[i, j, k] for i in range(n_in)) for k in range(dim)], variant)
        for j in range(n_out)
    ]
    return torch.stack([torch.stack(row) for row in v]), torch.stack([torch.stack(row) for row in c])


def every_image(slow, votes, *args):
    return torch.stack([slow(image, *args)[0] for image in votes])


def routing_of(kind, *, bias=None, position="none", shape=(N_IN, N_OUT, DIM), positions=1, prior=None, **numbers):
    variant = numbers.pop("variant", "hinton_ratio")
    spec = RoutingSpec(kind, variant, EPS[variant], bias=position, prior_logits=prior is not None, scale=4.0, **numbers)
    routing = build_routing(spec, *shape, positions=positions)
    for name, value in (("bias", bias), ("prior", prior)):
        if value is not None:
            assert getattr(routing, name).shape == value.shape
            setattr(routing, name, torch.nn.Parameter(value))
    return routing


def dynamic(passes=3, bias=None, **numbers):
    position = "none" if bias is None else "in_loop"
    return routing_of("dynamic", iterations=passes, bias=bias, position=position, **numbers)


def attention(bias=None, *, kind="attention", variant="efficient", **numbers):
    position = "none" if bias is None else "after_softmax"
    return routing_of(kind, bias=bias, position=position, variant=variant, **numbers)


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
    "dynamic with prior": lambda: dynamic(prior=random(N_IN, N_OUT, seed=9)),
    "uniform with the bias of attention": lambda: attention(random(N_IN, N_OUT, 1, seed=9), kind="uniform"),
    "uniform with the bias of dynamic": lambda: routing_of("uniform", bias=random(3, 2, seed=9), position="in_loop"),
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
    routing = dynamic(passes, bias, variant=variant)
    torch.testing.assert_close(
        routing(votes, float_sites(routing)), SLOW["dynamic"](votes, bias, passes, variant), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("variant", ["efficient", "hinton"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["attention", "uniform"])
def test_attention_routing_is_the_published_procedure(kind, temperature, with_bias, variant):
    votes = random(BATCH, N_IN, N_OUT, DIM)
    bias = random(N_IN, N_OUT, 1, seed=1) if with_bias else None
    routing = attention(bias, kind=kind, variant=variant, temperature=temperature)
    torch.testing.assert_close(
        routing(votes, float_sites(routing)),
        SLOW["attention"](votes, bias, 4.0, temperature, kind == "uniform", variant),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("scale", [4.0, 8**0.5])
def test_the_agreement_of_self_attention_is_divided_by_its_scale(scale):
    votes = random(BATCH, N_IN, N_OUT, DIM)
    routing = build_routing(RoutingSpec("attention", "efficient", 1e-20, scale=scale), N_IN, N_OUT, DIM)
    torch.testing.assert_close(
        routing(votes, float_sites(routing)), SLOW["attention"](votes, None, scale, 1.0, False, "efficient")
    )


@pytest.mark.parametrize("passes", [1, 3])
def test_lower_capsules_can_compete_for_each_upper_one(passes):
    votes = random(BATCH, N_IN, N_OUT, DIM)
    routing = dynamic(passes, softmax_axis="inputs")
    expected = SLOW["dynamic"](votes, None, passes, "hinton_ratio", None, None, "inputs")
    torch.testing.assert_close(routing(votes, float_sites(routing)), expected)


def test_uniform_routing_among_lower_capsules_is_one_over_their_number():
    coupling = recorded(routing_of("uniform", softmax_axis="inputs"), random(BATCH, N_IN, N_OUT, DIM))["coupling"]
    assert (coupling == 1 / N_IN).all()


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_prior_logits_are_where_the_logits_start(passes):
    votes, prior = random(BATCH, N_IN, N_OUT, DIM), random(N_IN, N_OUT, seed=1)
    routing = dynamic(passes, prior=prior)
    expected = SLOW["dynamic"](votes, None, passes, "hinton_ratio", prior)
    torch.testing.assert_close(routing(votes, float_sites(routing)), expected)


def test_capsules_of_all_positions_of_a_type_share_its_bias():
    votes, bias = random(BATCH, N_IN, 6, DIM), random(3, DIM, seed=1)
    routing = dynamic(bias=bias, shape=(N_IN, 6, DIM), positions=2)
    expected = SLOW["dynamic"](votes, bias[[0, 0, 1, 1, 2, 2]], 3, "hinton_ratio")
    torch.testing.assert_close(routing(votes, float_sites(routing)), expected)


@pytest.mark.parametrize("kind", ["attention", "uniform"])
def test_couplings_of_all_positions_of_a_type_share_its_bias(kind):
    votes, bias = random(BATCH, N_IN, 6, DIM), random(N_IN, 3, 1, seed=1)
    routing = attention(bias, kind=kind, shape=(N_IN, 6, DIM), positions=2)
    slow = SLOW["attention"](votes, bias[:, [0, 0, 1, 1, 2, 2]], 4.0, 1.0, kind == "uniform", "efficient")
    torch.testing.assert_close(routing(votes, float_sites(routing)), slow)


def test_uniform_routing_does_not_use_a_table_of_prior_logits():
    votes = random(BATCH, N_IN, N_OUT, DIM)
    with_table, without = routing_of("uniform", prior=random(N_IN, N_OUT)), routing_of("uniform")
    assert with_table(votes, float_sites(with_table)).equal(without(votes, float_sites(without)))


def test_detached_routing_gives_the_same_capsules():
    votes, bias = random(BATCH, N_IN, N_OUT, DIM), random(N_OUT, DIM, seed=1)
    attached, detached = dynamic(bias=bias), dynamic(bias=bias, detach=True)
    assert detached(votes, float_sites(detached)).equal(attached(votes, float_sites(attached)))


def test_detached_routing_sends_gradients_to_the_votes_through_the_last_pass_alone():
    votes = random(1, N_IN, N_OUT, DIM).requires_grad_()
    routing = dynamic(detach=True)
    found = torch.autograd.grad(routing(votes, float_sites(routing)).square().sum(), votes)
    _, coupling = slow_dynamic(votes[0].detach(), None, 3, "hinton_ratio")
    last, _ = slow_dynamic(votes[0], None, 1, "hinton_ratio", kept_coupling=[list(row) for row in coupling])
    torch.testing.assert_close(found, torch.autograd.grad(last.square().sum(), votes))


@pytest.mark.parametrize("kind", ["dynamic", "attention", "uniform"])
def test_absent_capsules_hold_their_share_of_the_softmax_as_silent_ones_do(kind):
    votes = random(BATCH, N_IN, N_OUT, DIM)
    silent = torch.cat([votes, torch.zeros(BATCH, N_IN, 2, DIM, dtype=votes.dtype)], dim=2)
    fewer, all_of_them = routing_of(kind, absent=2), routing_of(kind, shape=(N_IN, N_OUT + 2, DIM))
    expected = all_of_them(silent, float_sites(all_of_them))[:, :N_OUT]
    torch.testing.assert_close(fewer(votes, float_sites(fewer)), expected, rtol=1e-10, atol=1e-12)


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
    slow_output = SLOW["attention"](votes, routing.bias, 4.0, 1.0, False, "efficient")
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
    coupling = recorded(dynamic(passes=1, shape=(N_IN, n_out, DIM)), random(BATCH, N_IN, n_out, DIM).float())[
        "coupling@1"
    ]
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
    arrays = recorded(attention(bias, kind="uniform"), random(BATCH, N_IN, N_OUT, DIM))
    assert arrays["coupling"].equal((1 / N_OUT + bias[:, :, 0]).expand(BATCH, N_IN, N_OUT))


def test_uniform_attention_has_no_logits():
    arrays = recorded(attention(random(N_IN, N_OUT, 1), kind="uniform"), random(BATCH, N_IN, N_OUT, DIM))
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
    layer = ClassCapsules(72, 8, 10, 16, RoutingSpec("dynamic", "hinton_ratio", 0.0, bias="in_loop"))
    layer.routing.bias = torch.nn.Parameter(bias)
    layer.weight = torch.nn.Parameter(random(72, 10, 8, 16, seed=2, scale=0.2).float())
    lower = random(5, 72, 8, seed=3).float()
    torch.testing.assert_close(
        layer(lower), straightforward_class_capsules(lower, layer.weight, bias, 3), rtol=1e-5, atol=1e-6
    )
