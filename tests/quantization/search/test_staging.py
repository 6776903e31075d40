from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import judged_images, toy_subject
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.capsules.sites import Sites
from qcaps.data.images import ImageSet, Split
from qcaps.data.spec import data_spec
from qcaps.evaluation import measure as measure_module
from qcaps.models.capsnet_flavours import EFFICIENTCN
from qcaps.models.cnn_baselines import CNN_R
from qcaps.models.deepcaps import DEEPCAPS
from qcaps.models.efficient_capsnet import SMALLNORB
from qcaps.models.em_capsnet import EM_CAPSNET
from qcaps.models.mobilenetv1_capsnet import MOBILENETV1_CAPSNET
from qcaps.models.network import to_inference
from qcaps.models.spec import ModelSpec, initialised
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.calibration import calibrate
from qcaps.quantization.formats import Rounding
from qcaps.quantization.search.staging import LARGEST_SHARE, StageMemory, running
from qcaps.quantization.search.subject import Subject

DIGITS = {"channels": 1, "height": 28, "width": 28, "classes": 10}
SPECS = {
    "folded": FOLDED,
    "routed": ROUTED,
    "prior logits": dataclasses.replace(EFFICIENTCN.spec, **DIGITS, conv_channels=(4,), primary_types=2, primary_dim=4),
    "instance norm": dataclasses.replace(
        SMALLNORB.spec, **DIGITS, conv_channels=(4, 4, 4, 16), conv_kernels=(5, 3, 3, 3)
    ),
    "3-d routing": dataclasses.replace(
        DEEPCAPS.spec, **DIGITS, conv_channels=4, types=(2,) * 12, dims=(2,) * 12, competing_types=2
    ),
    "capsule head": dataclasses.replace(MOBILENETV1_CAPSNET.spec, **DIGITS, widths=(4,) * 13 + (16,), primary_types=2),
    "em routing": dataclasses.replace(EM_CAPSNET.spec, **DIGITS, conv_channels=4, primary_types=2, conv_types=(2, 2)),
    "no routing": dataclasses.replace(CNN_R.spec, **DIGITS, conv1_channels=4, conv2_channels=4, class_dim=2),
}
# Enough for all outputs of a toy network.
PLENTY = 10**9


def images_of(spec: ModelSpec, count: int, split: Split = "validation") -> ImageSet:
    """Draw noise of the size of a network's images."""
    generator = torch.Generator().manual_seed(len(split))
    pixels = torch.randint(0, 256, (count, spec.channels, spec.height, spec.width), generator=generator)
    return dataclasses.replace(toy_images(spec, count, split=split), pixels=pixels.to(torch.uint8))


def subject_of(spec: ModelSpec, rounding: Rounding = "round_to_nearest") -> Subject:
    network = to_inference(initialised(spec, seed=0))
    ranges = calibrate(network, images_of(spec, 8, "train"), batch_size=8, seed=0)
    return Subject(spec, network, data_spec("digits"), ranges, rounding, 7)


def batch_of(spec: ModelSpec, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    images = images_of(spec, count)
    return images.prepared(), images.indices


def neighbours(subject: Subject) -> list[Mapping[str, int]]:
    """List candidates that share beginnings: a common width, one site changed at a time, and the first one again."""
    common = dict.fromkeys(subject.sites, 4)
    return [common, *({**common, site: 3} for site in subject.sites[:: len(subject.sites) // 6]), common]


def scores_of(subject: Subject, widths: Mapping[str, int], memory: StageMemory, seed: int = 7) -> torch.Tensor:
    with running(subject, subject.plan(widths), memory) as run:
        return run(0, *batch_of(subject.model), seed)


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "stochastic_rounding", "logarithmic"])
@pytest.mark.parametrize("spec", [FOLDED, ROUTED], ids=["folded", "routed"])
def test_a_candidate_scores_as_its_plan_applied_by_hand(spec: ModelSpec, rounding: Rounding) -> None:
    subject = toy_subject(spec, rounding)
    plan = subject.common_width(5)
    pixels, indices = batch_of(spec)
    with running(subject, plan, StageMemory(0, 6)) as run:
        found = run(0, pixels, indices, 9)
    network = toy_network(spec)
    with weights_replaced(network, round_weights(network, plan, subject.seed).tensors), torch.inference_mode():
        expected = ArrayRounder(plan, 9).forward(network, pixels, indices).scores
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", SPECS)
def test_memory_never_changes_a_score(name: str) -> None:
    subject = subject_of(SPECS[name])
    shared = StageMemory(PLENTY, 6)
    for widths in neighbours(subject):
        assert torch.equal(scores_of(subject, widths, shared), scores_of(subject, widths, StageMemory(0, 6)))


def test_memory_never_mixes_the_draws_of_seeds() -> None:
    subject = toy_subject(rounding="stochastic_rounding")
    widths, shared = dict.fromkeys(subject.sites, 3), StageMemory(PLENTY, 6)
    for seed in (7, 8, 7):
        expected = scores_of(subject, widths, StageMemory(0, 6), seed)
        assert torch.equal(scores_of(subject, widths, shared, seed), expected)


def test_memory_never_mixes_batches() -> None:
    subject, shared = toy_subject(), StageMemory(PLENTY, 6)
    pixels, indices = batch_of(ROUTED)
    with running(subject, subject.common_width(4), shared) as run:
        there, turned = run(0, pixels, indices, 7), run(1, pixels.flip(0), indices.flip(0), 7)
    assert torch.allclose(there, turned.flip(0), atol=1e-6)
    assert not torch.equal(there, turned)


def test_memory_never_mixes_networks() -> None:
    subject, shared = toy_subject(), StageMemory(PLENTY, 6)
    network = toy_network(ROUTED)
    network.stages["conv1"].conv.bias += 0.5
    other = dataclasses.replace(subject, network=network)
    widths = dict.fromkeys(subject.sites, 32)
    before = scores_of(subject, widths, shared)
    assert not torch.equal(before, scores_of(other, widths, shared))


def stages_run(subject: Subject) -> list[str]:
    """Note the name of every stage that runs from now on."""
    ran: list[str] = []
    for name, stage in subject.network.stages.items():
        stage.register_forward_pre_hook(lambda _module, _args, name=name: ran.append(name))
    return ran


def test_a_shared_beginning_is_run_once() -> None:
    subject, memory = toy_subject(FOLDED), StageMemory(PLENTY, 6)
    common = dict.fromkeys(subject.sites, 4)
    scores_of(subject, common, memory)
    ran = stages_run(subject)
    scores_of(subject, {**common, "primary.out": 5}, memory)
    assert ran == ["primary", "class_caps"]
    del ran[:]
    scores_of(subject, {**common, "conv2.bias": 5}, memory)
    assert ran == ["conv2", "conv3", "conv4", "primary", "class_caps"]
    del ran[:]
    scores_of(subject, common, memory)
    assert ran == ["class_caps"]


def test_without_memory_every_stage_runs() -> None:
    subject = toy_subject(FOLDED)
    scores_of(subject, dict.fromkeys(subject.sites, 4), StageMemory(0, 6))  # what is asked once runs the stages as well
    ran = stages_run(subject)
    for _ in range(2):
        scores_of(subject, dict.fromkeys(subject.sites, 4), StageMemory(0, 6))
    assert ran == 2 * list(subject.network.stages)


@pytest.mark.parametrize("memory_bytes", [0, PLENTY])
@pytest.mark.parametrize("rounding", ["round_to_nearest", "stochastic_rounding"])
def test_blocks_that_fit_the_cache_change_no_prediction(
    memory_bytes: int, rounding: Rounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = judged_images()
    pixels = images.prepared()

    def predictions() -> torch.Tensor:
        subject = toy_subject(rounding=rounding)
        assert subject.blocks(pixels) == blocks
        with running(subject, subject.common_width(4), StageMemory(memory_bytes, len(images))) as run:
            found = [run(0, pixels, images.indices, 8).argmax(1) for _ in range(2)]
        assert torch.equal(*found)
        return found[0]

    blocks = 1
    whole = predictions()
    blocks = 22
    monkeypatch.setattr(
        measure_module, "BLOCK_BYTES", 7 * 4 * 400
    )  # seven images with their largest array, 4 · 10 · 10
    assert torch.equal(predictions(), whole)


def state_of(subject: Subject) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}


@pytest.mark.parametrize("fails", [False, True])
def test_the_float_network_stays_as_it_was_bit_for_bit(fails: bool) -> None:
    subject = toy_subject(FOLDED)
    before, strides = state_of(subject), {n: p.stride() for n, p in subject.network.named_parameters()}
    untouched = subject.network(batch_of(FOLDED)[0]).scores

    def judge() -> None:
        with running(subject, subject.common_width(2), StageMemory(PLENTY, 6)) as run:
            assert not torch.equal(
                subject.network.state_dict()["stages.conv1.conv.weight"], before["stages.conv1.conv.weight"]
            )
            run(0, *batch_of(FOLDED), 7)
            if fails:
                run(1, torch.zeros(6, 2, 14, 14), batch_of(FOLDED)[1], 7)  # two channels where there is one

    if fails:
        with pytest.raises(RuntimeError, match="channel"):
            judge()
    else:
        judge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())
    assert {n: p.stride() for n, p in subject.network.named_parameters()} == strides
    assert not any(module.hook for module in subject.network.modules() if isinstance(module, Sites))
    assert not torch.is_inference_mode_enabled()
    assert not subject.network.training
    assert torch.equal(subject.network(batch_of(FOLDED)[0]).scores, untouched)


KEYS = st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 1))


@settings(deadline=None)
@given(st.integers(0, 400), st.lists(st.tuples(KEYS, st.integers(1, 30), st.booleans()), max_size=40))
def test_a_memory_stays_within_its_limit(limit_bytes: int, puts: list[tuple[tuple[str, int, int], int, bool]]) -> None:
    memory = StageMemory(limit_bytes, images=2)
    for key, values, pair in puts:
        tensor = torch.zeros(1, values)
        memory.put(key, (tensor, tensor[:, :1]) if pair else tensor)
        held = [memory.get(key) for key, _, _ in dict.fromkeys(puts)]
        unique = {id(value): value for value in held if value is not None}.values()
        sizes = [sum(4 * t.numel() for t in ((v,) if isinstance(v, torch.Tensor) else v)) for v in unique]
        assert sum(sizes) <= limit_bytes


def test_the_least_recently_used_output_is_forgotten_first() -> None:
    memory = StageMemory(40, images=1)  # room for four outputs of ten bytes each
    for number in range(4):
        memory.put(("a", number, 0), torch.zeros(1, 10, dtype=torch.uint8))
    assert memory.get(("a", 0, 0)) is not None
    memory.put(("a", 4, 0), torch.zeros(1, 10, dtype=torch.uint8))
    assert [number for number in range(5) if memory.get(("a", number, 0)) is None] == [1]


def test_what_was_put_first_under_a_key_stays() -> None:
    memory = StageMemory(100, images=1)
    memory.put(("a", 0, 0), torch.tensor([[1.0]]))
    memory.put(("a", 0, 0), torch.tensor([[2.0]]))
    assert torch.equal(memory.get(("a", 0, 0)), torch.tensor([[1.0]]))


@pytest.mark.parametrize(("values", "kept"), [(25, True), (26, False)])
def test_an_output_that_would_fill_too_much_over_all_images_is_not_kept(values: int, kept: bool) -> None:
    assert LARGEST_SHARE == 0.25
    memory = StageMemory(1000, images=10)  # 25 bytes of every image fill a quarter
    memory.put(("a", 0, 0), torch.zeros(4, values, dtype=torch.uint8))
    assert (memory.get(("a", 0, 0)) is not None) is kept


def test_without_room_nothing_is_kept() -> None:
    memory = StageMemory(0, images=1)
    memory.put(("a", 0, 0), torch.zeros(1, 1, dtype=torch.uint8))
    assert memory.get(("a", 0, 0)) is None
