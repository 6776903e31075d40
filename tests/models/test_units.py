from __future__ import annotations

import pytest
import torch

from qcaps.models.units import Cut, KeptIndex, Unit, by_unit, conv_cuts, cut_tensors


def kept(cut, count, units, size):
    return cut_tensors({"stages.w": torch.arange(size)}, {Unit("stage.kind", count, (cut,)): units})[
        "stages.w"
    ].tolist()


def test_a_channel_is_one_entry():
    assert kept(Cut("w", 0), 4, [0, 2], 4) == [0, 2]


def test_a_type_is_a_run_of_entries():
    assert kept(Cut("w", 0, inner=3), 2, [1], 6) == [3, 4, 5]


def test_a_dimension_is_one_entry_of_every_type():
    assert kept(Cut("w", 0), 3, [0, 2], 6) == [0, 2, 3, 5]


def test_a_type_may_have_positions_inside_and_another_axis_outside():
    # outer 2, three units, inner 2: unit 1 is entries 2, 3 and 8, 9.
    assert kept(Cut("w", 0, inner=2), 3, [1], 12) == [2, 3, 8, 9]


def test_a_stretch_leaves_the_rest_of_the_axis_alone():
    assert kept(Cut("w", 0, start=2, length=3), 3, [1], 7) == [0, 1, 3, 5, 6]


def test_a_stretch_without_length_reaches_to_the_end():
    assert kept(Cut("w", 0, start=2), 3, [1], 5) == [0, 1, 3]


@pytest.mark.parametrize("cut", [Cut("w", 0), Cut("w", 0, inner=2), Cut("w", 0, start=2, length=6)])
def test_an_axis_that_holds_no_whole_units_is_an_error(cut):
    with pytest.raises(ValueError, match=r"does not hold whole units stage\.kind"):
        kept(cut, 3, [0], 7)


def test_every_tensor_of_a_unit_is_cut_and_no_other():
    tensors = {
        "stages.a.weight": torch.arange(6).view(3, 2),
        "stages.b.weight": torch.arange(6).view(2, 3),
        "stages.c.weight": torch.arange(3),
    }
    unit = Unit("a.channels", 3, (Cut("a.weight", 0), Cut("b.weight", 1)))
    found = cut_tensors(tensors, {unit: [0, 2]})
    assert found["stages.a.weight"].tolist() == [[0, 1], [4, 5]]
    assert found["stages.b.weight"].tolist() == [[0, 2], [3, 5]]
    assert found["stages.c.weight"].tolist() == [0, 1, 2]
    assert tensors["stages.a.weight"].shape == (3, 2)


def test_units_of_several_kinds_may_share_an_axis():
    # Three types of two dimensions: 0 1 | 2 3 | 4 5.
    types, dims = Unit("w.types", 3, (Cut("w", 0, inner=2),)), Unit("w.dims", 2, (Cut("w", 0),))
    found = cut_tensors({"stages.w": torch.arange(6)}, {dims: [1], types: [0, 2]})
    assert found["stages.w"].tolist() == [1, 5]


POSITIONS = Unit("w.positions", 3, (Cut("w", 0),), index=KeptIndex("kept", of=5))


def test_units_that_no_tensor_tells_are_listed_when_they_are_first_cut():
    found = cut_tensors({"stages.w": torch.arange(3)}, {POSITIONS: [0, 2]})
    assert found["stages.kept"].tolist() == [0, 2]


def test_units_that_are_listed_are_struck_off_the_list():
    found = cut_tensors({"stages.w": torch.arange(3), "stages.kept": torch.tensor([0, 2, 4])}, {POSITIONS: [1, 2]})
    assert found["stages.kept"].tolist() == [2, 4]


def test_units_that_are_all_kept_need_no_list():
    assert cut_tensors({"stages.w": torch.arange(3)}, {POSITIONS: [0, 1, 2]}).keys() == {"stages.w"}


def test_the_values_of_a_unit_come_from_everywhere_on_the_axis():
    # Two outer runs of three units with inner 2, on the second axis; unit 1 has columns 2, 3, 8 and 9.
    cut, tensor = Cut("w", 1, inner=2), torch.arange(24).view(2, 12)
    found = by_unit(cut, Unit("w.types", 3, (cut,)), tensor)
    assert found[1].tolist() == [[2, 14], [3, 15], [8, 20], [9, 21]]


def test_the_kind_of_a_unit_is_the_end_of_its_name():
    assert Unit("block1.l2.types", 4, ()).kind == "types"


def test_a_convolution_takes_its_bias_and_its_norm_along():
    names = [cut.tensor for cut in conv_cuts("s.conv", norm="s.norm")]
    assert names == [
        "s.conv.weight",
        "s.conv.bias",
        "s.norm.weight",
        "s.norm.bias",
        "s.norm.running_mean",
        "s.norm.running_var",
    ]


def test_a_convolution_may_have_neither_bias_nor_statistics():
    cuts = conv_cuts("s.conv", norm="s.norm", statistics=False, bias=False, inner=2)
    assert cuts == (Cut("s.conv.weight", 0, 2), Cut("s.norm.weight", 0, 2), Cut("s.norm.bias", 0, 2))
