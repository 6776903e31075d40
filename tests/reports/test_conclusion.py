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
MEMORY = toy_model("memory.pt", bits=3, search=TOO_LOSSY)
ACCURACY = toy_model("accuracy.pt", bits=7, file_bytes=141_555, payload_bytes=130_000)


def limits(budget: int | None = None, on: Literal["file", "payload"] = "file") -> Limits:
    return Limits(Tolerance(Decimal("1")), budget, on)


def concluded(models: tuple[QuantizedModel, ...], limits: Limits) -> tuple[str, str]:
    conclusion = conclude(judge_promises(models, limits), models)
    line = message(conclusion, models, limits, FINAL)
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


def test_of_two_models_each_is_judged_by_the_promise_it_was_made_for() -> None:
    search, _, budget = judge_promises((MEMORY, ACCURACY), limits(100_000))
    assert (search.found, search.kept) == (3, True)
    assert (budget.found, budget.kept) == (90_500, True)


def test_satisfied_names_bits_bytes_and_both_scores() -> None:
    conclusion, line = concluded((ROOMY,), limits(100_000))
    assert conclusion == "satisfied"
    assert line == "satisfied: 4 bits in 90.500 kB, 894 of 1000 test images (89.40 %) against 901 (90.10 %) in float"


def test_satisfied_names_the_payload_where_that_has_the_budget() -> None:
    assert "4 bits in 81.250 kB" in concluded((ROOMY,), limits(100_000, "payload"))[1]


def test_a_failing_report_split_is_named_with_what_was_lost_and_allowed() -> None:
    model = toy_model(report=toy_split(14, 10, gained=3, split="test"))
    conclusion, line = concluded((model,), limits(100_000))
    assert conclusion == "report split fails"
    assert "11 images lost net on the test split, where 10 are allowed" in line
    assert "--margin" in line


def test_two_models_are_never_satisfied_and_the_distances_of_both_are_named() -> None:
    conclusion, line = concluded((MEMORY, ACCURACY), limits(100_000))
    assert conclusion == "not satisfied"
    assert "memory.pt (3 bits, 90.500 kB) loses 10 search images too many" in line
    assert "accuracy.pt (7 bits) is 41.555 kB over the budget" in line


def test_the_distance_to_a_payload_budget_is_counted_on_the_payload() -> None:
    line = concluded((MEMORY, ACCURACY), limits(100_000, "payload"))[1]
    assert "memory.pt (3 bits, 81.250 kB)" in line
    assert "accuracy.pt (7 bits) is 30.000 kB over the budget" in line


def test_a_failing_search_split_is_not_satisfied_though_the_report_split_holds() -> None:
    conclusion, line = concluded((toy_model(search=TOO_LOSSY),), limits())
    assert conclusion == "not satisfied"
    assert "satisfied.pt (4 bits, 90.500 kB) loses 10 search images too many" in line


def test_a_model_over_the_budget_is_not_satisfied_though_both_splits_hold() -> None:
    conclusion, line = concluded((ACCURACY,), limits(100_000))
    assert conclusion == "not satisfied"
    assert line == "not satisfied: accuracy.pt (7 bits) is 41.555 kB over the budget"


def test_a_float_network_that_fails_itself_is_not_called_too_large() -> None:
    fallback = toy_model("accuracy.pt", bits=32, search=TOO_LOSSY)
    conclusion, line = concluded((toy_model("memory.pt", bits=32, search=TOO_LOSSY), fallback), limits(100_000))
    assert conclusion == "not satisfied"
    assert "over the budget" not in line
    assert "loses 10 search images too many" in line


def test_a_split_that_allows_few_losses_is_warned_of() -> None:
    model = toy_model(search=toy_split(0, 5), report=toy_split(0, 6, split="test"))
    (found,) = warnings((model,), "")
    assert "the validation split of 1000 images allows only 5 net losses" in found


def test_both_splits_may_be_too_small() -> None:
    model = toy_model(search=toy_split(0, 0), report=toy_split(0, 1, split="test"))
    first, second = warnings((model,), "")
    assert "validation" in first
    assert "test split" in second


def test_a_dead_router_is_warned_of() -> None:
    assert warnings((ROOMY,), "routing is off") == ("routing is off",)
    assert warnings((ROOMY,), "") == ()
