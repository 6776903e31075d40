"""Artifacts: quantized networks on disk, every code packed at its own width."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.artifacts.container import container_bytes
from qcaps.data.spec import DataSpec, data_spec_to_dict
from qcaps.models.network import CapsuleNetwork, float_tensors, weight_sites
from qcaps.models.spec import ModelSpec, spec_to_dict
from qcaps.quantization.applying import ArrayRounder
from qcaps.quantization.draws import uniforms, weight_uniforms
from qcaps.quantization.formats import Float32
from qcaps.quantization.packing import pack_segment, stored_bytes
from qcaps.quantization.plan import BitPlan, plan_to_header

ARTIFACT = "qcaps.artifact"
SELF_TEST_IMAGES = 8
SCORES = "self_test.scores"


@dataclass(frozen=True, eq=False)
class Artifact:
    """A quantized network.

    Parameters
    ----------
    model
        Spec of the folded network, without a decoder.
    data
        The images it was trained and judged on.
    plan, seed
        Formats of all sites, and the seed of stochastic rounding.
    network
        Its weights are the rounded ones.
    record
        What the search said of it: plain data.
    """

    model: ModelSpec
    data: DataSpec
    plan: BitPlan
    seed: int
    network: CapsuleNetwork
    record: Mapping[str, object]

    def rounder(self, seed: int | None = None) -> ArrayRounder:
        """Make what rounds the arrays of one evaluation, with the artifact's own seed unless another is given."""
        return ArrayRounder(self.plan, self.seed if seed is None else seed)


def artifact_bytes(artifact: Artifact) -> bytes:
    """Serialise an artifact; the same content gives the same bytes."""
    return container_bytes(_header(artifact), _segments(artifact) | {SCORES: self_test_scores(artifact)})


def artifact_size(artifact: Artifact) -> int:
    """Count the bytes of the file of an artifact, whose weights need not be rounded yet."""
    network, plan = artifact.network, artifact.plan
    parameters = dict(network.named_parameters())
    tensors = {name: torch.zeros_like(tensor) for name, tensor in float_tensors(network).items()}
    for site, name in weight_sites(network).items():
        weight, fmt = parameters[name], plan.weights[site]
        segment = torch.zeros(stored_bytes(weight.numel(), fmt), dtype=torch.uint8)
        tensors[site] = torch.zeros_like(weight) if isinstance(fmt, Float32) else segment
    tensors[SCORES] = torch.zeros(SELF_TEST_IMAGES, artifact.model.classes)
    return len(container_bytes(_header(artifact), tensors))


def _header(artifact: Artifact) -> dict[str, object]:
    return {
        "schema": f"{ARTIFACT}/1",
        "model": spec_to_dict(artifact.model),
        "data": data_spec_to_dict(artifact.data),
        "plan": plan_to_header(artifact.plan),
        "seed": artifact.seed,
        "record": dict(artifact.record),
    }


def payload_bytes(network: CapsuleNetwork, plan: BitPlan) -> int:
    """Count the weight payload: packed codes, one byte per scale, 4 bytes per value left in float.

    References
    ----------
    Q-CapsNets accounting made honest; the budget of `--budget-on payload`.
    """
    shapes = dict(network.named_parameters())
    total = sum(stored_bytes(shapes[name].numel(), plan.weights[site]) for site, name in weight_sites(network).items())
    return total + sum(tensor.nbytes for tensor in float_tensors(network).values())


def _segments(artifact: Artifact) -> dict[str, Tensor]:
    """Pack every weight; those left in float stay as they are, under their site or, without one, their own name."""
    parameters = dict(artifact.network.named_parameters())
    found = {name: tensor.detach() for name, tensor in float_tensors(artifact.network).items()}
    for site, name in weight_sites(artifact.network).items():
        fmt, weight = artifact.plan.weights[site], parameters[name].detach()
        if isinstance(fmt, Float32):
            found[site] = weight
            continue
        draws = None
        if artifact.plan.rounding == "stochastic_rounding":
            draws = weight_uniforms(artifact.seed, site, weight.numel())
        # Rounding what is rounded already changes nothing, so these are the codes that were judged.
        found[site] = pack_segment(weight, fmt, artifact.plan.rounding, draws)
    return found


def self_test_scores(artifact: Artifact) -> Tensor:
    """Score a few images made from a seed, never real ones: shape ``(images, classes)``."""
    shape = (artifact.model.channels, artifact.model.height, artifact.model.width)
    indices = torch.arange(SELF_TEST_IMAGES)
    pixels = uniforms(0, "self_test", indices, shape[0] * shape[1] * shape[2]).view(-1, *shape)
    with torch.inference_mode():
        return artifact.rounder().forward(artifact.network, pixels, indices).scores


def predictions_sha256(found: Tensor) -> str:
    """Identify a list of predictions."""
    return hashlib.sha256(found.to(torch.int64).numpy().astype("<i8").tobytes()).hexdigest()
