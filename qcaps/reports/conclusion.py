"""The conclusion of a quantization: every promise judged, and one line that says it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qcaps.config.sizes import format_size
from qcaps.quantization.formats import Float32
from qcaps.quantization.limits import Limits
from qcaps.reports.quantization import Conclusion, Promise, QuantizedModel, Score, SplitResult

# A split that allows fewer losses than this is too small for its tolerance.
FEW_LOSSES = 6
RESERVE = "a larger --margin keeps more in reserve"


def judge_promises(
    models: tuple[QuantizedModel, ...], limits: Limits, confidence: float | None = None
) -> tuple[Promise, ...]:
    """Judge what was asked for.

    Parameters
    ----------
    models
        One that satisfies the search, or two: the first within the budgets, the second within the tolerance. Each
        promise is judged by the one made to keep it.
    limits
        The tolerance and the budgets.
    confidence
        In percent, with which the report split has to show the accuracy; None: what was counted decides.
    """
    small, accurate = models[0], models[-1]
    report = "accuracy on the report split"
    promises = [
        _accuracy("accuracy on the search split", accurate.search),
        _accuracy(report, accurate.report)
        if confidence is None
        else _proven(f"{report} at {confidence:g} %", accurate.report),
    ]
    if limits.budget_bytes is not None:
        size = limits.counted(small.file_bytes, small.payload_bytes)
        promises.append(_size(f"memory budget ({limits.budget_on})", limits.budget_bytes, size))
    if limits.activation_budget is not None:
        promises.append(_size("activation budget", limits.activation_budget, math.ceil(small.activation_bytes)))
    return tuple(promises)


def conclude(promises: tuple[Promise, ...], models: tuple[QuantizedModel, ...]) -> Conclusion:
    """Say in a word or two whether everything holds."""
    too_large = any(promise.unit == "bytes" and not promise.kept for promise in promises)
    if too_large or not models[0].search.passed:
        return "not satisfied"
    if all(promise.kept for promise in promises):
        return "satisfied"
    return "not proven" if models[0].report.passed else "report split fails"


def message(
    conclusion: Conclusion,
    models: tuple[QuantizedModel, ...],
    limits: Limits,
    final: Score,
    *,
    confidence: float | None = None,
    stopped_early: str = "",
) -> str:
    """Say in one line what was reached, or what is missing and by how much.

    Parameters
    ----------
    conclusion, models, limits, confidence
        As above.
    final
        The float network on the report split.
    stopped_early
        What ended the search before it was done, or nothing.
    """
    if conclusion == "satisfied":
        said = _reached(models[0], limits, final)
        said += "" if confidence is None else f", proven at {confidence:g} %"
    elif conclusion == "not satisfied":
        said = "; ".join(_missing(models, limits))
    else:
        said = _unproven(models[0].report, final.split, confidence if conclusion == "not proven" else None)
    return f"{conclusion}: {said}" + (f"; the search was stopped early: {stopped_early}" if stopped_early else "")


def warnings(models: tuple[QuantizedModel, ...], notes: Sequence[str] = ()) -> tuple[str, ...]:
    """Collect what a reader must know before trusting the figures; `notes` are those on routing and searches."""
    found = []
    if min(models[-1].weight_bits, models[-1].activation_bits) >= Float32.bits:
        found.append(f"no width of this rounding holds the tolerance: {models[-1].file} is float32")
    for result in (models[0].search, models[0].report):
        if result.allowed < FEW_LOSSES:
            found.append(
                f"the {result.score.split} split of {result.score.images} images allows only {result.allowed} net "
                "losses: it is too small for this tolerance"
            )
    return (*found, *notes)


def _accuracy(name: str, result: SplitResult) -> Promise:
    return Promise(name, result.allowed, result.lost - result.gained, "images lost", result.passed)


def _proven(name: str, result: SplitResult) -> Promise:
    """Compare the bound of the drop, in images, with what is accepted; inconclusive is not kept."""
    images, compared = result.score.images, result.comparison
    kept = result.passed and compared.verdict == "pass"
    return Promise(name, images * result.margin, images * compared.bound, "images lost at most", kept)


def _size(name: str, budget: int, found: int) -> Promise:
    return Promise(name, budget, found, "bytes", found <= budget)


def _reached(model: QuantizedModel, limits: Limits, final: Score) -> str:
    size = format_size(limits.counted(model.file_bytes, model.payload_bytes))
    score = model.report.score
    return (
        f"{_bits(model)}, {size}, {score.correct:,} of {final.images:,} {final.split} images "
        f"({100 * score.accuracy:.2f} %) against {final.correct:,} ({100 * final.accuracy:.2f} %) in float"
    )


def _unproven(found: SplitResult, split: str, confidence: float | None) -> str:
    lost = f"{found.lost - found.gained:,} images lost net on the {split} split, where {found.allowed:,} are allowed"
    if confidence is None:
        return f"{lost}, though the search split held; {RESERVE}"
    most = found.score.images * found.comparison.bound
    return f"{lost}, but it may be up to {most:.1f} at {confidence:g} % confidence; {RESERVE}"


def _missing(models: tuple[QuantizedModel, ...], limits: Limits) -> list[str]:
    small, accurate = models[0], models[-1]
    parts = []
    if not small.search.passed:
        missing = small.search.lost - small.search.gained - small.search.allowed
        size = format_size(limits.counted(small.file_bytes, small.payload_bytes))
        parts.append(f"{small.file} ({_bits(small)}, {size}) loses {missing:,} search images too many")
    accurate_bytes = limits.counted(accurate.file_bytes, accurate.payload_bytes)
    if limits.budget_bytes is not None and accurate_bytes > limits.budget_bytes:
        over = format_size(accurate_bytes - limits.budget_bytes)
        parts.append(f"{accurate.file} ({_bits(accurate)}) is {over} over the memory budget")
    if limits.activation_budget is not None and accurate.activation_bytes > limits.activation_budget:
        over = format_size(math.ceil(accurate.activation_bytes) - limits.activation_budget)
        parts.append(f"{accurate.file} ({_bits(accurate)}) is {over} over the activation budget")
    return parts


def _bits(model: QuantizedModel) -> str:
    return f"{model.weight_bits:.1f} bits a weight, {model.activation_bits:.1f} an activation"
