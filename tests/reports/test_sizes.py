from __future__ import annotations

import dataclasses

import pytest
from toy_search import toy_bench, toy_subject, toy_task
from toys import NORMED, ROUTED

from qcaps.models.network import parameter_count
from qcaps.models.spec import build, preset
from qcaps.reports.sizes import float_sizes, reference_count, trial_sizes

# conv1; votes, sum and out of 27 · 4 primary capsules and one coupling; then what the 3 class capsules have.
VOTES, LOGITS, COUPLING, SUM, OUT = 27 * 3 * 4, 27 * 3, 27 * 3, 12, 12
ARRAYS = 400 + 3 * 108 + 1 + VOTES + LOGITS + COUPLING + SUM + OUT
PEAK = max(400 + 108, VOTES + LOGITS + COUPLING + SUM + OUT)


def test_shallow_capsnet_in_float_has_the_published_sizes() -> None:
    found = float_sizes(preset("shallow-capsnet").spec)
    assert found.weights == 27_217_536
    assert found.peak == 4 * 207_680
    # 102,400, the primary capsules three times and their coupling, the class capsules.
    assert found.arrays == 4 * (102_400 + 3 * 9_216 + 1 + 207_680)
    assert (found.weight_bits, found.array_bits) == (32, 32)


def test_running_statistics_belong_to_the_float_network() -> None:
    norms = sum(NORMED.conv_channels)
    assert float_sizes(NORMED).weights == 4 * (parameter_count(build(NORMED)) + 2 * norms)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_plan_of_one_width_shrinks_all_arrays_by_it(bits: int) -> None:
    subject = toy_subject()
    with toy_bench() as bench:
        task = toy_task(bench, subject)
        found = trial_sizes(task.trial(dict.fromkeys(subject.sites, bits)))
    assert (found.arrays, found.array_values, found.peak) == (ARRAYS * bits / 8, ARRAYS, PEAK * bits / 8)
    assert found.array_bits == bits


def test_the_mean_bits_of_a_weight_count_its_scales() -> None:
    subject = toy_subject()
    with toy_bench() as bench:
        found = trial_sizes(toy_task(bench, subject).trial(dict.fromkeys(subject.sites, 8)))
    tensors = len(subject.calibration.weights)
    values = sum(r.values for r in subject.calibration.weights.values())
    assert found.weights == values + tensors  # a byte each, and one for every scale
    assert found.weight_bits == pytest.approx(8 * (values + tensors) / values)


def test_q_capsnets_counts_parameters_at_their_width_and_the_outputs_of_layers() -> None:
    subject = toy_subject()
    widths = dict.fromkeys(subject.sites, 8) | {"class_caps.weight": 4, "conv1.out": 6, "class_caps.out@3": 3}
    with toy_bench() as bench:
        found = reference_count(toy_task(bench, subject).trial(widths), ROUTED)
    parameters, class_weights = sum(r.values for r in subject.calibration.weights.values()), 27 * 3 * 4 * 4
    assert found.weight_bytes == parameters - class_weights / 2
    assert found.weight_ratio == 4 * parameters / found.weight_bytes
    # The image of 14x14 is charged like conv1; of the class capsules the output of the last pass alone counts.
    values, bits = 196 + 400 + 108 + OUT, 6 * (196 + 400) + 8 * 108 + 3 * OUT
    assert found.activation_ratio == pytest.approx(32 * values / bits)
    assert found.label == "reference accounting"


def test_a_plan_of_q_capsnets_says_what_it_could_not_store() -> None:
    subject = dataclasses.replace(toy_subject(), reference=True)
    with toy_bench() as bench:
        found = reference_count(toy_task(bench, subject).trial(dict.fromkeys(subject.sites, 8)), ROUTED)
    assert found.label.startswith("reference accounting, not storable: ")


def test_the_peak_follows_the_widest_iteration() -> None:
    subject = toy_subject()
    widths = dict.fromkeys(subject.sites, 4) | {"class_caps.coupling@3": 8}
    with toy_bench() as bench:
        found = trial_sizes(toy_task(bench, subject).trial(widths))
    assert found.peak == (VOTES + LOGITS + 2 * COUPLING + SUM + OUT) * 4 / 8
    assert float_sizes(ROUTED).peak == 4 * PEAK
