"""What a search must keep: the tolerance and the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcaps.evaluation.tolerance import Tolerance


@dataclass(frozen=True)
class Limits:
    """The tolerance, and the largest file or payload in bytes; None for no budget."""

    tolerance: Tolerance
    budget_bytes: int | None
    budget_on: Literal["file", "payload"]

    def counted(self, file_bytes: int, payload_bytes: int) -> int:
        """Give the size that the budget limits."""
        return file_bytes if self.budget_on == "file" else payload_bytes

    def fits(self, file_bytes: int, payload_bytes: int) -> bool:
        """Tell whether a size is within the budget."""
        return self.budget_bytes is None or self.counted(file_bytes, payload_bytes) <= self.budget_bytes
