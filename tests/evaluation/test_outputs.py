from __future__ import annotations

import torch

from qcaps.evaluation.outputs import Outputs
from qcaps.models.network import Output


def test_batches_are_joined_in_their_order():
    noted, scores = Outputs(), torch.rand(5, 3)
    capsules = torch.rand(5, 3, 4)
    for part in (slice(0, 2), slice(2, 5)):
        noted.see(Output(scores[part], capsules[part]))
    assert torch.equal(noted.scores, scores)
    assert torch.equal(noted.capsules, capsules)


def test_some_images_are_taken_out_by_their_position():
    noted, scores = Outputs(), torch.rand(5, 3)
    noted.see(Output(scores, scores.unsqueeze(2)))
    some = noted.of(torch.tensor([4, 0]))
    assert torch.equal(some.scores, scores[[4, 0]])
    assert torch.equal(some.capsules, scores[[4, 0]].unsqueeze(2))
