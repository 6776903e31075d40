from __future__ import annotations

import dataclasses

import torch
from toys import FOLDED, ROUTED, toy_network

from qcaps.evaluation.content import network_content, tensors_sha256


def test_memory_order_is_no_content() -> None:
    network = toy_network(FOLDED)
    strides = {name: tensor.stride() for name, tensor in network.state_dict().items()}
    turned = toy_network(FOLDED).to(memory_format=torch.contiguous_format)
    assert strides != {name: tensor.stride() for name, tensor in turned.state_dict().items()}
    assert network_content(FOLDED, network) == network_content(FOLDED, turned)


def test_another_spec_of_the_same_weights_is_another_content() -> None:
    fewer = dataclasses.replace(ROUTED, routing_passes=2)
    network = toy_network(ROUTED)
    assert network_content(ROUTED, network) != network_content(fewer, network)


def test_tensors_are_told_apart_by_name_shape_and_numbers() -> None:
    ones = torch.ones(2, 3)
    contents = [{"a": ones}, {"b": ones}, {"a": ones.view(3, 2)}, {"a": 2 * ones}, {"a": ones, "b": ones}, {}]
    assert len({tensors_sha256(tensors) for tensors in contents}) == len(contents)
    assert tensors_sha256({"b": 2 * ones, "a": ones}) == tensors_sha256({"a": ones, "b": 2 * ones})
