from __future__ import annotations

import dataclasses

import pytest
from toy_search import IMAGES, toy_bench, toy_subject, toy_task
from toys import ROUTED

from qcaps.models.network import array_sites, weight_sites
from qcaps.models.spec import build, image_of, preset
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.search.common_width import search_common_width
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.task import Found
from qcaps.reports.searches import search_facts, search_row, sequential_image_forwards
from qcaps.reports.sizes import float_sizes

NOTHING = Found(None, None, None, ())
IN_FLOAT = float_sizes(ROUTED)


def test_the_facts_are_those_of_the_task_and_of_its_ledger() -> None:
    ledger = Ledger({"a": 64, "b": 150}, extra=200, tests=3)
    with toy_bench() as bench:
        task = toy_task(bench, toy_subject(rounding="stochastic_rounding", per_channel=True))
        found = dataclasses.replace(NOTHING, stopped="time budget", details={"path": "A"})
        facts = search_facts("pareto", task, found, ledger, folded=True, prepared=True, evaluation_path="integers")
    assert (facts.strategy, facts.rounding, facts.scales) == ("pareto", "stochastic_rounding", "channel")
    assert (facts.seeds, facts.plans_tried, facts.stopped_early) == ((7, 8, 9), 0, "time budget")
    assert (facts.image_forwards, facts.without_rejection, facts.whole) == (414, 200 + 2 * IMAGES, 200 + 3 * 3 * IMAGES)
    assert (facts.evaluation_path, facts.batch_norm_folded, facts.prepared) == ("integers", True, True)
    assert facts.details == {"path": "A"}


# 9 + 2L + 2R evaluations of 100 images; blocks L, of which R have a routing of several passes.
@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("shallow-capsnet", 9 + 6 + 2), ("deepcaps", 9 + 12 + 4), ("efficient-capsnet", 9 + 12)],
)
def test_the_sequential_search_costs_what_its_blocks_ask_for(name: str, evaluations: int) -> None:

    spec = preset(name).spec
    network = build(spec).eval()
    sites = Calibration(dict.fromkeys(weight_sites(network)), dict.fromkeys(array_sites(network, image_of(spec))))
    subject = dataclasses.replace(toy_subject(), network=network, calibration=sites)
    assert sequential_image_forwards(subject, 100) == 100 * evaluations


def test_every_seed_costs_the_sequential_search_as_much() -> None:
    one, three = toy_subject(), toy_subject(rounding="stochastic_rounding")
    assert sequential_image_forwards(three, 100) == 3 * sequential_image_forwards(one, 100)


def test_a_row_describes_the_model_that_satisfies() -> None:
    with toy_bench() as bench:
        task = toy_task(bench, allowed=IMAGES)
        found = search_common_width(task)
        row = search_row("common-width", task, found, Ledger({"a": 64}, extra=10, tests=2), IN_FLOAT)
    assert found.satisfied is not None
    trial = found.satisfied
    assert (row.key, row.satisfied, row.file_bytes) == ("common-width, round_to_nearest", True, len(trial.file))
    assert (row.payload_bytes, row.weight_ratio) == (trial.payload_bytes, IN_FLOAT.weights / trial.payload_bytes)
    assert (row.activation_bytes, row.activation_bits, row.activation_ratio) == (trial.activation_bytes, 2, 16)
    assert row.net_losses == trial.verdict.lost - trial.verdict.gained
    assert row.search_accuracy == trial.measurements[0].correct / IMAGES
    assert (row.image_forwards, row.without_rejection, row.whole) == (74, 10 + IMAGES, 10 + 2 * IMAGES)


def test_where_nothing_satisfies_the_row_describes_the_model_that_keeps_the_accuracy() -> None:
    with toy_bench() as bench:
        task = toy_task(bench, allowed=0, memory_budget=10)
        found = search_common_width(task)
        row = search_row("common-width", task, found, Ledger(), IN_FLOAT)
    assert found.satisfied is None
    assert (row.satisfied, row.payload_bytes) == (False, found.accuracy.payload_bytes)


def test_a_search_that_found_nothing_has_no_row() -> None:
    with toy_bench() as bench:
        assert search_row("pareto", toy_task(bench), NOTHING, Ledger(), IN_FLOAT) is None
