from __future__ import annotations

import dataclasses
import re
import typing
from decimal import Decimal
from typing import Any

import pytest

from qcaps.config import (
    EvaluateConfig,
    ImportConfig,
    InspectConfig,
    PruneConfig,
    QuantizeConfig,
    RunConfig,
    TrainConfig,
    configure,
    model_numbers,
)
from qcaps.config.inspect import parse_image
from qcaps.config.option import about, parse_percent
from qcaps.errors import UsageError
from qcaps.evaluation.tolerance import Tolerance

CONFIGS: list[type[Any]] = [
    *(EvaluateConfig, ImportConfig, InspectConfig, PruneConfig),
    *(QuantizeConfig, RunConfig, TrainConfig),
]
OPTIONS = [(config, field) for config in CONFIGS for field in dataclasses.fields(config)]
EVERY_OPTION = pytest.mark.parametrize(("config", "field"), OPTIONS, ids=[f"{c.__name__}.{f.name}" for c, f in OPTIONS])


@pytest.mark.parametrize("config", CONFIGS)
def test_the_defaults_pass_their_own_checks(config: type[Any]) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    assert configure(config, defaults) == configure(config, {}) == config()


@EVERY_OPTION
def test_the_help_of_every_option_is_one_sentence(config: type[Any], field: dataclasses.Field[Any]) -> None:
    assert re.fullmatch(r"[A-Za-z0-9].*[.]", about(field).help)


@EVERY_OPTION
def test_every_numeric_option_has_a_smallest_value(config: type[Any], field: dataclasses.Field[Any]) -> None:
    kind = typing.get_type_hints(config)[field.name]
    numeric = {int, float} & {kind, *typing.get_args(kind)}
    if numeric and about(field).parse is None:
        assert about(field).least is not None
        with pytest.raises(UsageError, match="is below"):
            configure(config, {field.name: -1})


@EVERY_OPTION
def test_every_option_refuses_an_object_under_its_shell_name(config: type[Any], field: dataclasses.Field[Any]) -> None:
    with pytest.raises(UsageError) as caught:
        configure(config, {field.name: object()})
    assert f"--{field.name.replace('_', '-')}" in caught.value.where
    assert str(caught.value).isprintable()


def test_options_of_one_name_mean_the_same_everywhere() -> None:
    kinds: dict[str, set[str]] = {}
    for config, field in OPTIONS:
        # An evaluation takes the first two from the file by default, a pruning the next; the last it has as a target.
        if field.name not in {"seed", "dataset", "finetune_lr", "latency"}:
            kinds.setdefault(field.name, set()).add(str(typing.get_type_hints(config)[field.name]))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("config", "name", "default"),
    [
        (QuantizeConfig, "accuracy_tolerance", Decimal("0.2")),
        (QuantizeConfig, "tolerance_kind", "relative"),
        (QuantizeConfig, "memory_budget", None),
        (QuantizeConfig, "budget_on", "file"),
        (QuantizeConfig, "rounding", "round_to_nearest"),
        (QuantizeConfig, "min_bits", 2),
        (QuantizeConfig, "calibration_images", 1024),
        (QuantizeConfig, "margin", 10),
        (QuantizeConfig, "seed", 42),
        (TrainConfig, "epochs", 10),
        (TrainConfig, "lr", 0.001),
        (TrainConfig, "batch_size", 100),
        (TrainConfig, "optimizer", "adam"),
        (TrainConfig, "reconstruction", "sse"),
        (TrainConfig, "mask", "label"),
        (TrainConfig, "decay_steps", 2000),
        (TrainConfig, "decay_rate", 0.96),
        (TrainConfig, "hard_training", False),
        (TrainConfig, "split_seed", 1234),
        (EvaluateConfig, "split", "test"),
        (PruneConfig, "candidates", 50),
        (PruneConfig, "importance", "l1"),
        (PruneConfig, "scope", "layerwise"),
        (PruneConfig, "round_to", 1),
        (PruneConfig, "top_k", 3),
        (PruneConfig, "finetune_epochs", 3),
        (PruneConfig, "distill", "scores"),
        (PruneConfig, "seed", 42),
    ],
)
def test_a_promised_default_stays(config: type[Any], name: str, default: object) -> None:
    assert getattr(config(), name) == default


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("0.2", "0.2"),
        (0.2, "0.2"),
        ("0.20", "0.20"),
        (Decimal("0.20"), "0.20"),
        (2, "2"),
        ("0", "0"),
        ("100", "100"),
        ("1e-3", "0.001"),
        ("0.1234567890123456789", "0.1234567890123456789"),
    ],
)
def test_a_tolerance_is_kept_exactly_as_typed(typed: object, kept: str) -> None:
    assert str(configure(QuantizeConfig, {"accuracy-tolerance": typed}).accuracy_tolerance) == kept


RUBBISH = ["", "x", "-0.1", "100.01", "nan", "inf", "0,2", "0.2%", "0_2", "1e-21", "0e30", "0." + "0" * 21, None, [0.2]]


@pytest.mark.parametrize("typed", RUBBISH)
def test_a_tolerance_that_is_no_percentage_is_refused_under_its_name(typed: object) -> None:
    with pytest.raises(UsageError, match="is not a percentage from 0 to 100") as caught:
        configure(QuantizeConfig, {"accuracy_tolerance": typed})
    assert caught.value.where == "--accuracy-tolerance"


@pytest.mark.parametrize("typed", ["0", "100", "1e-20", "1e2", "1E+1", "0.00000000000000000001"])
def test_every_percentage_that_is_read_is_a_tolerance(typed: str) -> None:
    assert Tolerance(parse_percent(typed)).percent == Decimal(typed)


def test_a_budget_is_read_as_a_size() -> None:
    assert configure(QuantizeConfig, {"memory-budget": 0.2}).memory_budget == 200_000
    assert configure(QuantizeConfig, {"memory-budget": "1.5 MiB"}).memory_budget == 1_572_864


def test_a_budget_that_is_no_size_is_refused_under_its_name() -> None:
    with pytest.raises(UsageError, match="is not a size") as caught:
        configure(QuantizeConfig, {"memory_budget": "much"})
    assert caught.value.where == "--memory-budget"


@pytest.mark.parametrize("config", [PruneConfig, QuantizeConfig, TrainConfig])
def test_a_seed_fits_what_files_can_hold(config: type[Any]) -> None:
    assert configure(config, {"seed": 2**63 - 1}).seed == 2**63 - 1
    with pytest.raises(UsageError, match=r"is above 9\.22337e\+18 \(--seed\)"):
        configure(config, {"seed": 2**63})


@pytest.mark.parametrize(
    ("name", "typed", "near"),
    [
        ("rounding", "round-to-nearest", "'round_to_nearest'"),
        ("rounding", "stochastic", "'stochastic_rounding'"),
        ("rounding", "truncate", "'truncation'"),
        ("search", "common_width", "'common-width'"),
    ],
)
def test_a_misspelled_name_is_answered_with_near_matches(name: str, typed: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        configure(QuantizeConfig, {name: typed})
    assert near in caught.value.do
    assert caught.value.where == f"--{name}"


@pytest.mark.parametrize("typed", ["3x32x48", [3, 32, 48], (3, 32, 48)])
def test_the_size_of_an_image_is_channels_height_and_width(typed: object) -> None:
    assert configure(InspectConfig, {"input": typed}).input == (3, 32, 48)


@pytest.mark.parametrize(
    "typed", ["", "28", "28x28", "1x28x28x1", "0x28x28", "1x-2x28", "1x28x28.0", "1×28×28", [1, 28]]
)
def test_what_is_no_size_of_an_image_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="is not channels x height x width"):
        parse_image(typed)


def test_numbers_of_a_network_are_read_as_json_or_else_as_names() -> None:
    typed = ("classes=5", "squash-eps=1e-7", "widths=[4, 8]", "prior_logits=true", "decoder=fc", "odd=[1,", "empty=")
    assert model_numbers(typed) == {
        "classes": 5,
        "squash_eps": 1e-7,
        "widths": [4, 8],
        "prior_logits": True,
        "decoder": "fc",
        "odd": "[1,",
        "empty": "",
    }


def test_a_number_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(UsageError, match="'classes' is not KEY=VALUE") as caught:
        model_numbers(("classes",))
    assert caught.value.where == "--model-arg"
