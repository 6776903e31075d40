"""What a search spends."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Image-forwards spent; what the journal already knew counts like anything else, so that a repeat says the same.

    Parameters
    ----------
    images
        Content key of a candidate and seed → images that its verdicts needed.
    extra
        Beside verdicts: the float pass and the sensitivity.
    tests
        Verdicts asked for, repeated ones included.
    whole
        What these tests would have cost with neither early rejection nor a journal.
    """

    images: dict[str, int] = field(default_factory=dict)
    extra: int = 0
    tests: int = 0
    whole: int = 0

    def count(self, key: str, images: int) -> None:
        """Note that a verdict needed the first `images` images of a candidate."""
        self.images[key] = max(images, self.images.get(key, 0))

    @property
    def image_forwards(self) -> int:
        """Count distinct pairs of candidate and image."""
        return self.extra + sum(self.images.values())

    def without_rejection(self, split: int) -> int:
        """Count what whole evaluations of the same distinct candidates on `split` images would have cost."""
        return self.extra + split * len(self.images)
