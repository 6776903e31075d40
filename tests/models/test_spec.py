from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcaps.errors import ArtifactError, UsageError
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.network import encoder_tensors
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import build, filled, fitted_spec, initialised, model_spec, spec_from_dict, spec_to_dict

SMALL = ShallowCapsNetSpec(
    height=19, width=20, conv_channels=(6,), conv_kernels=(5,), primary_kernel=5, primary_types=3, classes=4
)
EFFICIENT = EfficientCapsNetSpec(height=14, width=15, conv_channels=(4, 6, 8, 16), decoder="fc", decoder_norm=True)
SPECS = [ShallowCapsNetSpec(), EfficientCapsNetSpec(), SMALL, EFFICIENT]


def header(spec=SMALL, **changes):
    """Give the dictionary of a spec as it comes out of a file, with some values changed."""
    return json.loads(json.dumps({**spec_to_dict(spec), **changes}))


def read(data):
    return spec_from_dict(data, where="model.pt")


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_the_way_through_json(spec):
    assert read(header(spec)) == spec


def test_the_dictionary_of_a_spec_spells_out_every_number():
    names = {field.name for field in dataclasses.fields(EfficientCapsNetSpec)}
    assert spec_to_dict(EfficientCapsNetSpec()).keys() == names | {"architecture"}


def test_a_spec_takes_defaults_where_the_user_is_silent():
    assert model_spec("shallow-capsnet", {"classes": 5}, where="recipe") == ShallowCapsNetSpec(classes=5)


def test_an_unknown_architecture_lists_near_matches():
    with pytest.raises(UsageError, match=r"unknown model 'shallow-capnet'.*did you mean 'shallow-capsnet'"):
        model_spec("shallow-capnet", {}, where="recipe")


def test_an_unknown_choice_lists_near_matches():
    with pytest.raises(
        UsageError, match=r"routing of shallow-capsnet is 'dinamic', not one of .*did you mean 'dynamic'"
    ):
        model_spec("shallow-capsnet", {"routing": "dinamic"}, where="recipe")


def test_a_network_of_one_size_refuses_images_of_another_and_names_those_that_take_them():
    said = r"takes 1x40x40 images, not 3x64x64 .*did you mean .*'efficient-capsnet'.* are .*deepcaps-64"
    with pytest.raises(UsageError, match=said) as error:
        fitted_spec("efficient-capsnet-affnist", (3, 64, 64), 10, {})
    assert "cnn-small" not in str(error.value)


def test_a_network_of_any_size_is_fitted_to_the_images():
    spec = fitted_spec("shallow-capsnet", (3, 32, 40), 7, {"routing_passes": 1})
    assert spec == ShallowCapsNetSpec(channels=3, height=32, width=40, classes=7, routing_passes=1)


@pytest.mark.parametrize("name", ["channels", "height", "width", "classes"])
def test_what_follows_the_images_is_no_number_of_its_own(name):
    with pytest.raises(UsageError, match=rf"{name} of a network follows its images \(--model-arg\); leave it out"):
        fitted_spec("shallow-capsnet", (1, 28, 28), 10, {name: 20})


def test_no_side_of_an_image_is_larger_than_any_photograph():
    with pytest.raises(UsageError, match=r"height of shallow-capsnet is '4097', not a whole number from 1 to 4096"):
        fitted_spec("shallow-capsnet", (1, 4097, 28), 10, {})


@pytest.mark.parametrize("number", ["attention_scale", "attention_temperature", "primary_coupling"])
def test_numbers_that_must_not_be_zero_are_a_usage_error(number):
    with pytest.raises(UsageError, match=number):
        build(ShallowCapsNetSpec(**{number: 0.0}))


def test_a_named_variant_is_not_an_architecture_of_a_file():
    with pytest.raises(ArtifactError, match="'efficient-capsnet-affnist' is no architecture"):
        read(header(EfficientCapsNetSpec(), architecture="efficient-capsnet-affnist"))


def test_an_unknown_number_lists_near_matches():
    with pytest.raises(UsageError, match=r"has no number 'routing_pases'.*did you mean 'routing_passes'"):
        model_spec("shallow-capsnet", {"routing_pases": 3}, where="recipe")


@pytest.mark.parametrize("data", [None, 3, "shallow-capsnet", [], {}, {"architecture": 5}, {"architecture": None}])
def test_a_header_without_architecture_is_refused(data):
    with pytest.raises(ArtifactError, match=r"names no architecture.*model.pt"):
        read(data)


def test_an_architecture_of_another_kind_is_refused():
    with pytest.raises(ArtifactError, match="unknown model 'os:system'"):
        read(header(architecture="os:system"))


def test_the_numbers_of_another_architecture_are_refused():
    with pytest.raises(ArtifactError, match="efficient-capsnet"):
        read(header(SMALL, architecture="efficient-capsnet"))


ALWAYS_THERE = [f.name for f in dataclasses.fields(ShallowCapsNetSpec) if f.name != "primary_positions"]


@pytest.mark.parametrize("name", ALWAYS_THERE)
def test_a_missing_number_never_falls_back_to_a_default(name):
    data = header()
    del data[name]
    with pytest.raises(ArtifactError, match=f"lacks {name}"):
        read(data)


def test_a_number_that_a_network_has_not_is_left_out_and_never_null():
    assert "primary_positions" not in header()
    assert header(dataclasses.replace(SMALL, primary_positions=3))["primary_positions"] == 3
    with pytest.raises(ArtifactError, match="primary_positions of shallow-capsnet is 'None', not a whole number"):
        read(header(primary_positions=None))


# 6 rows and 6 columns of primary capsules.
LISTED = dataclasses.replace(SMALL, primary_positions=3)


def listing(positions, spec=LISTED):
    """Fill a network whose list of positions has come out of a file."""
    tensors = encoder_tensors(initialised(LISTED, seed=0))
    return filled(spec, {**tensors, "stages.primary.positions": positions}, where="model.pt")


def test_a_list_of_positions_is_read_back():
    assert listing(torch.tensor([0, 7, 35])).stages["primary"].positions.tolist() == [0, 7, 35]


@pytest.mark.parametrize("positions", [[0, 7, 36], [-1, 0, 7], [0, 7, 7], [7, 0, 8], [2**62, 2**62 + 1, 2**63 - 1]])
def test_a_list_that_names_no_positions_is_refused(positions):
    with pytest.raises(ArtifactError) as error:
        listing(torch.tensor(positions))
    expected = "tensor 'stages.primary.positions' does not list 3 of 36 units in ascending order (model.pt)"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (torch.tensor([0.0, 7.0, 35.0]), "holds torch.float32, not int64"),
        (torch.tensor([0, 7], dtype=torch.int64), r"has shape \(2,\), not \(3,\)"),
        (torch.tensor([[0, 7, 35]]), r"has shape \(1, 3\), not \(3,\)"),
    ],
)
def test_a_list_of_another_kind_is_refused(positions, reason):
    with pytest.raises(ArtifactError, match=reason):
        listing(positions)


def test_a_list_in_a_network_that_has_all_positions_is_left_over():
    with pytest.raises(ArtifactError, match="missing or left over"):
        listing(torch.tensor([0, 7, 35]), spec=SMALL)


def test_an_unknown_key_in_a_header_is_refused():
    with pytest.raises(ArtifactError, match=r"has no number 'heigth'.*did you mean 'height'"):
        read({**header(), "heigth": 28})


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": True},
        {"classes": 4.0},
        {"classes": "4"},
        {"classes": 0},
        {"classes": -1},
        {"classes": 1_000_001},
        {"classes": 10**30},
        {"classes": None},
        {"classes": [4]},
        {"classes": {"n": 4}},
        {"length_eps": -1e-9},
        {"length_eps": math.nan},
        {"length_eps": math.inf},
        {"length_eps": False},
        {"length_eps": "0"},
        {"routing_bias": 1},
        {"routing_bias": "true"},
        {"squash": "unknown"},
        {"squash": 3},
        {"squash": ["hinton"]},
        {"routing": "em"},
        {"decoder": 5},
        {"decoder": "x" * 65},
    ],
    ids=str,
)
def test_a_number_of_the_wrong_kind_or_size_is_refused(changes):
    with pytest.raises(ArtifactError, match=f"^{next(iter(changes))} of shallow-capsnet is .*, not "):
        read(header(**changes))


@pytest.mark.parametrize(
    "widths",
    [[], [4, True, 8, 16], [4, [6], 8, 16], [4, 6, 8, -16], [1] * 65, 4, "4", {"0": 4}, [4, 6, 8, 1e9]],
    ids=str,
)
def test_a_list_of_the_wrong_kind_or_length_is_refused(widths):
    with pytest.raises(ArtifactError, match=r"^conv_channels of efficient-capsnet is "):
        read(header(EFFICIENT, conv_channels=widths))


def test_a_message_about_a_hostile_value_is_one_short_line():
    with pytest.raises(ArtifactError) as error:
        read(header(decoder="\x1b[2J\n" + 1000 * "x"))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


def builds_or_is_a_usage_error(spec):
    """Tell whether a spec gives a network without memory, or one line that says why not; other errors pass."""
    try:
        network = build(spec)
    except UsageError as error:
        return str(error).isprintable()
    return all(tensor.is_meta for tensor in network.state_dict().values())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    spec=st.sampled_from([SMALL, EFFICIENT]),
    changes=st.dictionaries(
        st.sampled_from([*spec_to_dict(SMALL), *spec_to_dict(EFFICIENT)]) | st.text(max_size=8), JUNK, max_size=3
    ),
)
def test_any_header_gives_a_spec_of_these_numbers_or_an_artifact_error(spec, changes):
    data = {**spec_to_dict(spec), **changes}
    try:
        found = read(data)
    except ArtifactError:
        return
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in spec_to_dict(found).items()} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in data.items()
    }


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from([1, 2, 3, 7, 1000, 1_000_000])
            for name in ("channels", "height", "width", "classes", "primary_kernel", "primary_stride", "primary_types")
        },
    )
)
def test_any_numbers_within_bounds_can_be_built_or_are_a_usage_error(numbers):
    try:
        spec = model_spec("shallow-capsnet", numbers, where="recipe")
    except UsageError:
        assert max(numbers.get("height", 1), numbers.get("width", 1)) > 4096
        return
    assert builds_or_is_a_usage_error(spec)


@given(
    widths=st.lists(st.sampled_from([1, 8, 1_000_000]), min_size=1, max_size=5),
    kernels=st.lists(st.sampled_from([1, 3, 1_000_000]), min_size=1, max_size=5),
    primary_dim=st.sampled_from([1, 8, 3, 1_000_000]),
)
def test_any_convolutions_within_bounds_can_be_built_or_are_a_usage_error(widths, kernels, primary_dim):
    numbers = {"conv_channels": widths, "conv_kernels": kernels, "primary_dim": primary_dim}
    assert builds_or_is_a_usage_error(model_spec("efficient-capsnet", numbers, where="recipe"))


@pytest.mark.parametrize(
    "spec",
    [
        ShallowCapsNetSpec(height=16, width=16),
        ShallowCapsNetSpec(height=28, width=16),
        EfficientCapsNetSpec(height=10, width=10),
        EfficientCapsNetSpec(height=10, width=28),
    ],
)
def test_images_that_are_too_small_are_a_usage_error_of_one_line(spec):
    with pytest.raises(
        UsageError, match=rf"^{spec.height}x{spec.width} pixels are too few for {spec.architecture}"
    ) as error:
        build(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [ShallowCapsNetSpec(height=17, width=17), EfficientCapsNetSpec(height=11, width=11)],
    ids=["shallow", "efficient"],
)
def test_the_smallest_possible_images_can_be_scored(spec):
    network = initialised(spec, seed=0).eval()
    assert network(torch.zeros(1, 1, spec.height, spec.width)).scores.shape == (1, 10)


@pytest.mark.parametrize(
    "spec",
    [
        EfficientCapsNetSpec(conv_kernels=(5, 3, 3)),
        EfficientCapsNetSpec(conv_strides=(1,)),
        EfficientCapsNetSpec(primary_dim=7),
        EfficientCapsNetSpec(decoder="deconv28", height=32, width=32),
        ShallowCapsNetSpec(decoder="unknown"),
        ShallowCapsNetSpec(routing_passes=101),
        ShallowCapsNetSpec(classes=1_000_000, class_dim=1_000_000, primary_dim=1_000_000),
    ],
    ids=["kernels", "strides", "primary_dim", "deconv28", "unknown decoder", "passes", "overflow"],
)
def test_numbers_that_do_not_fit_together_are_a_usage_error(spec):
    with pytest.raises(UsageError):
        build(spec)


@pytest.mark.parametrize("spec", [SMALL, EFFICIENT], ids=["shallow", "efficient"])
def test_a_network_built_from_a_spec_has_no_memory_yet(spec):
    assert all(tensor.is_meta for tensor in build(spec).state_dict().values())


@pytest.mark.parametrize("spec", [SMALL, EFFICIENT], ids=["shallow", "efficient"])
def test_the_same_seed_gives_the_same_network(spec):
    first, second = initialised(spec, seed=3).state_dict(), initialised(spec, seed=3).state_dict()
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_a_network_whose_file_would_be_refused_is_not_begun():
    with pytest.raises(UsageError, match="one image would fill more than 33,554,432 values in shallow-capsnet"):
        initialised(ShallowCapsNetSpec(height=400, width=400, conv_channels=(1000,)), seed=0)


def test_another_seed_gives_another_network():
    first, second = initialised(SMALL, seed=3), initialised(SMALL, seed=4)
    assert not first.stages["class_caps"].weight.equal(second.stages["class_caps"].weight)


@pytest.mark.parametrize("spec", [SMALL, EFFICIENT], ids=["shallow", "efficient"])
def test_initialising_does_not_touch_the_global_generator(spec):
    before = torch.random.get_rng_state()
    initialised(spec, seed=0)
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("spec", [SMALL, EFFICIENT], ids=["shallow", "efficient"])
def test_a_network_filled_with_the_tensors_of_another_gives_the_same_scores(spec):
    network = initialised(spec, seed=0).eval()
    tensors = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    copy = filled(spec, tensors, where="model.pt").eval()
    images = torch.rand(2, 1, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    assert copy(images).scores.equal(network(images).scores)
    assert not any(tensor.is_meta for tensor in copy.state_dict().values())


def test_the_encoder_is_filled_without_the_decoder():
    network = initialised(EFFICIENT, seed=0)
    copy = filled(EFFICIENT.without_decoder(), encoder_tensors(network), where="model.pt")
    assert copy.decoder is None
    assert copy.stages["conv3"].norm.running_var.equal(network.stages["conv3"].norm.running_var)


def test_a_missing_tensor_is_refused():
    tensors = encoder_tensors(initialised(SMALL, seed=0))
    del tensors["stages.primary.bias"]
    with pytest.raises(ArtifactError, match=r"'stages.primary.bias' is missing or left over.*model.pt"):
        filled(SMALL, tensors, where="model.pt")


def test_a_tensor_too_many_is_refused():
    tensors = {**encoder_tensors(initialised(SMALL, seed=0)), "stages.extra": torch.zeros(1)}
    with pytest.raises(ArtifactError, match=r"'stages.extra' is missing or left over"):
        filled(SMALL, tensors, where="model.pt")


@pytest.mark.parametrize("shape", [(3, 8, 1), (3, 8, 1, 2), (24,), (8, 3, 1, 1), (0,)])
def test_a_tensor_of_another_shape_is_refused(shape):
    tensors = {**encoder_tensors(initialised(SMALL, seed=0)), "stages.primary.bias": torch.zeros(shape)}
    with pytest.raises(ArtifactError, match=r"'stages.primary.bias' has shape"):
        filled(SMALL, tensors, where="model.pt")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.float64, torch.complex64])
def test_a_tensor_of_another_type_is_refused(dtype):
    tensors = encoder_tensors(initialised(SMALL, seed=0))
    tensors["stages.primary.bias"] = tensors["stages.primary.bias"].to(dtype)
    with pytest.raises(ArtifactError, match=r"'stages.primary.bias'"):
        filled(SMALL, tensors, where="model.pt")


def test_a_spec_that_cannot_be_built_is_an_artifact_error_when_it_comes_from_a_file():
    with pytest.raises(ArtifactError, match="too few"):
        filled(dataclasses.replace(SMALL, height=5), {}, where="model.pt")


def test_a_network_that_leaves_the_primary_layer_one_pixel_can_be_filled():
    spec = EfficientCapsNetSpec(height=11, width=11, conv_channels=(4, 6, 8, 16))
    network = filled(spec, encoder_tensors(initialised(spec, seed=0)), where="model.pt")
    assert not network.training


@pytest.mark.parametrize(
    "spec",
    [
        EfficientCapsNetSpec(height=10**6, width=10**6, conv_channels=(8,), conv_kernels=(1,), conv_strides=(10**6,)),
        EfficientCapsNetSpec(height=3000, width=3000, conv_channels=(8,), conv_kernels=(1,), conv_strides=(1,)),
    ],
    ids=["image", "activations"],
)
def test_a_file_of_few_numbers_that_asks_for_much_memory_is_refused(spec):
    tensors = {name: torch.zeros(1).expand(t.shape) for name, t in encoder_tensors(build(spec)).items()}
    with pytest.raises(ArtifactError, match="would fill more memory"):
        filled(spec, tensors, where="model.pt")
