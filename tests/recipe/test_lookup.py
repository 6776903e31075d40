from __future__ import annotations

import pytest

from qcaps.artifacts.bundled import bundled_folder
from qcaps.errors import UsageError
from qcaps.recipe.lookup import find_recipe, shipped_recipes


def test_every_shipped_file_is_listed_with_what_it_is_for():
    entries = shipped_recipes()
    folder = bundled_folder("recipes")
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml") if path.parent.name != "parts"
    )
    assert [f"{entry.name}.yaml" for entry in entries] == files
    assert "quickstart" in {entry.name for entry in entries}
    assert all(len(entry.doc) > 20 and "\n" not in entry.doc for entry in entries)


def test_a_shipped_recipe_is_found_by_its_name():
    name, path = find_recipe("quickstart")
    assert name == "quickstart"
    assert path == bundled_folder("recipes") / "quickstart.yaml"


def test_a_file_is_found_by_its_path_and_named_after_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    assert find_recipe(str(tmp_path / "mine.yaml")) == ("mine", tmp_path / "mine.yaml")


def test_a_shipped_recipe_comes_before_a_file_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "quickstart").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart")[1].name == "quickstart.yaml"
    assert find_recipe("./quickstart")[1].read_text() == ""


@pytest.mark.parametrize("name", ["quikstart", "no\x00where", "a" * 300, "/", ".", ""])
def test_a_missing_recipe_is_a_usage_error(name):
    with pytest.raises(UsageError, match="there is no recipe") as raised:
        find_recipe(name)
    assert "qcaps list recipes" in raised.value.do
    assert len(str(raised.value)) < 400


def test_a_missing_recipe_is_answered_with_the_nearest_one():
    with pytest.raises(UsageError) as raised:
        find_recipe("quikstart")
    assert raised.value.do.startswith("did you mean 'quickstart'?")
