from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from qcaps import registry
from qcaps.data.augment import Augmentation
from qcaps.data.dataset import DataSet, OpenDataSet
from qcaps.data.named_preparation import NamedPreparation
from qcaps.errors import UsageError
from qcaps.models.spec import Preset
from qcaps.registry import Entry, Registry, near_matches

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, Registry)]
ENTRIES = [(kind, entry.name) for kind in REGISTRIES for entry in kind]
EVERY_ENTRY = pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=[f"{kind.kind}-{name}" for kind, name in ENTRIES])

PATHS = Registry(
    "path", Entry("posix", "With slashes.", "pathlib:PurePosixPath"), Entry("broken", "Nowhere.", "no_such_module:x")
)


def test_the_kinds_are_those_that_can_be_listed() -> None:
    assert sorted(kind.plural for kind in REGISTRIES) == [
        *("augmentations", "datasets", "decoders", "importances", "importers"),
        *("models", "preparations", "roundings", "routings", "searches"),
    ]


@EVERY_ENTRY
def test_every_target_resolves(kind: Registry, name: str) -> None:
    target = kind.load(name)
    assert callable(target) or isinstance(target, DataSet | OpenDataSet | Preset | NamedPreparation | Augmentation)


@EVERY_ENTRY
def test_every_entry_has_a_doc_of_one_line(kind: Registry, name: str) -> None:
    assert re.fullmatch(r"[A-Z0-9].{5,100}[.]", kind.entry(name).doc)


@EVERY_ENTRY
def test_every_name_can_be_typed(kind: Registry, name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name)


def test_what_is_registered_knows_its_name() -> None:
    assert [registry.DATASETS.load(name).name for name in registry.DATASETS.names()] == [*registry.DATASETS.names()]


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="path 'posix' is registered twice"):
        Registry("path", Entry("posix", "One.", "a:b"), Entry("other", "Two.", "a:b"), Entry("posix", "One.", "a:b"))


def test_entries_are_listed_in_the_order_in_which_they_were_given() -> None:
    assert PATHS.names() == ("posix", "broken")
    assert [entry.doc for entry in PATHS] == ["With slashes.", "Nowhere."]


def test_only_what_is_registered_is_contained() -> None:
    assert "posix" in PATHS
    assert "windows" not in PATHS


def test_loading_gives_the_target_itself() -> None:
    assert PATHS.load("posix") is PurePosixPath


def test_a_target_is_not_imported_before_it_is_loaded() -> None:
    assert PATHS.entry("broken").target == "no_such_module:x"
    with pytest.raises(ModuleNotFoundError):
        PATHS.load("broken")


@pytest.mark.parametrize("find", [PATHS.entry, PATHS.load])
def test_an_unknown_name_is_refused_with_its_place_and_near_matches(find: object) -> None:
    assert callable(find)
    with pytest.raises(UsageError) as caught:
        find("posixx", where="--path")
    assert str(caught.value) == "unknown path 'posixx' (--path); did you mean 'posix'? `qcaps list paths` shows all"


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UsageError) as caught:
        PATHS.entry("zzz")
    assert str(caught.value) == "unknown path 'zzz'; `qcaps list paths` shows all"


def test_a_hostile_name_stays_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        PATHS.entry("posix\n\x1b[2J" * 100)
    assert str(caught.value).isprintable()
    assert len(caught.value.what) < 120


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("truncate", "did you mean 'truncation'? "),
        ("digit", "did you mean 'digits' or 'bigits'? "),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_near_matches_are_told_best_first(name: str, said: str) -> None:
    assert near_matches(name, ("bigits", "truncation", "digits")) == said
