"""What a search must keep: the tolerance and the budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcaps.evaluation.tolerance import Tolerance


@dataclass(frozen=True)
class Limits:
    """The tolerance, and the largest sizes in bytes; None for no budget.

    Parameters
    ----------
    tolerance
        Accuracy that may be lost.
    budget_bytes, budget_on
        Largest file, or largest payload.
    activation_budget
        Largest sum of all arrays of one image.
    """

    tolerance: Tolerance
    budget_bytes: int | None
    budget_on: Literal["file", "payload"]
    activation_budget: int | None = None

    def counted(self, file_bytes: int, payload_bytes: int) -> int:
        """Give the size that the budget limits."""
        return file_bytes if self.budget_on == "file" else payload_bytes

    def fits_memory(self, file_bytes: int, payload_bytes: int) -> bool:
        """Tell whether a size is within the memory budget."""
        return self.budget_bytes is None or self.counted(file_bytes, payload_bytes) <= self.budget_bytes

    def fits(self, file_bytes: int, payload_bytes: int, activation_bytes: float) -> bool:
        """Tell whether a plan is within both budgets."""
        within = self.activation_budget is None or activation_bytes <= self.activation_budget
        return within and self.fits_memory(file_bytes, payload_bytes)
