from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pytest
from toy_reports import toy_model, toy_split

from qcaps.evaluation.tolerance import Tolerance
from qcaps.quantization.limits import Limits
from qcaps.reports.conclusion import conclude, judge_promises, message, warnings
from qcaps.reports.quantization import QuantizedModel, Score

FINAL = Score("test", 1000, 901, 0.901, (0.881, 0.918))
ROOMY = toy_model()
TOO_LOSSY = toy_split(21, 9, gained=2)
MEMORY = toy_model("memory.pt", weight_bits=3, search=TOO_LOSSY)
ACCURACY = toy_model("accuracy.pt", weight_bits=7, file_bytes=141_555, payload_bytes=130_000, activation_bytes=2_000.25)
BITS, ACCURACY_BITS = "3.0 bits a weight, 5.1 an activation", "7.0 bits a weight, 5.1 an activation"


def limits(
    budget: int | None = None, on: Literal["file", "payload"] = "file", activations: int | None = None
) -> Limits:
    return Limits(Tolerance(Decimal("1")), budget, on, activations)


def concluded(
    models: tuple[QuantizedModel, ...], limits: Limits, *, confidence: float | None = None, stopped_early: str = ""
) -> tuple[str, str]:
    conclusion = conclude(judge_promises(models, limits, confidence), models)
    line = message(conclusion, models, limits, FINAL, confidence=confidence, stopped_early=stopped_early)
    assert line.startswith(f"{conclusion}: ")
    assert line.isprintable()
    return conclusion, line


def test_every_split_has_its_promise() -> None:
    search, report = judge_promises((ROOMY,), limits())
    assert (search.name, search.limit, search.found, search.kept) == ("accuracy on the search split", 9, 3, True)
    assert (report.name, report.limit, report.found, report.kept) == ("accuracy on the report split", 10, 6, True)
    assert search.unit == report.unit == "images lost"


@pytest.mark.parametrize(
    ("budget", "on", "found", "kept"),
    [
        (90_500, "file", 90_500, True),
        (90_499, "file", 90_500, False),
        (81_250, "payload", 81_250, True),
        (81_249, "payload", 81_250, False),
    ],
)
def test_a_budget_is_a_promise_on_the_size_it_counts(
    budget: int, on: Literal["file", "payload"], found: int, kept: bool
) -> None:
    promise = judge_promises((ROOMY,), limits(budget, on))[-1]
    assert (promise.name, promise.unit) == (f"memory budget ({on})", "bytes")
    assert (promise.limit, promise.found, promise.kept) == (budget, found, kept)


@pytest.mark.parametrize(("budget", "kept"), [(1235, True), (1234, False)])
def test_a_budget_of_activations_is_a_promise_of_its_own(budget: int, kept: bool) -> None:
    promise = judge_promises((ROOMY,), limits(activations=budget))[-1]
    assert (promise.name, promise.limit, promise.found, promise.kept) == ("activation budget", budget, 1235, kept)


def test_of_two_models_each_is_judged_by_the_promise_it_was_made_for() -> None:
    search, _, budget = judge_promises((MEMORY, ACCURACY), limits(100_000))
    assert (search.found, search.kept) == (3, True)
    assert (budget.found, budget.kept) == (90_500, True)


def test_satisfied_names_bits_bytes_and_both_scores() -> None:
    conclusion, line = concluded((ROOMY,), limits(100_000))
    assert conclusion == "satisfied"
    assert line == (
        "satisfied: 2.4 bits a weight, 5.1 an activation, 90.500 kB, 894 of 1,000 test images (89.40 %) against 901 "
        "(90.10 %) in float"
    )


def test_satisfied_names_the_payload_where_that_has_the_budget() -> None:
    assert "activation, 81.250 kB" in concluded((ROOMY,), limits(100_000, "payload"))[1]


def test_a_failing_report_split_is_named_with_what_was_lost_and_allowed() -> None:
    model = toy_model(report=toy_split(14, 10, gained=3, split="test"))
    conclusion, line = concluded((model,), limits(100_000))
    assert conclusion == "report split fails"
    assert "11 images lost net on the test split, where 10 are allowed" in line
    assert "--margin" in line


def test_two_models_are_never_satisfied_and_the_distances_of_both_are_named() -> None:
    conclusion, line = concluded((MEMORY, ACCURACY), limits(100_000))
    assert conclusion == "not satisfied"
    assert f"memory.pt ({BITS}, 90.500 kB) loses 10 search images too many" in line
    assert f"accuracy.pt ({ACCURACY_BITS}) is 41.555 kB over the memory budget" in line


def test_the_distance_to_a_payload_budget_is_counted_on_the_payload() -> None:
    line = concluded((MEMORY, ACCURACY), limits(100_000, "payload"))[1]
    assert f"memory.pt ({BITS}, 81.250 kB)" in line
    assert f"accuracy.pt ({ACCURACY_BITS}) is 30.000 kB over the memory budget" in line


def test_the_distance_to_a_budget_of_activations_is_named() -> None:
    conclusion, line = concluded((MEMORY, ACCURACY), limits(activations=1500))
    assert conclusion == "not satisfied"
    assert f"accuracy.pt ({ACCURACY_BITS}) is 501 B over the activation budget" in line
    assert "memory budget" not in line


def test_a_failing_search_split_is_not_satisfied_though_the_report_split_holds() -> None:
    conclusion, line = concluded((toy_model(search=TOO_LOSSY),), limits())
    assert conclusion == "not satisfied"
    assert "satisfied.pt (2.4 bits a weight, 5.1 an activation, 90.500 kB) loses 10 search images too many" in line


def test_a_model_over_the_budget_is_not_satisfied_though_both_splits_hold() -> None:
    conclusion, line = concluded((ACCURACY,), limits(100_000))
    assert conclusion == "not satisfied"
    assert line == f"not satisfied: accuracy.pt ({ACCURACY_BITS}) is 41.555 kB over the memory budget"


def test_a_float_network_that_fails_itself_is_not_called_too_large() -> None:
    fallback = toy_model("accuracy.pt", weight_bits=32, search=TOO_LOSSY)
    conclusion, line = concluded((toy_model("memory.pt", weight_bits=32, search=TOO_LOSSY), fallback), limits(100_000))
    assert conclusion == "not satisfied"
    assert "over the" not in line
    assert "loses 10 search images too many" in line


# 7 lost and 1 gained of 1,000: by Tango's score interval the drop is at most 1.20 points.
def test_an_inconclusive_claim_is_not_kept_where_a_confidence_is_asked_for() -> None:
    models = (ROOMY,)
    assert models[0].report.comparison.verdict == "inconclusive"
    promise = judge_promises(models, limits(), 95)[1]
    assert (promise.name, promise.unit) == ("accuracy on the report split at 95 %", "images lost at most")
    assert (promise.limit, promise.kept) == (10, False)
    assert promise.found == pytest.approx(12.0, abs=0.05)
    conclusion, line = concluded(models, limits(), confidence=95)
    assert conclusion == "not proven"
    assert (
        "6 images lost net on the test split, where 10 are allowed, but it may be up to 12.0 at 95 % confidence" in line
    )


def test_a_claim_that_passes_keeps_the_promise_and_says_so() -> None:
    models = (toy_model(report=toy_split(7, 10, gained=1, split="test", confidence=0.8)),)
    conclusion, line = concluded(models, limits(), confidence=80)
    assert conclusion == "satisfied"
    assert line.endswith("in float, proven at 80 %")


def test_what_was_counted_fails_before_any_statistics() -> None:
    models = (toy_model(report=toy_split(14, 10, gained=3, split="test")),)
    assert concluded(models, limits(), confidence=95)[0] == "report split fails"


def test_a_search_that_was_stopped_early_says_what_ended_it_whatever_the_conclusion() -> None:
    for models in ((ROOMY,), (MEMORY, ACCURACY), (toy_model(report=toy_split(14, 10, split="test")),)):
        line = concluded(models, limits(100_000), stopped_early="time budget")[1]
        assert line.endswith("; the search was stopped early: time budget")


def test_a_split_that_allows_few_losses_is_warned_of() -> None:
    model = toy_model(search=toy_split(0, 5), report=toy_split(0, 6, split="test"))
    (found,) = warnings((model,))
    assert "the validation split of 1000 images allows only 5 net losses" in found


def test_both_splits_may_be_too_small() -> None:
    model = toy_model(search=toy_split(0, 0), report=toy_split(0, 1, split="test"))
    first, second = warnings((model,))
    assert "validation" in first
    assert "test split" in second


def test_a_result_that_is_float_throughout_is_warned_of() -> None:
    (found,) = warnings((toy_model("accuracy.pt", weight_bits=32, activation_bits=32),))
    assert found == "no width of this rounding holds the tolerance: accuracy.pt is float32"
    assert warnings((toy_model(weight_bits=32),)) == ()


def test_a_dead_router_is_warned_of() -> None:
    assert warnings((ROOMY,), ("routing is off", "every logit is 0")) == ("routing is off", "every logit is 0")
