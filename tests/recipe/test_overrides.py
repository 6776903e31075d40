from __future__ import annotations

import pytest

from qcaps.errors import RecipeError, UsageError
from qcaps.recipe.overrides import override
from qcaps.recipe.schema import check_recipe
from qcaps.recipe.yaml_reader import plain, read_yaml

RECIPE = """\
schema: qcaps.recipe/1
steps:
  - {step: train, epochs: 10}
  - {step: train, name: finetune, lr: 0.1}
  - {step: quantize}
promises: {accuracy-tolerance: 1}
"""
TWINS = "schema: qcaps.recipe/1\nsteps: [{step: train}, {step: train}]"


def changed(*changes: str, text: str = RECIPE):
    return plain(override(read_yaml(text.encode(), source="r"), changes))


def refusal(*changes: str, text: str = RECIPE) -> UsageError:
    with pytest.raises(UsageError) as raised:
        changed(*changes, text=text)
    return raised.value


@pytest.mark.parametrize(
    ("change", "step", "key", "value"),
    [
        ("train.epochs=2", 0, "epochs", 2),
        ("train.lr=1e-3", 0, "lr", 0.001),
        ("finetune.lr=0.5", 1, "lr", 0.5),
        ("train.model-arg=[norm_momentum=0.1]", 0, "model-arg", ["norm_momentum=0.1"]),
        ("quantize.rounding=truncation", 2, "rounding", "truncation"),
        ("train.hard-training=true", 0, "hard-training", True),
        ("train.dataset='null'", 0, "dataset", "null"),
    ],
)
def test_a_step_is_changed_by_its_name_or_its_verb(change, step, key, value):
    before, after = changed(), changed(change)
    assert after["steps"][step] == before["steps"][step] | {key: value}
    assert [s for i, s in enumerate(after["steps"]) if i != step] == [
        s for i, s in enumerate(before["steps"]) if i != step
    ]


def test_promises_seed_and_model_are_changed_at_the_top():
    after = changed("promises.memory-budget=1MB", "seed=3", "model.checkpoint=a.pt")
    assert after["promises"] == {"accuracy-tolerance": 1, "memory-budget": "1MB"}
    assert after["seed"] == 3
    assert after["model"] == {"checkpoint": "a.pt"}


def test_promises_may_be_made_where_there_were_none():
    after = changed("promises.memory-budget=1MB", text="schema: qcaps.recipe/1\nsteps: [{step: quantize}]")
    assert after["promises"] == {"memory-budget": "1MB"}


def test_the_last_of_two_changes_wins():
    assert changed("train.epochs=2", "train.epochs=3")["steps"][0]["epochs"] == 3


def test_a_value_may_hold_an_equals_sign():
    assert changed("train.dataset=a=b")["steps"][0]["dataset"] == "a=b"


@pytest.mark.parametrize("path", ["tune.epochs", "epochs", "train.a.epochs", "seed.x", "schema.x", ".epochs"])
def test_a_change_of_a_step_that_is_not_there_shows_those_that_are(path):
    error = refusal(f"{path}=2")
    assert f"'{path}' is not in the recipe" in error.what
    assert error.do == "begin with one of train, finetune, quantize, seed, promises, model"


def test_a_change_that_fits_two_steps_is_refused():
    assert "'train.epochs' names two steps" in refusal("train.epochs=2", text=TWINS).what


@pytest.mark.parametrize("change", ["train.epochs", "=2", "", "epochs 3"])
def test_what_is_no_pair_is_refused_with_an_example(change):
    error = refusal(change)
    assert "is not KEY=VALUE" in error.what
    assert "train.epochs=3" in error.do


@pytest.mark.parametrize("text", ["[1", "&a 1", "*a", "!!python/object:os.system {}", "'", "\udcff"])
def test_a_value_that_is_no_plain_yaml_is_refused(text):
    error = refusal(f"train.epochs={text}")
    assert "is no value" in error.what
    assert error.exit_code == 2


def test_an_unknown_key_of_a_step_is_found_by_the_check():
    root = override(read_yaml(RECIPE.encode(), source="r"), ("train.epohcs=2",))
    with pytest.raises(RecipeError, match=r"steps\[0\]\.epohcs: unknown key; did you mean 'epochs'"):
        check_recipe(root, source="r")


def test_a_recipe_that_is_no_mapping_cannot_be_changed():
    assert refusal("train.epochs=2", text="[]").exit_code == 2


@pytest.mark.parametrize("text", ["steps: 3", "steps: [3, {name: [a]}]", "promises: 3", "{}"])
def test_a_recipe_of_the_wrong_shape_is_a_usage_error_nonetheless(text):
    assert refusal("promises.x.y=2", text=text).exit_code == 2
