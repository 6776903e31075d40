from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pytest

from qcaps.evaluation.tolerance import Tolerance
from qcaps.quantization.limits import Limits


def limits(budget: int | None, on: Literal["file", "payload"] = "file", activations: int | None = None) -> Limits:
    return Limits(Tolerance(Decimal("0.2")), budget, on, activations)


def test_without_budgets_every_size_fits() -> None:
    assert limits(None).fits(10**18, 10**18, 1e18)


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)])
@pytest.mark.parametrize(("on", "other"), [("file", "payload"), ("payload", "file")])
def test_the_memory_budget_itself_still_fits(on: Literal["file", "payload"], other: str, size: int, fits: bool) -> None:
    sizes = {f"{on}_bytes": size, f"{other}_bytes": 10_000 if fits else 1}
    assert limits(1000, on).fits_memory(**sizes) is fits
    assert limits(1000, on).fits(**sizes, activation_bytes=1e9) is fits


@pytest.mark.parametrize(("size", "fits"), [(99.5, True), (100.0, True), (100.125, False)])
def test_the_activation_budget_itself_still_fits(size: float, fits: bool) -> None:
    assert limits(None, activations=100).fits(10**18, 10**18, size) is fits


@pytest.mark.parametrize(("file", "activations", "fits"), [(1000, 100, True), (1001, 100, False), (1000, 101, False)])
def test_both_budgets_must_be_kept(file: int, activations: float, fits: bool) -> None:
    assert limits(1000, activations=100).fits(file, 0, activations) is fits


def test_memory_alone_ignores_activations() -> None:
    assert limits(1000, activations=1).fits_memory(1000, 900)


def test_the_file_or_its_payload_is_counted() -> None:
    assert limits(1000, "file").counted(50, 40) == 50
    assert limits(1000, "payload").counted(50, 40) == 40
