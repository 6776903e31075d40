from __future__ import annotations

import math

import pytest
import torch

from qcaps.capsules.em_routing import EMRouting, EMRoutingSpec, Patches
from qcaps.capsules.sites import Sites, hooked

BATCH, TYPES, N_OUT, POSE = 2, 2, 3, 4
# Overlapping patches, with and without a lower row and column that nobody sees, and a layer that sees everything.
OVERLAPPING = Patches(3, 4, (2, 2), 1)
STRIDED = Patches(6, 5, (3, 3), 2)
WHOLE = Patches(2, 3, (2, 3), 1)
every_layout = pytest.mark.parametrize(
    "patches", [OVERLAPPING, STRIDED, WHOLE], ids=["overlapping", "strided", "whole"]
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def routing_of(patches, n_out=N_OUT, dtype=torch.float64, **numbers):
    routing = EMRouting(EMRoutingSpec(**numbers), patches, n_out)
    for seed, beta in enumerate(routing.parameters()):
        beta.data = random(n_out, seed=40 + seed, dtype=dtype)
    return routing


def inputs_of(patches, batch=BATCH, pose=POSE, dtype=torch.float64):
    """Draw votes, and activations that are the same wherever a lower capsule is seen."""
    lower = torch.sigmoid(random(batch, patches.rows, patches.columns, TYPES, seed=1, dtype=dtype))
    activations = patches.look(lower)
    _, positions, n_in = activations.shape
    return random(batch, positions, N_OUT, n_in, pose, seed=2, dtype=dtype), activations


def upper_of(patches):
    """List for each lower position (row, column) the upper positions that see it, with the place in their kernel."""
    rows, columns = patches.grid
    found = {(r, c): [] for r in range(patches.rows) for c in range(patches.columns)}
    for p in range(rows * columns):
        top, left = p // columns * patches.stride, p % columns * patches.stride
        for i in range(patches.kernel[0]):
            for j in range(patches.kernel[1]):
                found[top + i, left + j].append((p, i * patches.kernel[1] + j))
    return {position: seen for position, seen in found.items() if seen}


def slow_em(votes, activations, routing, passes=3):
    """Fit and share as the formulas say, for one image: no log domain, one capsule and one parent at a time."""
    spec, n_out = routing.spec, votes.shape[1]
    positions = range(len(votes))
    children = [
        [(p, cell * TYPES + i) for p, cell in seen] for seen in upper_of(routing.patches).values() for i in range(TYPES)
    ]
    r = {(p, j, n): 1 / (len(child) * n_out) for child in children for p, n in child for j in range(n_out)}
    for t in range(1, passes + 1):
        mean, variance, active = {}, {}, {}
        for p, j in ((p, j) for p in positions for j in range(n_out)):
            weights = [r[p, j, n] * activations[p, n] for n in range(votes.shape[2])]
            total = sum(weights)
            mu = sum(w * v for w, v in zip(weights, votes[p, j], strict=True)) / total
            var = sum(w * (v - mu) ** 2 for w, v in zip(weights, votes[p, j], strict=True)) / total
            var = var + spec.variance_floor
            beta_u, beta_a = routing.activation.beta_u[j], routing.activation.beta_a[j]
            cost = sum((beta_u + torch.log(torch.sqrt(v))) * total for v in var)
            lam = 0.01 * (1 - 0.95**t)
            mean[p, j], variance[p, j], active[p, j] = mu, var, 1 / (1 + torch.exp(-lam * (beta_a - cost)))
        if t == passes:
            break
        for child in children:
            likely = {}
            for p, n in child:
                for j in range(n_out):
                    var = variance[p, j]
                    gauss = torch.exp(-((votes[p, j, n] - mean[p, j]) ** 2) / (2 * var)) / torch.sqrt(2 * math.pi * var)
                    likely[p, j, n] = active[p, j] * gauss.prod()
            total = sum(likely.values())
            r.update({key: value / total for key, value in likely.items()})
    poses = torch.stack([torch.stack([mean[p, j] for j in range(n_out)]) for p in positions])
    return poses, torch.stack([torch.stack([active[p, j] for j in range(n_out)]) for p in positions])


def slow_batch(votes, activations, routing, passes=3):
    images = [slow_em(v, a, routing, passes) for v, a in zip(votes, activations, strict=True)]
    return tuple(torch.stack(parts) for parts in zip(*images, strict=True))


def passed_arrays(routing, votes, activations):
    """Route, and note what passed every site."""
    sites, arrays = Sites(*routing.arrays), {}
    with hooked(torch.nn.ModuleList([sites, routing]), lambda name, array: arrays.setdefault(name.strip("."), array)):
        routing(votes, activations, sites)
    return arrays


def sums_by_child(coupling, patches):
    """Add the coupling of every lower capsule over all upper ones that see it: ``(batch, children)``."""
    by_place = coupling.sum(2).unflatten(2, (-1, TYPES))  # (batch, positions, cells, types)
    sums = [sum(by_place[:, p, cell] for p, cell in seen) for seen in upper_of(patches).values()]
    return torch.cat(sums, 1)


def test_upper_positions_see_overlapping_patches():
    lower = torch.arange(12).view(1, 3, 4, 1)
    expected = [[0, 1, 4, 5], [1, 2, 5, 6], [2, 3, 6, 7], [4, 5, 8, 9], [5, 6, 9, 10], [6, 7, 10, 11]]
    assert OVERLAPPING.grid == (2, 3)
    assert OVERLAPPING.look(lower).tolist() == [expected]


def test_with_a_stride_some_lower_positions_may_be_seen_by_nobody():
    patches = Patches(4, 6, (1, 3), 2)
    assert patches.grid == (2, 2)
    assert patches.look(torch.arange(24).view(1, 4, 6, 1)).tolist() == [
        [[0, 1, 2], [2, 3, 4], [12, 13, 14], [14, 15, 16]]
    ]
    none = 12  # places are counted through all patches
    assert patches.places[:6] == [[0, none], [1, none], [2, 3], [4, none], [5, none], [none, none]]


def test_what_is_seen_is_numbered_by_cell_then_type():
    lower = torch.arange(2 * 3 * 2 * 5).view(1, 2, 3, 2, 5)
    seen = WHOLE.look(lower)
    assert seen.shape == (1, 1, 12, 5)
    assert seen[0, 0, 2 * 4 + 1].equal(lower[0, 1, 1, 1])


def test_lambda_rises_as_published():
    assert EMRoutingSpec().lambdas == pytest.approx([0.0005, 0.000975, 0.00142625], rel=1e-12)


@every_layout
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_routing_is_its_formulas_capsule_by_capsule(patches, passes):
    routing, (votes, activations) = routing_of(patches, iterations=passes), inputs_of(patches)
    found = routing(votes, activations, Sites())
    poses, active = slow_batch(votes, activations, routing, passes)
    torch.testing.assert_close(found.poses, poses, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.activations, active, rtol=1e-10, atol=0)


def test_gradients_are_those_of_the_formulas():
    routing, (votes, activations) = routing_of(OVERLAPPING), inputs_of(OVERLAPPING, batch=1)
    votes.requires_grad_()
    activations.requires_grad_()
    leaves = [votes, activations, *routing.parameters()]
    found, expected = routing(votes, activations, Sites()), slow_batch(votes, activations, routing)
    directions = [random(*array.shape, seed=9) for array in found]

    def gradients(outputs):
        return torch.autograd.grad(sum((o * d).sum() for o, d in zip(outputs, directions, strict=True)), leaves)

    for mine, slow in zip(gradients(found), gradients(expected), strict=True):
        assert slow.abs().max() > 1e-5
        torch.testing.assert_close(mine, slow, rtol=1e-7, atol=1e-9)


def test_one_capsule_by_hand():
    routing = routing_of(Patches(1, 2, (1, 2), 1), n_out=1, iterations=1, variance_floor=0.25)
    routing.activation.beta_u.data.fill_(0.5)
    routing.activation.beta_a.data.fill_(3.0)
    votes = torch.tensor([[2.0, 0.0], [6.0, 0.0]], dtype=torch.float64).view(1, 1, 1, 2, 2)
    found = routing(votes, torch.tensor([[[0.75, 0.25]]], dtype=torch.float64), Sites())
    # Assignment 1, sum 1; means 3 and 0; variances 0.75·1 + 0.25·9 = 3 and 0, plus 0.25.
    cost = (0.5 + math.log(3.25) / 2) + (0.5 + math.log(0.25) / 2)
    assert found.poses.flatten().tolist() == [3.0, 0.0]
    assert found.activations.item() == pytest.approx(1 / (1 + math.exp(-0.0005 * (3 - cost))), rel=1e-12)


@every_layout
def test_every_lower_capsule_is_shared_among_all_upper_ones_that_see_it(patches):
    arrays = passed_arrays(routing_of(patches), *inputs_of(patches))
    for t in (1, 2, 3):
        sums = sums_by_child(arrays[f"coupling@{t}"], patches)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)


def test_the_first_coupling_is_even_over_types_and_positions():
    coupling = passed_arrays(routing_of(OVERLAPPING), *inputs_of(OVERLAPPING))["coupling@1"]
    corner, edge, inside = coupling[0, 0, :, 0], coupling[0, 0, :, TYPES], coupling[0, 0, :, 3 * TYPES]
    assert (corner == 1 / N_OUT).all()
    assert (edge == 1 / (2 * N_OUT)).all()
    assert (inside == 1 / (4 * N_OUT)).all()


def test_absent_types_keep_their_even_share_of_the_first_coupling():
    coupling = passed_arrays(routing_of(OVERLAPPING, absent=2), *inputs_of(OVERLAPPING))["coupling@1"]
    assert (coupling[0, 0, :, 0] == 1 / (N_OUT + 2)).all()
    assert (coupling[0, 0, :, TYPES] == 1 / (2 * (N_OUT + 2))).all()


def test_positions_compete_for_a_lower_capsule():
    votes, activations = inputs_of(OVERLAPPING)
    votes[:, 0] *= 0.01  # a tight cluster in the first upper position takes what it shares with its neighbours
    coupling = passed_arrays(routing_of(OVERLAPPING), votes, activations)["coupling@3"]
    shared = coupling[:, 0, :, TYPES : 2 * TYPES].sum(1)  # position (0, 1), seen by the first two upper positions
    assert (shared > 0.99).all()


def test_a_capsule_whose_voters_agree_is_more_active():
    votes, activations = inputs_of(WHOLE)
    votes[:, :, 1] = 1 + 0.01 * votes[:, :, 1]
    found = routing_of(WHOLE, lambda_limit=0.1)
    for beta in found.parameters():
        beta.data.zero_()
    assert (found(votes, activations, Sites()).activations.argmax(2) == 1).all()


def test_uniform_routing_makes_one_pass_and_leaves_the_assignment_alone():
    routing, (votes, activations) = routing_of(STRIDED, kind="uniform"), inputs_of(STRIDED)
    assert list(passed_arrays(routing, votes, activations)) == ["coupling@1", "sum@1", "out"]
    assert routing.arrays == ("coupling", "sum")
    poses, _ = slow_batch(votes, activations, routing, passes=1)
    torch.testing.assert_close(routing(votes, activations, Sites()).poses, poses, rtol=1e-9, atol=1e-10)


def test_uniform_routing_activates_with_the_lambda_of_the_last_pass():
    votes, activations = inputs_of(WHOLE)
    uniform = routing_of(WHOLE, kind="uniform")(votes, activations, Sites()).activations
    single = routing_of(WHOLE, iterations=1)(votes, activations, Sites()).activations
    ratio = (1 - 0.95**3) / (1 - 0.95)
    torch.testing.assert_close(uniform.logit(), ratio * single.logit(), rtol=1e-9, atol=0)


def test_the_sites_of_three_passes():
    arrays = passed_arrays(routing_of(OVERLAPPING), *inputs_of(OVERLAPPING))
    passes = ["coupling@1", "sum@1", "logits@1", "coupling@2", "sum@2", "logits@2", "coupling@3", "sum@3"]
    assert list(arrays) == [*passes, "out"]
    shapes = {name.split("@")[0]: tuple(array.shape) for name, array in arrays.items()}
    pairs = (BATCH, 6, N_OUT, 4 * TYPES)
    assert shapes == {"coupling": pairs, "sum": (BATCH, 6, N_OUT, POSE), "logits": pairs, "out": (BATCH, 6, N_OUT)}


def test_the_variance_is_that_around_the_mean_that_leaves_its_site():
    routing, sites = routing_of(Patches(1, 2, (1, 2), 1), n_out=1, iterations=1, variance_floor=0.25), Sites("sum")
    votes = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 1, 1, 2, 1)
    with hooked(sites, lambda name, array: array + 1 if name == ".sum@1" else array):
        found = routing(votes, torch.ones(1, 1, 2, dtype=torch.float64), sites)
    beta_u, beta_a = (beta.item() for beta in routing.parameters())
    cost = 2 * (beta_u + math.log(2.25) / 2)  # around 3: (4 + 0) / 2, and the floor
    assert found.poses.item() == 3
    assert found.activations.logit().item() == pytest.approx(0.0005 * (beta_a - cost), rel=1e-9)


@pytest.mark.parametrize("hidden", ["coupling@2", "sum@1", "logits@2"])
def test_what_leaves_a_site_is_what_the_routing_goes_on_with(hidden):
    routing, (votes, activations) = routing_of(OVERLAPPING), inputs_of(OVERLAPPING)
    sites = Sites(*routing.arrays)
    before = routing(votes, activations, sites).poses
    with hooked(sites, lambda name, array: array * random(*array.shape, seed=3).abs() if hidden in name else array):
        after = routing(votes, activations, sites).poses
    assert (before - after).abs().max() > 0.01


def test_types_of_upper_capsules_are_interchangeable():
    routing, (votes, activations) = routing_of(OVERLAPPING), inputs_of(OVERLAPPING)
    order = [2, 0, 1]
    expected = [array[:, :, order] for array in routing(votes, activations, Sites())]
    for beta in routing.parameters():
        beta.data = beta.data[order]
    for found, wanted in zip(routing(votes[:, :, order], activations, Sites()), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_types_of_lower_capsules_are_interchangeable():
    routing, (votes, activations) = routing_of(OVERLAPPING), inputs_of(OVERLAPPING)
    order = torch.arange(4 * TYPES).view(4, TYPES).flip(1).flatten()  # the other type first, in every cell
    expected = routing(votes, activations, Sites())
    for found, wanted in zip(routing(votes[:, :, :, order], activations[:, :, order], Sites()), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_images_do_not_hear_each_other():
    routing, (votes, activations) = routing_of(STRIDED), inputs_of(STRIDED)
    together = routing(votes, activations, Sites())
    for b in range(BATCH):
        alone = routing(votes[b : b + 1], activations[b : b + 1], Sites())
        torch.testing.assert_close(alone.poses[0], together.poses[b], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(alone.activations[0], together.activations[b], rtol=1e-12, atol=0)


def test_single_precision_survives_votes_far_from_zero():
    routing, (votes, activations) = routing_of(OVERLAPPING), inputs_of(OVERLAPPING)
    expected = routing(votes, activations, Sites())
    found = routing.float()((votes + 100).float(), activations.float(), Sites())
    torch.testing.assert_close(found.poses.double() - 100, expected.poses, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.activations.double(), expected.activations, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["em", "uniform"])
@pytest.mark.parametrize(
    "case", ["zero votes", "zero activations", "one voter", "two far voters agree", "far apart", "one image"]
)
def test_outputs_and_gradients_stay_finite(kind, case):
    routing, (votes, activations) = routing_of(STRIDED, kind=kind, dtype=torch.float32), inputs_of(STRIDED)
    if case == "zero votes":
        votes = torch.zeros_like(votes)
    elif case == "zero activations":
        activations = torch.zeros_like(activations)
    elif case == "two far voters agree":
        votes[..., 1, :] = votes[..., 0, :]
        votes, activations = 1000 * votes, torch.zeros_like(activations)
        activations[:, :, 0], activations[:, :, 1] = 0.3, 0.9
    elif case == "one voter":
        activations = torch.zeros_like(activations)
        activations[:, :, 0] = 1
    elif case == "far apart":
        votes = 1000 * votes
    elif case == "one image":
        votes, activations = votes[:1], activations[:1]
    votes, activations = votes.float().requires_grad_(), activations.float().requires_grad_()
    found = routing(votes, activations, Sites())
    (found.poses.sum() + found.activations.sum()).backward()
    arrays = [*found, votes.grad, activations.grad, *(beta.grad for beta in routing.parameters())]
    assert all(array.isfinite().all() for array in arrays)


def test_a_capsule_that_nobody_hears_has_no_cost():
    routing, (votes, activations) = routing_of(WHOLE), inputs_of(WHOLE)
    found = routing(votes, torch.zeros_like(activations), Sites())
    expected = (routing.spec.lambdas[-1] * routing.activation.beta_a).sigmoid().expand(BATCH, 1, N_OUT)
    torch.testing.assert_close(found.activations, expected, rtol=1e-12, atol=0)


def test_half_precision_is_routed_in_single():
    routing, (votes, activations) = routing_of(OVERLAPPING, dtype=torch.float32), inputs_of(OVERLAPPING)
    votes, activations = votes.bfloat16(), activations.bfloat16()
    expected = routing(votes.float(), activations.float(), Sites())
    with torch.autocast("cpu", torch.bfloat16):
        found = routing(votes, activations, Sites())
    assert [array.dtype for array in found] == [torch.float32, torch.float32]
    assert found.poses.equal(expected.poses)
    assert found.activations.equal(expected.activations)
