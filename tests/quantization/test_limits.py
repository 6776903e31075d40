from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pytest

from qcaps.evaluation.tolerance import Tolerance
from qcaps.quantization.limits import Limits


def limits(budget: int | None, on: Literal["file", "payload"] = "file") -> Limits:
    return Limits(Tolerance(Decimal("0.2")), budget, on)


def test_without_a_budget_every_size_fits() -> None:
    assert limits(None).fits(10**18, 10**18)


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)])
@pytest.mark.parametrize(("on", "other"), [("file", "payload"), ("payload", "file")])
def test_the_budget_itself_still_fits(on: Literal["file", "payload"], other: str, size: int, fits: bool) -> None:
    sizes = {f"{on}_bytes": size, f"{other}_bytes": 10_000 if fits else 1}
    assert limits(1000, on).fits(**sizes) is fits


def test_the_file_or_its_payload_is_counted() -> None:
    assert limits(1000, "file").counted(50, 40) == 50
    assert limits(1000, "payload").counted(50, 40) == 40
