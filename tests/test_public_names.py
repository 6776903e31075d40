from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import qcaps
import qcaps.config

# Whatever draws or computes; none of it may be imported before a verb is called.
HEAVY = ("torch", "torchvision", "torch_pruning", "accelerate", "numpy", "sklearn", "matplotlib", "pydantic", "jinja2")


def test_the_public_names_are_the_verbs() -> None:
    assert qcaps.__all__ == [
        *("compare", "evaluate", "import_checkpoint", "inspect", "load"),
        *("prune", "quantize", "run", "train", "verify"),
    ]


@pytest.mark.parametrize("package", [qcaps, qcaps.config])
def test_public_names_are_sorted_and_resolve(package: object) -> None:
    names: list[str] = package.__all__
    assert names == sorted(set(names))
    assert all(callable(getattr(package, name)) for name in names)


@pytest.mark.parametrize("name", qcaps.__all__)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    found = getattr(qcaps, name)
    assert found.__name__ == name
    assert found is getattr(importlib.import_module(found.__module__), name)
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qcaps' has no attribute 'prunes'"):
        qcaps.prunes  # noqa: B018


def test_a_verb_can_be_imported_by_name() -> None:
    from qcaps import train

    assert train is qcaps.train


@pytest.mark.parametrize("module", ["qcaps", "qcaps.config", "qcaps.registry", "qcaps.errors", "qcaps.progress"])
def test_a_light_module_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & sys.modules.keys()), sep=',')"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "\n"
    assert found.stderr == ""


def test_listing_names_imports_nothing_heavy() -> None:
    script = (
        "import sys; from qcaps.registry import MODELS, ROUNDINGS; print(len(MODELS.names() + ROUNDINGS.names())); "
        "import qcaps; dir(qcaps); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == f"{len(qcaps.registry.MODELS.names() + qcaps.registry.ROUNDINGS.names())}\nFalse\n"
