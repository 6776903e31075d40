"""Load files: a network rebuilt from its codes or its floats, whole and verified, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from qcaps.artifacts.checkpoint import CHECKPOINT, checkpoint_of
from qcaps.artifacts.container import Container, read_container
from qcaps.data.spec import DataSpec, data_spec_from_dict
from qcaps.errors import ArtifactError, QcapsError, UsageError, quoted
from qcaps.evaluation.measure import Predict, See, predictor, unseen
from qcaps.models.network import CapsuleNetwork, array_sites, float_tensors, to_inference, weight_sites
from qcaps.models.spec import ModelSpec, build, filled, spec_from_dict
from qcaps.quantization.artifact import ARTIFACT, SCORES, SELF_TEST_IMAGES, Artifact, self_test_scores
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, NumberFormat, PerChannel
from qcaps.quantization.packing import unpack_segment
from qcaps.quantization.plan import BitPlan, plan_from_header

# Machines differ in the last bits of a squash or a softmax. Most scores then differ by less than this; the few that lie
# behind a value on the other side of a rounding boundary may differ by steps of the coarsest array of the last stage.
SELF_TEST_TOLERANCE, SELF_TEST_STEPS = 1e-3, 2


@dataclass(frozen=True)
class SelfTest:
    """A self-test that was passed: its images, and the largest difference from a score in the file."""

    images: int
    largest_difference: float


@dataclass(frozen=True)
class Checks:
    """What was checked while a file was loaded.

    Parameters
    ----------
    tensors
        How many there are, each with the sha256 that the header names.
    tensor_bytes
        What they take, the scores of the self-test left out: of an artifact the payload that its plan asks for.
    self_test
        None for a checkpoint.
    """

    tensors: int
    tensor_bytes: int
    self_test: SelfTest | None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network out of a file, whichever kind of file it was.

    Parameters
    ----------
    path, sha256, file_bytes
        The file.
    model, data, network
        Ready for inference; `data` is None for a checkpoint of images that are no data set of ours.
    record
        How it was made: plain data out of the file, unchecked.
    artifact
        The quantized network, or None for a checkpoint.
    checks
        What makes the file whole.
    """

    path: Path
    sha256: str
    file_bytes: int
    model: ModelSpec
    data: DataSpec | None
    network: CapsuleNetwork
    record: Mapping[str, object]
    artifact: Artifact | None
    checks: Checks

    def predictor(self, *, seed: int | None = None, see: See = unseen) -> Predict:
        """Make the candidate for :func:`~qcaps.evaluation.measure.measure`: pixels, indices → predictions.

        Every output is shown to `see`.
        """
        if self.artifact is None:
            return predictor(self.network, see)
        return self.artifact.rounder(seed).predictor(self.network, see)


def load(path: Path | str) -> Loaded:
    """Load a checkpoint or an artifact.

    Raises
    ------
    ArtifactError
        If the file is neither, damaged or hostile.
    """
    container = read_container(Path(path), schema=(CHECKPOINT, ARTIFACT))
    file = container.path, container.sha256, container.file_bytes
    if container.schema == CHECKPOINT:
        checkpoint = checkpoint_of(container)
        network, checks = checkpoint.network(where=str(path)), _checks(container, None)
        return Loaded(*file, checkpoint.model, checkpoint.data, network, checkpoint.record, None, checks)
    made, passed = _artifact(container)
    return Loaded(*file, made.model, made.data, made.network, made.record, made, _checks(container, passed))


def replay_self_test(artifact: Artifact, expected: Tensor) -> SelfTest | None:
    """Score the images of the self-test again; None if the network no longer gives the scores of the file.

    Three quarters of the scores have to be the same but for a tolerance, and the prediction of every image of which all
    are; the others may move by a step or two.
    """
    found = self_test_scores(artifact)
    apart = (found - expected).abs()  # (images, classes)
    same = apart <= SELF_TEST_TOLERANCE  # NaN is not
    near = apart <= SELF_TEST_TOLERANCE + SELF_TEST_STEPS * _coarsest_step(artifact)
    predicted = (found.argmax(1) == expected.argmax(1)) | ~same.all(1)
    if near.all() and predicted.all() and 4 * int(same.sum()) >= 3 * same.numel():
        return SelfTest(len(expected), float(apart.max()))
    return None


def _coarsest_step(artifact: Artifact) -> float:
    """Find the largest distance between neighbouring values in the arrays of the last stage."""
    last = [*artifact.network.stages][-1]
    formats = [fmt for site, fmt in artifact.plan.arrays.items() if site.startswith(f"{last}.")]
    steps = [fmt.step for fmt in formats if isinstance(fmt, FixedPoint)]
    steps += [fmt.highest / 2 for fmt in formats if isinstance(fmt, Logarithmic)]
    return max(steps, default=0.0)


def _checks(container: Container, self_test: SelfTest | None) -> Checks:
    stored = sum(tensor.nbytes for name, tensor in container.tensors.items() if name != SCORES)
    return Checks(len(container.tensors), stored, self_test)


def _artifact(container: Container) -> tuple[Artifact, SelfTest]:
    """Rebuild the network of a container that was read whole, and replay its self-test."""
    where, header = str(container.path), container.header
    record, seed = header.get("record"), header.get("seed")
    if not isinstance(record, dict) or not _is_seed(seed):
        raise ArtifactError("the header holds no record or no seed", where=where)
    model = spec_from_dict(header.get("model"), where=where)
    tensors = dict(container.tensors)
    plan = plan_from_header(header.get("plan"), tensors, where=where)
    expected = tensors.pop(SCORES, None)
    network = _unpacked(model, plan, tensors, where)
    data = data_spec_from_dict(header.get("data"), where=where)
    artifact = Artifact(model, data, plan, seed, network, record)
    if expected is None or expected.shape != (SELF_TEST_IMAGES, model.classes) or expected.dtype != torch.float32:
        raise ArtifactError("the file holds no self-test", where=where)
    try:
        passed = replay_self_test(artifact, expected)
    except (KeyError, RuntimeError, ValueError, QcapsError) as error:
        raise ArtifactError(f"the bit plan does not fit the network: {error}", where=where) from error
    if passed is None:
        raise ArtifactError(
            "the self-test fails: the network does not give the scores it was written with", where=where
        )
    return artifact, passed


def _is_seed(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _unpacked(model: ModelSpec, plan: BitPlan, segments: Mapping[str, Tensor], where: str) -> CapsuleNetwork:
    """Build the network and fill it with the values of its codes."""
    try:
        blank = build(model)
    except UsageError as error:
        raise ArtifactError(error.what, where=where, do=error.do) from error
    sites, shapes = weight_sites(blank), {k: v.shape for k, v in blank.named_parameters()}
    unrounded = float_tensors(blank).keys()
    if sites.keys() != plan.weights.keys() or sites.keys() | unrounded != segments.keys():
        raise ArtifactError("the weights of the file are not those of the network", where=where)
    tensors = {name: segments[name] for name in unrounded}
    for site, name in sites.items():
        fmt: NumberFormat = plan.weights[site]
        if isinstance(fmt, Float32):
            tensors[name] = segments[site]
            continue
        kind = "logarithmic" if plan.rounding == "logarithmic" else "fixed_point"
        place = f"{where}: {site}"
        channels = len(fmt.shifts) if isinstance(fmt, PerChannel) else None
        shape = tuple(shapes[name])
        values, found = unpack_segment(segments[site], kind, fmt.bits, shape, channels=channels, where=place)
        if found != fmt:
            raise ArtifactError("the scale of a segment is not the one in the bit plan", where=place)
        tensors[name] = values
    network = filled(model, tensors, where=where)
    arrays = array_sites(network, (model.channels, model.height, model.width))
    unknown = plan.arrays.keys() - arrays.keys() - {site.split("@", 1)[0] for site in arrays}
    if unknown:
        raise ArtifactError(f"the bit plan has a site {quoted(min(unknown))} that the network has not", where=where)
    return to_inference(network)
