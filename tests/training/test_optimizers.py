from __future__ import annotations

import pytest
import torch
from torch import nn

from qcaps.config import TrainConfig
from qcaps.errors import UsageError
from qcaps.training.optimizers import optimizer


def made(parameters: nn.Module | None = None, **options) -> torch.optim.Optimizer:
    return optimizer(TrainConfig(**options), parameters or nn.Linear(2, 2, bias=False))


@pytest.mark.parametrize(
    ("name", "kind", "numbers"),
    [
        ("adam", torch.optim.Adam, {"eps": 1e-7, "weight_decay": 0, "betas": (0.9, 0.999)}),
        ("adamw", torch.optim.AdamW, {"eps": 1e-8, "weight_decay": 0.01}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ("RMSprop", torch.optim.RMSprop, {"momentum": 0, "alpha": 0.99}),
        ("radam", torch.optim.RAdam, {"eps": 1e-8}),
    ],
)
def test_an_optimizer_has_its_own_defaults(name, kind, numbers):
    found = made(optimizer=name, lr=0.25)
    assert type(found) is kind
    assert {name: found.defaults[name] for name in numbers} == numbers
    assert found.defaults["lr"] == 0.25


def test_numbers_that_are_given_reach_the_optimizer():
    found = made(optimizer="sgd", momentum=0.5, nesterov=True, weight_decay=0.1).defaults
    assert (found["momentum"], found["nesterov"], found["weight_decay"]) == (0.5, True, 0.1)
    found = made(optimizer_arg=("betas=[0.5, 0.75]", "eps=0.001", "amsgrad=true")).defaults
    assert (found["betas"], found["eps"], found["amsgrad"]) == ((0.5, 0.75), 0.001, True)


def test_frozen_parameters_are_left_out():
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    (group,) = made(network).param_groups
    assert [id(p) for p in group["params"]] == [id(network.weight)]


@pytest.mark.parametrize(
    ("options", "where", "told"),
    [
        ({"optimizer": "adamm"}, "--optimizer", "did you mean 'adam"),
        ({"optimizer": "lbfgs"}, "--optimizer", "known are"),
        ({"optimizer": "Optimizer"}, "--optimizer", "known are"),
        ({"optimizer": "os.system"}, "--optimizer", "known are"),
        ({"optimizer_arg": ("epz=1",)}, "--optimizer-arg", "did you mean 'eps'"),
        ({"optimizer_arg": ("lr=1",)}, "--optimizer-arg", "use --lr"),
        ({"optimizer": "sgd", "optimizer_arg": ("momentum=0.1",)}, "--optimizer-arg", "use --momentum"),
        ({"optimizer_arg": ("foreach=true",)}, "--optimizer-arg", "it has"),
        ({"momentum": 0.9}, "--momentum", "Adam has no momentum"),
        ({"nesterov": True}, "--nesterov", "Adam has no nesterov"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "--weight-decay", "Rprop has no weight decay"),
        ({"optimizer_arg": ("betas=[2, 3]",)}, "--optimizer", "Adam refuses this"),
        ({"optimizer_arg": ("betas=2",)}, "--optimizer", "Adam refuses this"),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, "--optimizer", "SGD refuses this"),
    ],
)
def test_what_no_optimizer_understands_is_a_usage_error(options, where, told):
    with pytest.raises(UsageError) as raised:
        made(**options)
    assert raised.value.where == where
    assert told in str(raised.value)


def test_an_optimizer_that_does_not_fit_the_network_is_a_usage_error():
    with pytest.raises(UsageError, match="Muon refuses this"):
        made(nn.Linear(2, 2), optimizer="muon")


def test_a_network_that_is_frozen_as_a_whole_is_a_usage_error():
    with pytest.raises(UsageError, match="refuses this"):
        made(nn.Linear(2, 2).requires_grad_(False))
