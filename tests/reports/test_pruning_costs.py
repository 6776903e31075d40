from __future__ import annotations

import pytest

from qcaps.evaluation.cost_model import cost_model
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.reports.pruning import Change, WidthChange
from qcaps.reports.pruning_costs import capsules_left, change, cost_changes, layer_changes, width_changes

SPEC = ShallowCapsNetSpec()
# Half of the channels and of the types.
WIDTHS = {"conv1.channels": 128, "primary.types": 16, "primary.dims": 8, "primary.positions": 36}


@pytest.fixture(scope="module")
def costs():
    return cost_model(SPEC)


def test_a_network_is_compared_with_what_it_was(costs):
    found = cost_changes(SPEC, costs, WIDTHS, (1000, 250))
    # Of the published 8,294,400 + 191,102,976 + 1,474,560 + 921,600, the primary convolution keeps a quarter.
    after = 8_294_400 // 2 + 191_102_976 // 4 + (1_474_560 + 921_600) // 2
    assert found["MACs"] == Change(201_793_536, after, after / 201_793_536)
    assert (found["capsules"].before, found["capsules"].after) == (1152, 576)
    assert found["file bytes"] == Change(1000, 250, 0.25)
    assert found["parameters"].before == 6_804_384
    # Weights and biases of the convolutions, votes and biases of the classes.
    held = 128 * 82 + 128 * (128 * 81 + 1) + 576 * 10 * 8 * 16 + 160
    assert (found["parameters"].after, found["weight bytes"].after) == (held, 4 * held)


def test_a_peak_is_never_more_than_all_arrays_together(costs):
    found = cost_changes(SPEC, costs, WIDTHS, (1, 1))
    whole, peak = found["activation bytes"], found["activation bytes at their peak"]
    assert 0 < peak.after < whole.after < whole.before
    assert peak.after < peak.before < whole.before


def test_layers_stand_in_their_order(costs):
    conv1, primary, class_caps = layer_changes(costs, WIDTHS)
    assert (conv1.name, primary.name, class_caps.name) == ("conv1", "primary", "class_caps")
    assert conv1.activation_bytes == Change(4 * 256 * 400, 4 * 128 * 400, 0.5)
    assert class_caps.macs.kept == 0.5


def test_units_and_capsules_are_listed(costs):
    assert width_changes(costs, WIDTHS)[:2] == (
        WidthChange("conv1.channels", 256, 128),
        WidthChange("primary.types", 32, 16),
    )
    assert capsules_left(WIDTHS) == {"primary": {"types": 16, "dims": 8, "positions": 36}}


def test_of_nothing_everything_is_kept():
    assert change(0, 0) == Change(0, 0, 1.0)
