from __future__ import annotations

import time

import pytest
from shell import call

from qcaps.errors import RecipeError
from qcaps.recipe.lookup import shipped_parts
from qcaps.recipe.reading import read_recipe
from qcaps.recipe.schema import Recipe


@pytest.fixture
def write(tmp_path):
    """Write files beside each other; give the path of the first."""

    def to_files(**texts: str):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return str(tmp_path / f"{next(iter(texts))}.yaml")

    return to_files


def base_of(path: str, *changes: str) -> Recipe:
    return read_recipe(path, changes).base


def problems_of(path: str) -> list[tuple[str, int, str]]:
    with pytest.raises(RecipeError) as raised:
        read_recipe(path, ())
    return [(problem.source, problem.line, problem.path) for problem in raised.value.problems]


HEAD = "schema: qcaps.recipe/1\n"


def test_what_is_imported_stands_in_the_recipe(write):
    path = write(r=f"{HEAD}imports: [data]\nsteps: [{{step: quantize}}]", data="steps: [{step: train, epochs: 3}]")
    assert [(step.verb, dict(step.options)) for step in base_of(path).steps] == [
        ("train", {"epochs": 3}),
        ("quantize", {}),
    ]


def test_a_later_import_wins_and_the_recipe_itself_over_all(write):
    path = write(
        r=f"{HEAD}imports: [a, b]\nsteps: [{{step: train, lr: 0.3}}]",
        a="seed: 1\nsteps: [{step: train, epochs: 1, lr: 0.1, batch-size: 11}]\npromises: {accuracy-tolerance: 1}",
        b="seed: 2\nsteps: [{step: train, epochs: 2, lr: 0.2}, {step: quantize}]\npromises: {memory-budget: 1MB}",
    )
    train, quantize = base_of(path).steps
    assert train.options == {"seed": 2, "epochs": 2, "lr": 0.3, "batch-size": 11}
    assert quantize.options == {"seed": 2, "accuracy-tolerance": 1, "memory-budget": "1MB"}


def test_a_part_imports_others_from_its_own_folder(write, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yaml").write_text("imports: [b]")
    (tmp_path / "deep" / "b.yaml").write_text("steps: [{step: eval}]")
    assert [step.verb for step in base_of(write(r=f"{HEAD}imports: [deep/a]")).steps] == ["eval"]


def test_a_part_may_be_imported_twice_on_different_ways(write):
    path = write(r=f"{HEAD}imports: [a, b]", a="imports: [c]", b="imports: [c]", c="steps: [{step: eval}]")
    assert len(base_of(path).steps) == 1


@pytest.mark.parametrize(
    "texts", [{"r": "imports: [r]"}, {"r": "imports: [a]", "a": "imports: [b]", "b": "imports: [a]"}]
)
def test_a_cycle_is_refused_with_the_way_around_it(write, texts):
    with pytest.raises(RecipeError, match="imports form a cycle: r imports "):
        read_recipe(write(**texts), ())


def test_a_missing_part_is_answered_with_those_that_ship(write):
    with pytest.raises(RecipeError, match="did you mean 'shallow_capsnet_training'") as raised:
        read_recipe(write(r=f"{HEAD}imports: [shallow_capsnet_trainign]\nsteps: [{{step: eval}}]"), ())
    assert raised.value.problems[0].path == "imports[0]"


def test_problems_of_a_part_are_told_with_its_name_and_line(write):
    path = write(r=f"{HEAD}imports: [a]\nsede: 1", a="\nsteps:\n  - {step: train, epochs: many}\n")
    assert problems_of(path) == [("", 3, "sede"), ("a", 3, "steps[0].epochs")]
    with pytest.raises(RecipeError, match=r"\n  a, line 3, steps\[0\]\.epochs: 'many'"):
        read_recipe(path, ())


@pytest.mark.parametrize("imports", ["a", "{a: 1}", "[1]"])
def test_imports_are_a_list_of_names(write, imports):
    assert ("", 2, "imports") in problems_of(write(r=f"{HEAD}imports: {imports}\nsteps: [{{step: eval}}]"))


def test_overrides_reach_what_was_imported(write):
    path = write(r=f"{HEAD}imports: [a]", a="steps: [{step: train, epochs: 3}]")
    assert base_of(path, "train.epochs=9").steps[0].options == {"epochs": 9}


def test_every_shipped_part_is_imported_by_a_shipped_recipe():
    from qcaps.artifacts.bundled import bundled_folder

    text = "".join(path.read_text() for path in bundled_folder("recipes").glob("*.yaml"))
    assert shipped_parts()
    assert all(f"imports: [{part}]" in text for part in shipped_parts())


FIVE = """\
schema: qcaps.recipe/1
sede: 3
steps:
  - step: train
    dataset: digits
    dataset: mnist
    epochs: many
  - {step: quantize, rounding: truncate}
promises:
  memory-budget: 3 parsecs
"""


def test_five_different_mistakes_are_told_at_once_in_less_than_a_second(capsys, tmp_path):
    (tmp_path / "r.yaml").write_text(FIVE)
    start = time.process_time()
    answer = call(capsys, "run", tmp_path / "r.yaml")
    assert time.process_time() - start < 1
    assert (answer.code, answer.out) == (2, "")
    assert [line.split(":")[0] for line in answer.err.splitlines()] == [
        "error",
        "  line 2, sede",
        "  line 6, steps[0].dataset",
        "  line 7, steps[0].epochs",
        "  line 8, steps[1].rounding",
        "  line 10, steps[1].memory-budget",
    ]
