from __future__ import annotations

from pathlib import Path

import pytest

from qcaps.errors import RecipeError
from qcaps.recipe.lookup import shipped_recipes
from qcaps.recipe.schema import check_recipe
from qcaps.recipe.yaml_reader import read_yaml

SHIPPED = [pytest.param(Path(entry.target), id=entry.name) for entry in shipped_recipes()]


def recipe_of(text: str):
    return check_recipe(read_yaml(text.encode(), source="r.yaml"), source="r.yaml")


def problems_of(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(RecipeError) as raised:
        recipe_of(text)
    return [(problem.line, problem.path, problem.message) for problem in raised.value.problems]


def problem_of(*lines: str) -> tuple[int, str, str]:
    """Give the only problem of a recipe that begins with its schema line."""
    (problem,) = problems_of("\n".join(("schema: qcaps.recipe/1", *lines)))
    return problem


GOOD = """\
schema: qcaps.recipe/1
description: One of each.
seed: 7
model: {checkpoint: start.pt}
steps:
  - {step: train, name: finetune, dataset: digits, epochs: 3, model-arg: [norm_momentum=0.1]}
  - {step: quantize, rounding: truncation}
  - {step: eval, split: validation}
promises: {accuracy-tolerance: 0.5, memory-budget: 1.5 MB}
"""


def test_a_recipe_gives_its_steps_in_order():
    recipe = recipe_of(GOOD)
    assert (recipe.description, recipe.checkpoint) == ("One of each.", "start.pt")
    assert [(step.verb, step.name) for step in recipe.steps] == [
        ("train", "finetune"),
        ("quantize", "quantize"),
        ("eval", "eval"),
    ]


def test_the_seed_goes_to_every_step_and_the_promises_to_the_step_that_knows_them():
    train, quantize, evaluate = (dict(step.options) for step in recipe_of(GOOD).steps)
    assert train == {"seed": 7, "dataset": "digits", "epochs": 3, "model-arg": ["norm_momentum=0.1"]}
    assert quantize == {
        "seed": 7,
        "rounding": "truncation",
        "accuracy-tolerance": 0.5,
        "memory-budget": "1.5 MB",
    }
    assert evaluate == {"seed": 7, "split": "validation"}


def test_what_a_step_says_wins_over_what_holds_for_all():
    recipe = recipe_of("schema: qcaps.recipe/1\nseed: 1\nsteps: [{step: train, seed: 2}, {step: train, name: b}]")
    assert [step.options["seed"] for step in recipe.steps] == [2, 1]


def test_all_problems_are_told_at_once_in_the_order_of_their_lines():
    text = """\
schema: qcaps.recipe/2
sede: 3
steps:
  - step: train
    epochs: many
    lr: -1
    bacth-size: 3
  - step: trian
  - {step: eval, name: a b}
  - step: quantize
    rounding: truncate
    min-bits: 17
promises:
  memory-budget: 3 parsecs
  forever: true
"""
    assert [(line, path) for line, path, _ in problems_of(text)] == [
        (1, "schema"),
        (2, "sede"),
        (5, "steps[0].epochs"),
        (6, "steps[0].lr"),
        (7, "steps[0].bacth-size"),
        (8, "steps[1].step"),
        (9, "steps[2].name"),
        (11, "steps[3].rounding"),
        (12, "steps[3].min-bits"),
        (14, "steps[3].memory-budget"),
        (15, "promises.forever"),
    ]


def test_the_error_has_a_line_for_every_problem():
    with pytest.raises(RecipeError) as raised:
        recipe_of("schema: 1\nsteps: []")
    lines = str(raised.value).splitlines()
    assert lines[0] == "2 problems in r.yaml:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  line 1, schema", "  line 2, steps"]
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "path", "close"),
    [
        ("sedd: 1", "sedd", "'seed'"),
        ("promise: {}", "promise", "'promises'"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(key, path, close):
    line, found, message = problem_of(key, "steps: [{step: eval}]")
    assert (line, found) == (2, path)
    assert message.startswith("unknown key; did you mean ")
    assert close in message


@pytest.mark.parametrize("key", ["out", "fresh", "threads", "data-dir", "reproducible", "exit-zero", "batch_size"])
def test_what_the_runner_sets_is_no_key_of_a_step(key):
    line, path, message = problem_of(f"steps: [{{step: train, {key}: 3}}]")
    assert (line, path) == (2, f"steps[0].{key}")
    assert message.startswith("unknown key")


def test_an_unknown_step_is_answered_with_the_nearest_one():
    _, _, message = problem_of("steps: [{step: quantise}]")
    assert message.startswith("unknown step 'quantise'; did you mean 'quantize'?")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    _, path, message = problem_of("steps: [{step: quantize, rounding: truncate}]")
    assert path == "steps[0].rounding"
    assert "did you mean 'truncation'" in message


@pytest.mark.parametrize(
    "steps",
    [
        "[{step: train}, {step: train}]",
        "[{step: train}, {step: eval, name: train}]",
        "[{step: eval, name: a}, {step: train, name: a}]",
    ],
)
def test_two_steps_of_one_name_are_refused(steps):
    _, path, message = problem_of(f"steps: {steps}")
    assert path == "steps[1]"
    assert message.startswith("two steps are called")


@pytest.mark.parametrize("name", ["''", "a b", "a/b", "..", "a.b", "'a\\b'"])
def test_a_name_that_makes_no_folder_is_refused(name):
    assert problem_of(f"steps: [{{step: eval, name: {name}}}]")[1] == "steps[0].name"


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (["steps: []"], "steps"),
        (["steps: train"], "steps"),
        (["description: none"], "steps"),
        (["steps: [train]"], "steps[0]"),
        (["steps: [{name: a}]"], "steps[0]"),
        (["steps: [{step: [train]}]"], "steps[0].step"),
        (["steps: [{step: eval}]", "model: start.pt"], "model"),
        (["steps: [{step: eval}]", "model: {}"], "model"),
        (["steps: [{step: eval}]", "model: {checkpoint: a, name: b}"], "model"),
        (["steps: [{step: quantize}]", "promises: 3"], "promises"),
    ],
)
def test_a_part_of_the_wrong_shape_is_refused(lines, path):
    assert problem_of(*lines)[1] == path


@pytest.mark.parametrize("text", ["", "[]", "text", "3"])
def test_a_recipe_that_is_no_mapping_is_refused(text):
    ((line, path, message),) = problems_of(text)
    assert (line, path) == (1, "")
    assert message.startswith("a recipe is a mapping")


def test_a_recipe_without_a_schema_is_refused():
    assert problems_of("steps: [{step: eval}]") == [(1, "schema", "must be qcaps.recipe/1")]


def test_promises_that_no_step_keeps_are_refused():
    assert problem_of("steps: [{step: eval}]", "promises: {memory-budget: 1}") == (
        3,
        "promises",
        "no step keeps them; add a quantize step",
    )


@pytest.mark.parametrize("value", ["true", "[1]", "{a: 1}", "1.5", "null", "'1e400'"])
def test_a_whole_number_is_nothing_else(value):
    assert problem_of(f"steps: [{{step: train, epochs: {value}}}]")[1] == "steps[0].epochs"


@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_recipe_is_right(path):
    recipe = recipe_of(path.read_text())
    assert recipe.description
    assert recipe.steps
