from __future__ import annotations

import dataclasses
import math
from decimal import Decimal

import pytest
from toy_search import judged_images, toy_bench, toy_subject, toy_task
from toys import ROUTED, toy_network

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.spec import data_spec
from qcaps.evaluation.measure import measure, predictor
from qcaps.evaluation.statistics import compare_paired
from qcaps.evaluation.tolerance import Tolerance
from qcaps.models.network import encoder_tensors
from qcaps.quantization.limits import Limits
from qcaps.quantization.loading import load
from qcaps.quantization.search.common_width import search_common_width
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.task import conclude
from qcaps.verbs.proof import Evidence, prove, winners_curse
from qcaps.verbs.quantize_search import Ran

# All images are judged as the float network sees them, but for a few: see `judged_images`.
REPORT = dataclasses.replace(judged_images(count=120), split="test")
LIMITS = Limits(Tolerance(Decimal(100)), None, "file")
SCORES = {"class_caps.weight": {2: 0.5, 4: 0.25}}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """Search a common width that may lose anything, and write what it found."""
    out = tmp_path_factory.mktemp("proof")
    with toy_bench() as bench:
        task = toy_task(bench, toy_subject(rounding="stochastic_rounding"), allowed=10_000)
        found = dataclasses.replace(search_common_width(task), scores=SCORES)
        ran = Ran("common-width", task, found, Ledger({"a": 64}, extra=150), 1.5)
        for name, trial in found.by_file().items():
            (out / name).write_bytes(trial.file)
        source = Checkpoint(ROUTED, encoder_tensors(toy_network(ROUTED)), data_spec("digits"), {})
        yield Evidence(source, ran, (), REPORT, out)


@pytest.fixture(scope="module")
def proven(evidence):
    return prove(evidence, LIMITS)[0]


def predictions(predict, images=REPORT):
    return measure(predict, images, batch_size=40).predictions


def test_the_report_split_is_scored_with_every_seed_from_the_file(evidence, proven):
    file = load(evidence.out / "satisfied.pt")
    hits = [predictions(file.predictor(seed=seed)) == REPORT.labels for seed in (7, 8, 9)]
    before = predictions(predictor(toy_network(ROUTED))) == REPORT.labels
    found = proven.result[0].report
    assert found.correct_by_seed == tuple(int(h.sum()) for h in hits)
    assert found.lost == sum(int((before & ~h).sum()) for h in hits)
    assert found.gained == sum(int((~before & h).sum()) for h in hits)
    assert found.comparison.lost == int((before & ~hits[0]).sum())


def test_every_class_says_what_it_lost_and_gained(evidence, proven):
    file = load(evidence.out / "satisfied.pt")
    after = predictions(file.predictor(seed=7)).tolist()
    before, labels = predictions(predictor(toy_network(ROUTED))).tolist(), REPORT.labels.tolist()
    expected = []
    for name in range(3):
        own = [(b == name, a == name) for b, a, label in zip(before, after, labels, strict=True) if label == name]
        lost, gained = own.count((True, False)), own.count((False, True))
        expected.append((str(name), len(own), sum(b for b, _ in own), lost, gained))
    assert [dataclasses.astuple(found) for found in proven.result[0].classes] == expected
    assert sum(found.lost for found in proven.result[0].classes) > 0


def test_every_site_has_the_damage_that_was_predicted_of_its_width(proven):
    found = {layer.site: (layer.bits, layer.sensitivity) for layer in proven.layers}
    assert found["class_caps.weight"] == (2, 0.5)
    assert found["conv1.weight"] == (2, None)


def test_saturation_is_counted_in_the_weights_and_on_the_report_split_with_the_own_seed(evidence, proven):
    rounder = load(evidence.out / "satisfied.pt").artifact.rounder(7)
    predictions(rounder.predictor(load(evidence.out / "satisfied.pt").network))
    shares = {layer.site: layer.saturated for layer in proven.layers}
    assert shares["class_caps.weight"] > 0
    assert shares["class_caps.votes"] > 0
    assert {site: counted.clamped / counted.values for site, counted in rounder.saturation.items()} == {
        layer.site: layer.saturated for layer in proven.layers if layer.group != "weights"
    }


def test_the_winners_curse_grows_with_the_plans_tried(evidence, proven):
    search = proven.result[0].search
    assert winners_curse(0.01, 1) == 0
    assert winners_curse(0.01, 8) == pytest.approx(0.01 * math.sqrt(2 * math.log(8)))
    assert proven.result[0].winners_curse == winners_curse(
        search.comparison.standard_error, len(evidence.ran.found.tried)
    )


def test_statistics_are_those_of_95_percent_unless_another_confidence_is_asked_for(evidence, proven):
    other = prove(dataclasses.replace(evidence, confidence=99.0), LIMITS)[0]
    for report, confidence in ((proven, 0.95), (other, 0.99)):
        found = report.result[0].report
        assert report.confidence == 100 * confidence
        assert found.comparison == compare_paired(
            lost=found.comparison.lost,
            gained=found.comparison.gained,
            images=len(REPORT),
            margin=found.margin,
            confidence=confidence,
        )
    assert [promise.name for promise in other.promises][1] == "accuracy on the report split at 99 %"


def test_the_accepted_drop_is_not_rounded_to_whole_images(evidence):
    limits = dataclasses.replace(LIMITS, tolerance=Tolerance(Decimal("0.7"), "absolute"))
    found = prove(evidence, limits)[0].result[0].report
    assert found.margin == pytest.approx(0.007)
    assert found.allowed == 2  # 3 seeds of 0.84 images


def test_what_is_measured_is_told_to_whoever_listens(evidence):
    told = []
    bench = evidence.ran.task.bench
    before, bench.on_progress = bench.on_progress, told.append
    try:
        prove(evidence, LIMITS)[0]
    finally:
        bench.on_progress = before
    assert list(dict.fromkeys(step.phase for step in told)) == [
        "report split: float",
        "report split: satisfied.pt",
        "uniform routing: quantized",
        "uniform routing: float",
        "routing: float",
        "routing: quantized",
    ]


def test_searches_are_compared_where_more_than_one_was_run(evidence, proven):
    other = dataclasses.replace(evidence.ran, name="pareto", ledger=Ledger({"a": 10}))
    nothing = dataclasses.replace(other, found=dataclasses.replace(other.found, satisfied=None, stopped="time budget"))
    report = prove(dataclasses.replace(evidence, others=(other, nothing)), LIMITS)[0]
    assert [row.key for row in report.comparison] == [
        "common-width, stochastic_rounding",
        "pareto, stochastic_rounding",
    ]
    assert [row.image_forwards for row in report.comparison] == [150 + 64, 10]
    assert report.warnings[-1] == "search pareto with stochastic_rounding found nothing: time budget"
    assert proven.comparison == ()


def test_a_search_that_ended_early_says_so_in_the_message(evidence):
    stopped = dataclasses.replace(evidence.ran, found=dataclasses.replace(evidence.ran.found, stopped="time budget"))
    report = prove(dataclasses.replace(evidence, ran=stopped), LIMITS)[0]
    assert report.search.stopped_early == "time budget"
    assert report.message.endswith("the search was stopped early: time budget")


def test_two_models_are_proven_each_by_its_own_file(tmp_path):
    source = Checkpoint(ROUTED, encoder_tensors(toy_network(ROUTED)), data_spec("digits"), {})
    with toy_bench() as bench:
        task = toy_task(bench)
        narrow, wide = (dict.fromkeys(task.subject.sites, bits) for bits in (2, 8))
        found = conclude(task, memory=narrow, accuracy=wide)
        for name, trial in found.by_file().items():
            (tmp_path / name).write_bytes(trial.file)
        ran = Ran("pareto", task, found, bench.ledger, 0.0)
        report = prove(Evidence(source, ran, (), REPORT, tmp_path), dataclasses.replace(LIMITS, budget_bytes=1))[0]
    memory, accuracy = report.result
    assert (memory.file, memory.activation_bits, accuracy.file, accuracy.activation_bits) == (
        "memory.pt",
        2,
        "accuracy.pt",
        8,
    )
    for model, widths in ((memory, narrow), (accuracy, wide)):
        assert model.payload_bytes == task.subject.payload_bytes(widths)
        right = predictions(load(tmp_path / model.file).predictor()) == REPORT.labels
        assert model.report.score.correct == int(right.sum())


def test_a_repeated_proof_is_the_same(evidence, proven):
    assert prove(evidence, LIMITS)[0] == proven
