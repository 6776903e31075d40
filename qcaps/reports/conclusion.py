"""The conclusion of a quantization: every promise judged, and one line that says it."""

from __future__ import annotations

from qcaps.config.sizes import format_size
from qcaps.quantization.formats import Float32
from qcaps.quantization.limits import Limits
from qcaps.reports.quantization import Conclusion, Promise, QuantizedModel, Score, SplitResult

# A split that allows fewer losses than this is too small for its tolerance.
FEW_LOSSES = 6


def judge_promises(models: tuple[QuantizedModel, ...], limits: Limits) -> tuple[Promise, ...]:
    """Judge what was asked for.

    Parameters
    ----------
    models
        One that satisfies the search, or two: the first within the budget, the second within the tolerance. Each
        promise is judged by the one made to keep it.
    limits
        The tolerance and the budget.
    """
    small, accurate = models[0], models[-1]
    promises = [
        _accuracy("accuracy on the search split", accurate.search),
        _accuracy("accuracy on the report split", accurate.report),
    ]
    if limits.budget_bytes is not None:
        size = limits.counted(small.file_bytes, small.payload_bytes)
        name = f"memory budget ({limits.budget_on})"
        promises.append(Promise(name, limits.budget_bytes, size, "bytes", size <= limits.budget_bytes))
    return tuple(promises)


def conclude(promises: tuple[Promise, ...], models: tuple[QuantizedModel, ...]) -> Conclusion:
    """Say in a word or two whether everything holds."""
    too_large = any(promise.unit == "bytes" and not promise.kept for promise in promises)
    if too_large or not models[0].search.passed:
        return "not satisfied"
    return "satisfied" if all(promise.kept for promise in promises) else "report split fails"


def message(conclusion: Conclusion, models: tuple[QuantizedModel, ...], limits: Limits, final: Score) -> str:
    """Say in one line what was reached, or what is missing and by how much.

    Parameters
    ----------
    conclusion, models, limits
        As above.
    final
        The float network on the report split.
    """
    small, accurate = models[0], models[-1]
    size = format_size(limits.counted(small.file_bytes, small.payload_bytes))
    found = small.report
    if conclusion == "satisfied":
        return (
            f"satisfied: {small.bits} bits in {size}, {found.score.correct} of {final.images} {final.split} images "
            f"({100 * found.score.accuracy:.2f} %) against {final.correct} ({100 * final.accuracy:.2f} %) in float"
        )
    if conclusion == "report split fails":
        return (
            f"report split fails: {found.lost - found.gained} images lost net on the {final.split} split, where "
            f"{found.allowed} are allowed, though the search split held; a larger --margin keeps more in reserve"
        )
    parts = []
    if not small.search.passed:
        missing = small.search.lost - small.search.gained - small.search.allowed
        parts.append(f"{small.file} ({small.bits} bits, {size}) loses {missing} search images too many")
    accurate_bytes = limits.counted(accurate.file_bytes, accurate.payload_bytes)
    if limits.budget_bytes is not None and accurate_bytes > limits.budget_bytes:
        over = format_size(accurate_bytes - limits.budget_bytes)
        parts.append(f"{accurate.file} ({accurate.bits} bits) is {over} over the budget")
    return f"not satisfied: {'; '.join(parts)}"


def warnings(models: tuple[QuantizedModel, ...], uniform_note: str) -> tuple[str, ...]:
    """Collect what a reader must know before trusting the figures."""
    found = []
    if models[-1].bits == Float32.bits:
        found.append(f"no width of this rounding holds the tolerance: {models[-1].file} is float32")
    for result in (models[0].search, models[0].report):
        if result.allowed < FEW_LOSSES:
            found.append(
                f"the {result.score.split} split of {result.score.images} images allows only {result.allowed} net "
                "losses: it is too small for this tolerance"
            )
    return (*found, *((uniform_note,) if uniform_note else ()))


def _accuracy(name: str, result: SplitResult) -> Promise:
    return Promise(name, result.allowed, result.lost - result.gained, "images lost", result.passed)
