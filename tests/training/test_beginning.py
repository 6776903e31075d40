from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import NORMED, ROUTED

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.spec import data_spec
from qcaps.errors import UsageError
from qcaps.models.mobilenetv1 import MOBILENETV1
from qcaps.models.spec import initialised
from qcaps.training.beginning import backbone_numbers, begin


def checkpoint_of(spec, seed=1):
    tensors = {k: v for k, v in initialised(spec, seed).state_dict().items() if not k.endswith("num_batches_tracked")}
    return Checkpoint(spec, tensors, data_spec("digits"), {})


def stages_equal_to(network, start):
    return {
        name
        for name, stage in network.stages.items()
        if all(t.equal(start.tensors[f"stages.{name}.{k}"]) for k, t in stage.named_parameters())
    }


def test_every_stage_of_the_same_shapes_is_taken_over():
    start, network = checkpoint_of(NORMED), initialised(NORMED, 0)
    begin(network, start, ())
    assert stages_equal_to(network, start) == set(network.stages)


def test_a_stage_of_other_shapes_keeps_its_first_values():
    start = checkpoint_of(dataclasses.replace(NORMED, classes=5))
    network, untouched = initialised(NORMED, 0), initialised(NORMED, 0)
    begin(network, start, ())
    for name, parameter in network.stages["class_caps"].named_parameters():
        assert parameter.equal(untouched.stages["class_caps"].get_parameter(name))
    assert network.stages["primary"].conv.weight.equal(start.tensors["stages.primary.conv.weight"])


def test_running_statistics_are_taken_over():
    start, network = checkpoint_of(NORMED), initialised(NORMED, 0)
    start.tensors["stages.conv1.norm.running_mean"].fill_(3.0)
    begin(network, start, ())
    assert (network.stages["conv1"].norm.running_mean == 3.0).all()


def test_a_checkpoint_of_which_nothing_fits_is_an_error():
    with pytest.raises(UsageError, match="no stage of that checkpoint fits"):
        begin(initialised(NORMED, 0), checkpoint_of(dataclasses.replace(ROUTED, classes=7)), ())


def test_the_stages_taken_over_are_told():
    start = checkpoint_of(dataclasses.replace(NORMED, classes=5))
    taken = begin(initialised(NORMED, 0), start, ())
    assert taken == ("conv1", "conv2", "conv3", "conv4", "primary")


def test_nothing_is_frozen_unless_asked_for():
    network = initialised(NORMED, 0)
    assert begin(network, None, ()) == ()
    assert all(p.requires_grad for p in network.parameters())


def test_the_stages_asked_for_are_frozen():
    network = initialised(NORMED, 0)
    begin(network, checkpoint_of(NORMED), ("conv1", "conv3"))
    assert network.frozen == {"conv1", "conv3"}


def test_backbone_stands_for_all_stages_in_front_of_the_head():
    network = initialised(NORMED, 0)
    network.backbone = ("conv1", "conv2")
    begin(network, checkpoint_of(NORMED), ("backbone", "conv4"))
    assert network.frozen == {"conv1", "conv2", "conv4"}


def test_random_numbers_are_not_frozen():
    with pytest.raises(UsageError, match=r"only trained stages can be frozen .*--init"):
        begin(initialised(NORMED, 0), None, ("conv1",))


def test_a_stage_that_the_checkpoint_does_not_have_is_not_frozen():
    start = checkpoint_of(dataclasses.replace(NORMED, channels=3))
    with pytest.raises(UsageError, match=r"no fitting stage 'conv1' to freeze .*it has conv2"):
        begin(initialised(NORMED, 0), start, ("conv2", "conv1"))


def test_a_network_without_a_backbone_says_so():
    with pytest.raises(UsageError, match=r"no backbone.*it has conv1"):
        begin(initialised(NORMED, 0), None, ("backbone",))


def test_an_unknown_stage_is_refused_with_near_matches():
    with pytest.raises(UsageError, match=r"no stage 'primry' \(--freeze\); did you mean 'primary'"):
        begin(initialised(NORMED, 0), None, ("primry",))


def test_a_capsule_head_takes_over_the_widths_of_its_backbone():
    widths = tuple(range(2, 16))
    start = dataclasses.replace(MOBILENETV1.spec, widths=widths, stem_relu=False)
    numbers = backbone_numbers("mobilenetv1-capsnet", start)
    assert numbers["widths"] == widths
    assert numbers["stem_relu"] is False
    assert numbers["primary_types"] == 1  # the last of 15 channels, by eight
    assert "classes" not in numbers


def test_a_network_without_such_numbers_takes_none_over():
    assert backbone_numbers("shallow-capsnet", MOBILENETV1.spec) == {}


def test_tensors_are_copied_not_shared():
    start, network = checkpoint_of(NORMED), initialised(NORMED, 0)
    begin(network, start, ())
    with torch.no_grad():
        network.stages["conv1"].conv.weight.zero_()
    assert start.tensors["stages.conv1.conv.weight"].abs().sum() > 0
