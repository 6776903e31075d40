from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from qcaps.artifacts.container import read_container, write_container
from qcaps.errors import ArtifactError
from qcaps.training.state import EpochRecord, Position, pack_state, unpack_state

FIRST = EpochRecord(1, 0.1, 0.1 + 0.2, 1 / 3, validation_correct=4, validation_images=7)
SECOND = EpochRecord(2, 0.05, 1e-17, 0.0, validation_correct=6, validation_images=7)


def network_and_optimizer(inputs: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Sequential(nn.Linear(inputs, 4), nn.BatchNorm1d(4))
    return network, torch.optim.Adam(network.parameters(), lr=0.01)


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        network(torch.arange(15.0).reshape(5, 3).sin() + step).square().sum().backward()
        optimizer.step()


@pytest.fixture
def written(tmp_path):
    """Give a network after five steps, its optimizer, and both as a file that was read again."""
    network, optimizer = network_and_optimizer()
    learn(network, optimizer, 5)
    position = Position(2, 3, 0.1 + 0.2, 1 / 3, best_epoch=1, history=[FIRST, SECOND])
    header, tensors = pack_state(position, network, {"weight": torch.tensor([1.0, 2.0])}, optimizer)
    write_container(tmp_path / "resume.pt", {"schema": "qcaps.resume/1", **header}, tensors)
    container = read_container(tmp_path / "resume.pt", schema="qcaps.resume")
    return network, optimizer, (container.header, container.tensors)


def test_a_resume_file_gives_back_the_position_to_the_last_digit(written):
    position, _ = unpack_state(*written[2], *network_and_optimizer(), where="here")
    assert position == Position(2, 3, 0.1 + 0.2, 1 / 3, best_epoch=1, history=[FIRST, SECOND])


def test_a_resume_file_gives_back_the_best_tensors(written):
    _, best = unpack_state(*written[2], *network_and_optimizer(), where="here")
    assert best.keys() == {"weight"}
    assert best["weight"].tolist() == [1.0, 2.0]


def test_a_resume_file_gives_back_the_network_with_its_running_statistics(written):
    network, optimizer = network_and_optimizer()
    unpack_state(*written[2], network, optimizer, where="here")
    expected = written[0].state_dict()
    assert expected["1.num_batches_tracked"] == 5
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_the_next_step_is_the_one_the_optimizer_would_have_made(written):
    network, optimizer = network_and_optimizer()
    unpack_state(*written[2], network, optimizer, where="here")
    learn(network, optimizer)
    learn(*written[:2])
    for resumed, expected in zip(network.parameters(), written[0].parameters(), strict=True):
        assert torch.equal(resumed, expected)


def test_the_scale_of_half_precision_gradients_survives():
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (1024.0, 2.0))
    network, optimizer = network_and_optimizer()
    state = pack_state(Position(), network, {}, optimizer, scaler)
    unpack_state(*json.loads(json.dumps([state[0]])), state[1], network, optimizer, other, where="here")
    assert other.get_scale() == 1024.0
    assert other.state_dict() == scaler.state_dict()


def test_numbers_that_an_optimizer_keeps_beside_its_tensors_survive():
    network, optimizer = network_and_optimizer()
    first, second = list(network.parameters())[:2]
    optimizer.state[first] = {"step": 3, "share": 0.1 + 0.2, "buffer": None, "mean": torch.ones(4, 3)}
    optimizer.state[second] = {}
    header, tensors = pack_state(Position(), network, {}, optimizer)
    other_network, other = network_and_optimizer()
    unpack_state(json.loads(json.dumps(header)), tensors, other_network, other, where="here")
    first, second = list(other_network.parameters())[:2]
    found = other.state[first]
    assert (found["step"], found["share"], found["buffer"]) == (3, 0.1 + 0.2, None)
    assert found["mean"].equal(torch.ones(4, 3))
    assert other.state[second] == {}


def test_the_header_of_a_state_is_plain_json():
    network, optimizer = network_and_optimizer()
    header, _ = pack_state(Position(history=[FIRST]), network, {}, optimizer)
    assert json.loads(json.dumps(header))["position"]["history"][0]["validation_correct"] == 4


def test_the_best_epoch_is_looked_up_in_the_history():
    assert Position(best_epoch=0, history=[FIRST, SECOND]).best() is FIRST


def test_the_state_of_another_network_is_refused(written):
    with pytest.raises(ArtifactError, match="does not fit this network") as raised:
        unpack_state(*written[2], *network_and_optimizer(inputs=2), where="resume.pt")
    assert raised.value.where == "resume.pt"
    assert "--fresh" in raised.value.do


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, tensors: header.pop("position"),
        lambda header, tensors: header.update(position=3),
        lambda header, tensors: header["position"].pop("history"),
        lambda header, tensors: header["position"].update(colour="red"),
        lambda header, tensors: header["position"]["history"][0].pop("lr"),
        lambda header, tensors: header["position"].update(history=[7]),
        lambda header, tensors: tensors.pop("network.0.weight"),
        lambda header, tensors: tensors.update(nowhere=torch.zeros(1)),
        lambda header, tensors: tensors.update({"other.part": torch.zeros(1)}),
        lambda header, tensors: tensors.update({"optimizer.first.step": torch.zeros(1)}),
    ],
)
def test_a_damaged_state_is_refused(written, damage):
    header, tensors = written[2]
    damage(header, tensors)
    with pytest.raises(ArtifactError, match="does not fit this network"):
        unpack_state(header, tensors, *network_and_optimizer(), where="here")
