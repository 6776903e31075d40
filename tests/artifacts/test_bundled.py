from __future__ import annotations

from pathlib import Path

import pytest

import qcaps
from qcaps.artifacts.bundled import DEFAULT_CHECKPOINT, bundled_folder, find_checkpoint
from qcaps.errors import UsageError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that stands for the top of a checkout with two shipped checkpoints; the tests run elsewhere."""
    for name in ("qcaps", "pretrained", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in (DEFAULT_CHECKPOINT, "other.pt"):
        (tmp_path / "pretrained" / name).touch()
    monkeypatch.setattr(qcaps, "__file__", str(tmp_path / "qcaps" / "__init__.py"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_shipped_files_lie_beside_the_package_of_a_checkout(checkout: Path) -> None:
    assert bundled_folder("pretrained") == checkout / "pretrained"
    assert bundled_folder("recipes") == checkout / "recipes"


def test_shipped_files_lie_inside_of_an_installed_package(checkout: Path) -> None:
    installed = checkout / "qcaps" / "bundled" / "recipes"
    installed.mkdir(parents=True)
    assert bundled_folder("recipes") == installed


def test_no_name_means_the_shipped_default(checkout: Path) -> None:
    assert find_checkpoint(None) == checkout / "pretrained" / DEFAULT_CHECKPOINT


@pytest.mark.parametrize("typed", ["other.pt", "pretrained/other.pt"])
def test_a_shipped_checkpoint_is_found_by_name_from_any_folder(checkout: Path, typed: str) -> None:
    assert find_checkpoint(Path(typed)) == checkout / "pretrained" / "other.pt"


@pytest.mark.parametrize("typed", ["other.pt", "pretrained/other.pt"])
def test_a_file_of_the_user_comes_before_a_shipped_one(checkout: Path, typed: str) -> None:
    own = Path(typed)
    own.parent.mkdir(exist_ok=True)
    own.touch()
    assert find_checkpoint(own) == own


@pytest.mark.parametrize(
    "typed",
    [
        *(
            "missing.pt",
            "runs/other.pt",
            "../other.pt",
            "/other.pt",
            "/pretrained/other.pt",
            "runs/pretrained/other.pt",
        ),
        *("pretrained/../x/other.pt", "x" * 5000, "a\0b"),
    ],
)
def test_any_other_name_is_refused_with_the_shipped_ones(checkout: Path, typed: str) -> None:
    with pytest.raises(UsageError, match="there is no such file") as caught:
        find_checkpoint(Path(typed))
    assert caught.value.where == typed
    assert caught.value.do == f"shipped checkpoints are: {DEFAULT_CHECKPOINT}, other.pt"
    assert str(caught.value).isprintable()


def test_a_package_without_checkpoints_says_so(checkout: Path) -> None:
    for path in (checkout / "pretrained").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="shipped checkpoints are: none"):
        find_checkpoint(None)
