"""A network without some units computes what the whole one does with those units silent, whatever the network."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from prunable import NETWORKS, drawn_tensors, pixels_for, silencer
from torch import Tensor

from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from qcaps.capsules.sites import hooked
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, build, preset
from qcaps.pruning.isomorphic import alike
from qcaps.pruning.surgery import cut
from qcaps.registry import MODELS

# One kind of unit of every class that is built alike.
CASES = [(name, names[0]) for name, spec in NETWORKS.items() for names in alike(build(spec))]


def in_double(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> CapsuleNetwork:
    """Build a network without the checks that a file goes through."""
    network = build(spec).eval()
    own = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if name.endswith("_tracked")}
    network.load_state_dict({**tensors, **own}, assign=True)
    return network.double()


@functools.cache
def whole_network(name: str) -> CapsuleNetwork:
    return in_double(NETWORKS[name], drawn_tensors(build(NETWORKS[name])))


@functools.cache
def whole_outputs(name: str) -> Tensor:
    return outputs(whole_network(name), NETWORKS[name])


def outputs(network: CapsuleNetwork, spec: ModelSpec, removed: Mapping[str, Sequence[int]] | None = None) -> Tensor:
    """Give scores and capsules of two images, with the removed units silent."""
    counts = {unit.name: unit.count for unit in network.units}
    with torch.inference_mode(), hooked(network, silencer(spec, counts, removed)) if removed else nullcontext():
        found = network(pixels_for(spec))
    return torch.cat([found.scores.flatten(), found.capsules.flatten()])


def kept_of(name: str, count: int, seed: int) -> list[int]:
    """Let a quarter go in no regular order, but at least one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + len(name)))
    return sorted(order[max(1, count // 4) :].tolist()) or [0]


def without(kept: Sequence[int], count: int) -> list[int]:
    return [index for index in range(count) if index not in kept]


def test_every_architecture_is_tested_here() -> None:
    assert {spec.architecture for spec in NETWORKS.values()} == {
        preset(entry.name).spec.architecture for entry in MODELS
    }


@pytest.mark.parametrize(("name", "unit"), CASES)
def test_units_that_are_cut_were_as_good_as_silent(name: str, unit: str) -> None:
    spec, whole = NETWORKS[name], whole_network(name)
    count = {u.name: u.count for u in whole.units}[unit]
    kept = kept_of(unit, count, seed=1)
    smaller = in_double(*cut(spec, drawn_tensors(whole), {unit: kept}))
    expected = outputs(whole, spec, {unit: without(kept, count)})
    scale = expected.abs().max()
    assert (outputs(smaller, spec) - expected).abs().max() < 1e-9 * scale
    assert (whole_outputs(name) - expected).abs().max() > 1e-4 * scale


@pytest.mark.parametrize("name", NETWORKS)
def test_all_units_may_be_cut_again_and_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    spec, whole = NETWORKS[name], whole_network(name)
    first = {unit.name: kept_of(unit.name, unit.count, seed=1) for unit in whole.units}
    once, tensors = cut(spec, drawn_tensors(whole), first)
    second = {name: kept_of(name, len(left), seed=2) for name, left in first.items()}
    twice, tensors = cut(once, tensors, second)
    found = outputs(in_double(twice, tensors), spec)
    stays = {unit: [first[unit][index] for index in indices] for unit, indices in second.items()}
    expected = outputs(whole, spec, {unit.name: without(stays[unit.name], unit.count) for unit in whole.units})
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()
    assert not torch.allclose(expected[: spec.classes], expected[spec.classes : 2 * spec.classes], rtol=1e-5)
    write_checkpoint(tmp_path / "cut.pt", Checkpoint(twice, tensors, None, {}))
    read, _ = read_checkpoint(tmp_path / "cut.pt")
    assert outputs(in_double(read.model, read.tensors), spec).equal(found)
