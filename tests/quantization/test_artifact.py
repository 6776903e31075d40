from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import FOLDED, NORMED, ROUTED, toy_images, toy_network

from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
from qcaps.artifacts.container import container_bytes, read_container
from qcaps.data.spec import data_spec
from qcaps.errors import ArtifactError
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import encoder_tensors, weight_sites
from qcaps.models.spec import ModelSpec
from qcaps.quantization import loading as module
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.artifact import ARTIFACT, SCORES, Artifact, artifact_bytes, payload_bytes, predictions_sha256
from qcaps.quantization.calibration import calibrate, plan_of_width
from qcaps.quantization.formats import FixedPoint, Float32, Rounding
from qcaps.quantization.loading import load, replay_self_test
from qcaps.quantization.plan import BitPlan

SCHEMES: list[Rounding] = ["round_to_nearest", "stochastic_rounding", "truncation", "logarithmic"]
DATA = data_spec("digits")
SEED = 7
Header = dict[str, Any]
Tensors = dict[str, Tensor]


@functools.cache
def plan_of(spec: ModelSpec, bits: int, rounding: Rounding, *, per_channel: bool = False) -> BitPlan:
    ranges = calibrate(toy_network(spec), toy_images(spec, split="train"), batch_size=20, seed=0)
    return plan_of_width(ranges, bits, rounding, per_channel=per_channel)


def written(spec: ModelSpec, plan: BitPlan, seed: int = SEED) -> bytes:
    network = toy_network(spec)
    with weights_replaced(network, round_weights(network, plan, seed).tensors):
        return artifact_bytes(Artifact(spec, DATA, plan, seed, network, {"search": {"correct": 5}}))


@functools.cache
def honest(
    spec: ModelSpec = FOLDED, bits: int = 4, rounding: Rounding = "round_to_nearest", *, per_channel: bool = False
) -> bytes:
    return written(spec, plan_of(spec, bits, rounding, per_channel=per_channel))


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "model.pt"
    path.write_bytes(data)
    return path


def predicted(spec: ModelSpec, plan: BitPlan) -> Tensor:
    """Measure a plan on the network in memory, without any file."""
    network = toy_network(spec)
    with weights_replaced(network, round_weights(network, plan, SEED).tensors):
        candidate = ArrayRounder(plan, SEED).predictor(network)
        return measure(candidate, toy_images(spec, 100), batch_size=20).predictions


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize(
    ("rounding", "bits"), [*((r, b) for r in SCHEMES for b in (3, 8)), ("truncation", 16), ("stochastic_rounding", 32)]
)
def test_the_file_predicts_what_the_plan_predicts_in_memory(
    tmp_path: Path, spec: ModelSpec, rounding: Rounding, bits: int
) -> None:
    plan = plan_of(spec, bits, rounding)
    file = load(saved(tmp_path, honest(spec, bits, rounding)))
    found = measure(file.predictor(), toy_images(spec, 100), batch_size=20).predictions
    assert torch.equal(found, predicted(spec, plan))


@pytest.mark.parametrize("rounding", SCHEMES)
def test_the_file_gives_back_weights_bit_for_bit_and_everything_else(tmp_path: Path, rounding: Rounding) -> None:
    plan = plan_of(FOLDED, 5, rounding)
    artifact = load(saved(tmp_path, honest(FOLDED, 5, rounding))).artifact
    weights = round_weights(toy_network(FOLDED), plan, SEED).tensors
    assert all(torch.equal(p, weights[name]) for name, p in artifact.network.named_parameters())
    assert (artifact.model, artifact.data, artifact.plan, artifact.seed) == (FOLDED, DATA, plan, SEED)
    assert artifact.record == {"search": {"correct": 5}}
    assert not artifact.network.training


def test_the_draws_of_an_evaluation_take_the_seed_of_the_file_unless_another_is_given(tmp_path: Path) -> None:
    spec, plan = ROUTED, plan_of(ROUTED, 3, "stochastic_rounding")
    file = load(saved(tmp_path, honest(spec, 3, "stochastic_rounding")))
    artifact, images = file.artifact, toy_images(spec)
    assert artifact is not None

    def capsules(rounder: ArrayRounder) -> Tensor:
        return rounder.forward(file.network, images.pixels / 255, images.indices).capsules

    assert torch.equal(capsules(artifact.rounder()), capsules(ArrayRounder(plan, SEED)))
    assert torch.equal(capsules(artifact.rounder(SEED + 1)), capsules(ArrayRounder(plan, SEED + 1)))
    assert torch.equal(capsules(artifact.rounder(0)), capsules(ArrayRounder(plan, 0)))
    assert not torch.equal(capsules(artifact.rounder()), capsules(artifact.rounder(0)))


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize(("rounding", "bits"), [*((r, b) for r in SCHEMES for b in (2, 8)), ("truncation", 1)])
def test_a_file_of_scales_per_channel_gives_back_plan_weights_and_predictions(
    tmp_path: Path, spec: ModelSpec, rounding: Rounding, bits: int
) -> None:
    plan = plan_of(spec, bits, rounding, per_channel=True)
    path = saved(tmp_path, honest(spec, bits, rounding, per_channel=True))
    file = load(path)
    weights = round_weights(toy_network(spec), plan, SEED).tensors
    assert file.artifact is not None
    assert file.artifact.plan == plan
    assert all(torch.equal(p, weights[name]) for name, p in file.network.named_parameters())
    found = measure(file.predictor(), toy_images(spec, 100), batch_size=20).predictions
    assert torch.equal(found, predicted(spec, plan))
    assert artifact_bytes(file.artifact) == path.read_bytes()


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize(("bits", "rounding"), [(1, "truncation"), (3, "truncation"), (5, "logarithmic")])
def test_the_payload_counts_a_byte_for_the_scale_of_every_channel(
    tmp_path: Path, spec: ModelSpec, bits: int, rounding: Rounding
) -> None:
    path = saved(tmp_path, honest(spec, bits, rounding, per_channel=True))
    container = read_container(path, schema=ARTIFACT)
    stored = sum(segment.nbytes for name, segment in container.tensors.items() if name != SCORES)
    parameters = dict(toy_network(spec).named_parameters())
    tensors = {site: parameters[name] for site, name in weight_sites(toy_network(spec)).items()}
    by_hand = sum(-(-p.numel() * bits // 8) + (len(p) if s.endswith(".weight") else 1) for s, p in tensors.items())
    assert stored == by_hand == payload_bytes(toy_network(spec), plan_of(spec, bits, rounding, per_channel=True))
    assert load(path).checks.tensor_bytes == stored


def test_the_header_counts_channels_and_repeats_no_scale(tmp_path: Path) -> None:
    header = read_container(saved(tmp_path, honest(per_channel=True)), schema=ARTIFACT).header
    assert header["plan"]["weights"]["conv2.weight"] == {"kind": "fixed_point", "bits": 4, "channels": 4}


@pytest.mark.parametrize("rounding", SCHEMES)
def test_the_same_content_gives_the_same_bytes(rounding: Rounding) -> None:
    assert written(ROUTED, plan_of(ROUTED, 4, rounding)) == honest(ROUTED, 4, rounding)


def test_what_was_read_is_written_with_the_same_bytes(tmp_path: Path) -> None:
    for rounding in SCHEMES:
        data = honest(FOLDED, 4, rounding)
        assert artifact_bytes(load(saved(tmp_path, data)).artifact) == data


@pytest.mark.parametrize("spec", [FOLDED, ROUTED])
@pytest.mark.parametrize(
    ("bits", "rounding"), [(1, "truncation"), (3, "truncation"), (16, "truncation"), (5, "logarithmic")]
)
def test_the_payload_is_the_sum_of_the_segments_in_the_file(
    tmp_path: Path, spec: ModelSpec, bits: int, rounding: Rounding
) -> None:
    path = saved(tmp_path, honest(spec, bits, rounding))
    segments = read_container(path, schema=ARTIFACT).tensors
    stored = sum(segment.nbytes for name, segment in segments.items() if name != SCORES)
    # ⌈count · bits / 8⌉ bytes of codes and one for the scale
    by_hand = sum(-(-p.numel() * bits // 8) + 1 for p in toy_network(spec).parameters())
    assert stored == by_hand == payload_bytes(toy_network(spec), plan_of(spec, bits, rounding))
    assert stored < path.stat().st_size == len(honest(spec, bits, rounding)) == load(path).file_bytes


def test_a_weight_left_in_float_is_charged_four_bytes_a_value(tmp_path: Path) -> None:
    plan = plan_of(FOLDED, 3, "truncation")
    mixed = BitPlan("truncation", {**plan.weights, "conv1.weight": Float32()}, plan.arrays)
    path = saved(tmp_path, written(FOLDED, mixed))
    segments = read_container(path, schema=ARTIFACT).tensors
    stored = sum(segment.nbytes for name, segment in segments.items() if name != SCORES)
    count = toy_network(FOLDED).stages["conv1"].conv.weight.numel()
    assert segments["conv1.weight"].nbytes == 4 * count
    assert stored == payload_bytes(toy_network(FOLDED), mixed)
    assert stored == payload_bytes(toy_network(FOLDED), plan) + 4 * count - (-(-3 * count // 8) + 1)
    assert torch.equal(load(path).network.stages["conv1"].conv.weight, toy_network(FOLDED).stages["conv1"].conv.weight)


def test_fewer_bits_make_a_smaller_file() -> None:
    sizes = [len(honest(ROUTED, bits, "truncation")) for bits in (2, 4, 8, 16, 32)]
    assert sizes == sorted(set(sizes))


def test_loading_tells_a_checkpoint_from_an_artifact(tmp_path: Path) -> None:
    network = toy_network(NORMED)
    sha256 = write_checkpoint(tmp_path / "float.pt", Checkpoint(NORMED, encoder_tensors(network), DATA, {}))
    file = load(str(tmp_path / "float.pt"))
    images = toy_images(NORMED, 100)
    assert file.artifact is None
    assert (file.model, file.data, file.sha256, file.path) == (NORMED, DATA, sha256, tmp_path / "float.pt")
    expected = measure(predictor(network), images, batch_size=20).predictions
    found = measure(file.predictor(seed=3), images, batch_size=20).predictions
    assert torch.equal(found, expected)


# What a stranger may have changed. Every file below is whole and has the right checksums.

Change = Callable[[Any], object]


def forged(folder: Path, header: Change | None = None, tensors: Change | None = None, **which: Any) -> Path:
    """Change an honest file, and write it so that every checksum fits."""
    container = read_container(saved(folder, honest(**which)), schema=ARTIFACT)
    changed, segments = copy.deepcopy(container.header), dict(container.tensors)
    for change, part in ((header, changed), (tensors, segments)):
        if change is not None:
            change(part)
    return saved(folder, container_bytes(changed, segments))


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert caught.value.where.startswith(str(path))
    assert str(caught.value).isprintable()
    return caught.value.what


def put(*place: object) -> Change:
    """Set what the last but one names, inside of what those before it name, to the last."""
    *parents, key, value = place
    return lambda header: functools.reduce(lambda node, name: node[name], parents, header).__setitem__(key, value)


def drop(*place: object) -> Change:
    *parents, key = place
    return lambda header: functools.reduce(lambda node, name: node[name], parents, header).__delitem__(key)


def test_an_unchanged_file_is_accepted(tmp_path: Path) -> None:
    assert load(forged(tmp_path)).artifact is not None


FIXED = {"kind": "fixed_point", "bits": 4, "frac_bits": 3}
LOG = {"kind": "logarithmic", "bits": 4, "max_exponent": 0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("record"), "record"),
        (put("record", []), "record"),
        (put("record", None), "record"),
        (drop("seed"), "seed"),
        (put("seed", "7"), "seed"),
        (put("seed", True), "seed"),
        (put("seed", 7.0), "seed"),
        (put("seed", -1), "seed"),
        (put("seed", 2**63), "seed"),
        (put("seed", 10**400), "seed"),
        (drop("plan"), "bit plan"),
        (put("plan", []), "bit plan"),
        (drop("plan", "arrays"), "bit plan"),
        (put("plan", "rounding", "rounded"), "unknown rounding"),
        (put("plan", "rounding", {}), "unknown rounding"),
        (put("plan", "rounding", "logarithmic"), "scale"),
        (put("plan", "rounding", "truncation"), "self-test"),
        (put("plan", "arrays", "conv9.out", FIXED), "'conv9.out'"),
        (put("plan", "arrays", "conv2.out@1", FIXED), "'conv2.out@1'"),
        (put("plan", "arrays", "conv2.weight", FIXED), "'conv2.weight'"),
        (put("plan", "weights", "conv9.weight", FIXED), "weights"),
        (put("plan", "weights", "conv2.out", FIXED), "weights"),
        (drop("plan", "arrays", "conv2.out"), "conv2.out"),
        (drop("plan", "arrays", "class_caps.logits"), "class_caps.logits"),
        (drop("plan", "weights", "conv2.weight"), "weights"),
        (put("plan", "weights", "conv2.weight", "bits", 3), "bytes"),
        (put("plan", "weights", "conv2.weight", "bits", 5), "bytes"),
        (put("plan", "weights", "conv2.weight", "bits", 0), "bits"),
        (put("plan", "weights", "conv2.weight", "bits", 10**9), "bits"),
        (put("plan", "weights", "conv2.weight", "bits", 4.0), "whole numbers"),
        (put("plan", "weights", "conv2.weight", "frac_bits", 50), "scale"),
        (put("plan", "weights", "conv2.weight", "frac_bits", 10**9), "frac_bits"),
        (put("plan", "weights", "conv2.weight", LOG), "scale"),
        (put("plan", "weights", "conv2.weight", {"kind": "float32", "bits": 32}), "shape"),
        (put("plan", "arrays", "conv2.out", LOG), "cannot round"),
        (put("plan", "arrays", "conv2.out", "frac_bits", 9), "self-test"),
        (put("plan", "arrays", "class_caps.out", "bits", 1), "self-test"),
        (drop("model"), "architecture"),
        (put("model", "architecture", "shallow-capsnet"), "shallow-capsnet"),
        (put("model", "architecture", "os.system"), "unknown model"),
        (put("model", "architecture", 5), "architecture"),
        (drop("model", "squash_eps"), "squash_eps"),
        (put("model", "dropout", 0.5), "dropout"),
        (put("model", "attention_scale", 0.5), "self-test"),
        (put("model", "attention_scale", 0.0), "more than 0"),
        (put("model", "attention_scale", 1e-300), "NaN or infinity"),
        (put("model", "squash", "hinton"), "self-test"),
        (put("model", "routing", "uniform"), "site"),
        (put("model", "norm", "batch"), "the weights of the file are not those of the network"),
        (put("model", "decoder", "fc"), "missing or left over"),
        (put("model", "classes", 4), "bytes"),
        (put("model", "channels", 10**6), "bytes"),
        (put("model", "height", 4096), "bytes"),
        (put("model", "height", 4097), "height"),
        (put("model", "height", 10**9), "height"),
        (put("model", "height", 15), "bytes"),
        (put("model", "height", 1), "too few"),
        (put("model", "class_dim", 10**6), "bytes"),
        (put("model", "conv_channels", [10**6] * 4), "bytes"),
        (put("model", "conv_channels", [4, 4]), "differ in length"),
        (put("model", "conv_channels", []), "conv_channels"),
        (put("model", "conv_kernels", [5, 3, 3, 300]), "too few"),
        (put("model", "conv_strides", [1, 1, 1, 0]), "conv_strides"),
        (put("model", "primary_dim", 5), "primary_dim"),
        (drop("data"), "data spec"),
        (put("data", "dataset", "cifar1000"), "data spec"),
        (put("data", "preparation", 0), "preparation"),
        (put("schema", "qcaps.artifact/2"), "version"),
        (put("schema", "qcaps.checkpoint/1"), "missing or left over"),
        (put("schema", "qcaps.other/1"), "not a"),
    ],
)
def test_a_changed_header_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, header=change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("model", "routing_passes", 2), "site"),
        (put("model", "routing_passes", 4), "class_caps.logits"),
        (put("model", "routing_passes", 10**6), "routing_passes"),
        (put("model", "primary_bias", "conv"), "site"),
        (drop("plan", "arrays", "class_caps.coupling@2"), "class_caps.coupling"),
        (put("plan", "arrays", "class_caps.coupling@4", FIXED), "'class_caps.coupling@4'"),
    ],
)
def test_a_changed_header_of_a_routed_network_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, header=change, spec=ROUTED))


CHANNELS = {"kind": "fixed_point", "bits": 4, "channels": 4}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("plan", "weights", "conv2.weight", "channels", 3), "every channel"),
        (put("plan", "weights", "conv2.weight", "channels", 1), "every channel"),
        (put("plan", "weights", "conv2.weight", "channels", 0), "no channels"),
        (put("plan", "weights", "conv2.weight", "channels", -4), "no channels"),
        (put("plan", "weights", "conv2.weight", "channels", True), "no channels"),
        (put("plan", "weights", "conv2.weight", "channels", 10**12), "scales"),
        (put("plan", "weights", "conv2.weight", "channels", 4.0), "whole numbers"),
        (put("plan", "weights", "conv2.weight", "channels", [1, 2, 3, 4]), "whole numbers"),
        (put("plan", "weights", "conv2.weight", "bits", 5), "bytes"),
        (put("plan", "weights", "conv2.weight", "bits", 0), "bits"),
        (put("plan", "weights", "conv2.weight", "kind", "logarithmic"), "scale"),
        (put("plan", "weights", "conv2.weight", "kind", "float32"), "unknown"),
        (put("plan", "weights", "conv2.weight", "frac_bits", 3), "number format"),
        (put("plan", "weights", "conv2.weight", FIXED), "bytes"),
        (put("plan", "weights", "conv1.bias", CHANNELS), "bytes"),
        (put("plan", "weights", "conv9.weight", CHANNELS), "no segment"),
        (put("plan", "arrays", "conv2.out", CHANNELS), "number format"),
        (put("plan", "rounding", "logarithmic"), "segment"),
        (put("model", "conv_channels", [4, 3, 6, 16]), "every channel"),
    ],
)
def test_a_changed_header_of_scales_per_channel_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, header=change, per_channel=True))


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_made(tmp_path: Path) -> None:
    # a large stride keeps every weight of the network as small as it was
    header = put("model", "conv_strides", [1, 800, 1, 1])
    path = forged(tmp_path, header=lambda h: (header(h), h["model"].update(height=4096, width=4096)))
    assert "memory" in refusal(path)


def replaced(site: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: tensors.__setitem__(site, change(tensors[site].clone()))


def flip(place: int, mask: int) -> Callable[[Tensor], Tensor]:
    def change(segment: Tensor) -> Tensor:
        segment[place] ^= mask
        return segment

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced("conv2.weight", lambda s: s[:-1]), "bytes"),
        (replaced("conv2.weight", lambda s: torch.cat([s, s[:1]])), "bytes"),
        (replaced("conv2.weight", lambda s: s.view(1, -1)), "bytes"),
        (replaced("conv2.weight", lambda s: s.long()), "bytes"),
        (replaced("conv2.weight", lambda s: s[:0]), "bytes"),
        (replaced("conv2.weight", flip(0, 1)), "scale"),
        (replaced("conv2.weight", flip(0, 0x80)), "frac_bits"),
        (drop("conv2.weight"), "weights"),
        (put("conv9.weight", torch.zeros(3, dtype=torch.uint8)), "weights"),
        (drop(SCORES), "holds no self-test"),
        (replaced(SCORES, lambda s: s[:-1]), "holds no self-test"),
        (replaced(SCORES, lambda s: s.long()), "holds no self-test"),
        (replaced(SCORES, lambda s: s + 0.01), "self-test fails"),
        (replaced(SCORES, lambda s: s.flip(1)), "self-test fails"),
    ],
)
def test_a_changed_segment_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, tensors=change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced("conv2.weight", lambda s: s[:-1]), "bytes"),
        (replaced("conv2.weight", lambda s: s[1:]), "bytes"),
        (replaced("conv2.weight", lambda s: s[:3]), "scales"),
        (replaced("conv2.weight", lambda s: s.view(1, -1)), "scales"),
        (replaced("conv2.weight", lambda s: s.long()), "scales"),
        (replaced("conv2.weight", flip(3, 0x80)), "shift"),
        (replaced("class_caps.weight", flip(0, 4)), "self-test"),
        (drop("conv2.weight"), "no segment"),
    ],
)
def test_a_changed_segment_of_scales_per_channel_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, tensors=change, per_channel=True))


@pytest.mark.parametrize("site", weight_sites(toy_network(FOLDED)))
def test_changed_weights_fail_the_self_test_though_every_checksum_fits(tmp_path: Path, site: str) -> None:
    # the sign of every code is the highest of its four bits
    upside_down = replaced(site, lambda segment: torch.cat([segment[:1], segment[1:] ^ 0x88]))
    assert "self-test" in refusal(forged(tmp_path, tensors=upside_down))


def test_a_changed_scale_fails_the_self_test_though_plan_and_segment_agree(tmp_path: Path) -> None:
    def finer(header: Header) -> None:
        header["plan"]["weights"]["class_caps.weight"]["frac_bits"] += 2

    def agreeing(tensors: Tensors) -> None:
        segment = tensors["class_caps.weight"].clone()
        segment[0] = (int(segment[:1].view(torch.int8)) - 2) % 256
        tensors["class_caps.weight"] = segment

    assert "self-test" in refusal(forged(tmp_path, finer, agreeing))


def test_weights_that_overflow_are_refused(tmp_path: Path) -> None:
    sites = ("conv1.weight", "conv2.weight", "conv3.weight")

    def huge(header: Header) -> None:
        for name in header["plan"]["arrays"]:
            header["plan"]["arrays"][name] = {"kind": "float32", "bits": 32}
        for name in sites:
            header["plan"]["weights"][name]["frac_bits"] = -100

    def agreeing(tensors: Tensors) -> None:
        for name in sites:
            tensors[name] = torch.cat([torch.tensor([100], dtype=torch.uint8), tensors[name][1:]])

    assert "NaN or infinity" in refusal(forged(tmp_path, huge, agreeing))


def test_bits_after_the_last_code_are_refused(tmp_path: Path) -> None:
    # conv1.bias has 4 codes of 5 bits: 4 bits of its 3 bytes are unused
    change = replaced("conv1.bias", flip(3, 0x80))
    assert "unused bits" in refusal(forged(tmp_path, tensors=change, bits=5))


def test_the_code_for_minus_zero_is_refused(tmp_path: Path) -> None:
    def minus_zero(segment: Tensor) -> Tensor:
        segment[1] = 0x08
        return segment

    path = forged(tmp_path, tensors=replaced("conv2.weight", minus_zero), rounding="logarithmic")
    assert "minus zero" in refusal(path)


def test_a_float_weight_of_another_type_is_refused(tmp_path: Path) -> None:
    assert "float32" in refusal(forged(tmp_path, tensors=replaced("conv1.bias", lambda s: s.long()), bits=32))
    assert "float32" in refusal(forged(tmp_path, tensors=replaced("conv1.bias", lambda s: s.byte()), bits=32))


PLACES = [
    *(("model", key) for key in ("architecture", "height", "classes", "conv_channels", "conv_strides", "primary_dim")),
    *(("model", key) for key in ("squash", "squash_eps", "length_eps", "attention_scale", "norm", "mask_layout")),
    *(("plan", part, site) for part, site in (("arrays", "conv2.out"), ("weights", "primary.bias"))),
    ("plan", "weights", "conv2.bias", "bits"),
    ("plan", "arrays", "class_caps.sum", "frac_bits"),
    *(("plan", key) for key in ("rounding", "weights", "arrays")),
    *(("data", key) for key in ("dataset", "preparation", "split_seed", "validation_per_class")),
    *((key,) for key in ("model", "plan", "data", "seed", "record")),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([10**6, 10**9, 2**63, -(10**30), 1e-30, 1e300, "", "batch", "none", "truncation", "\x1b[2J"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(0, 9), max_size=5),
    st.dictionaries(st.sampled_from(["kind", "bits", "frac_bits"]), st.integers(-1, 200), max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_anywhere_in_the_header_gives_an_artifact_or_an_artifact_error(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], value: object
) -> None:
    path = forged(tmp_path_factory.mktemp("any"), header=put(*place, value))
    try:
        assert load(path).artifact is not None
    except ArtifactError as error:
        assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize("rounding", SCHEMES)
def test_the_self_test_bears_a_small_difference_between_machines_and_no_large_one(
    tmp_path: Path, rounding: Rounding
) -> None:
    path = saved(tmp_path, honest(FOLDED, 6, rounding))
    artifact, expected = load(path).artifact, read_container(path, schema=ARTIFACT).tensors[SCORES]
    assert replay_self_test(artifact, expected + 5e-4)
    assert not replay_self_test(artifact, expected + 2e-3)


def of_self_test(folder: Path, rounding: Rounding = "round_to_nearest") -> tuple[Artifact, Tensor, float]:
    """An artifact, the scores of its self-test, and the largest step of the arrays of its last stage."""
    path = saved(folder, honest(rounding=rounding))
    artifact, expected = load(path).artifact, read_container(path, schema=ARTIFACT).tensors[SCORES]
    assert artifact is not None
    formats = [fmt for site, fmt in artifact.plan.arrays.items() if site.startswith("class_caps.")]
    steps = [fmt.step if isinstance(fmt, FixedPoint) else 2.0 ** (fmt.max_exponent - 1) for fmt in formats]
    assert replay_self_test(artifact, expected)
    return artifact, expected, max(steps)


@pytest.mark.parametrize("rounding", SCHEMES)
def test_the_self_test_bears_a_few_scores_that_crossed_a_rounding_boundary(tmp_path: Path, rounding: Rounding) -> None:
    artifact, expected, step = of_self_test(tmp_path, rounding)
    moved = expected.clone()
    moved[:2] += 1.9 * step
    assert replay_self_test(artifact, moved)
    moved[0, 1] += 0.2 * step  # more than two steps in all
    assert not replay_self_test(artifact, moved)


def test_the_self_test_bears_no_more_than_a_quarter_of_the_scores_moved(tmp_path: Path) -> None:
    artifact, expected, step = of_self_test(tmp_path)
    moved = expected.clone()
    moved[:2] += step
    assert replay_self_test(artifact, moved)
    moved[4, 0] += 0.01
    assert not replay_self_test(artifact, moved)


def test_the_self_test_bears_another_prediction_only_where_scores_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, expected, step = of_self_test(tmp_path)
    found = expected.clone()
    monkeypatch.setattr(module, "self_test_scores", lambda _: found)
    found[0], expected[0] = torch.tensor([0.30, 0.31, 0.2]), torch.tensor([0.33, 0.31, 0.2])
    assert step > 0.03
    assert replay_self_test(artifact, expected)
    found[0], expected[0] = torch.tensor([0.3004, 0.3, 0.2]), torch.tensor([0.3, 0.3004, 0.2])
    assert not replay_self_test(artifact, expected)


def test_the_self_test_bears_no_nan(tmp_path: Path) -> None:
    artifact, expected, _ = of_self_test(tmp_path)
    expected[0, 0] = torch.nan
    assert not replay_self_test(artifact, expected)


def test_predictions_are_identified_by_value_and_order() -> None:
    found = predictions_sha256(torch.tensor([1, 300]))
    assert found == hashlib.sha256(bytes([1, *[0] * 7, 44, 1, *[0] * 6])).hexdigest()
    assert found == predictions_sha256(torch.tensor([1, 300], dtype=torch.int32))


def test_a_plan_may_mix_widths(tmp_path: Path) -> None:
    plan = plan_of(ROUTED, 8, "round_to_nearest")
    mixed = BitPlan(
        "round_to_nearest",
        {**plan.weights, "conv1.weight": FixedPoint(3, 3), "class_caps.bias": Float32()},
        {**plan.arrays, "class_caps.logits@2": Float32(), "primary.out": FixedPoint(16, 15)},
    )
    file = load(saved(tmp_path, written(ROUTED, mixed)))
    found = measure(file.predictor(), toy_images(ROUTED, 100), batch_size=20).predictions
    assert torch.equal(found, predicted(ROUTED, mixed))
