from __future__ import annotations

import pytest

from qcaps.errors import UsageError
from qcaps.verbs.outcome import make_folder


def test_the_output_folder_is_made_with_its_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_an_output_folder_that_is_there_is_kept_with_its_files(tmp_path):
    (tmp_path / "file").write_text("kept")
    make_folder(tmp_path)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_of_the_output_folder_is_a_usage_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="output folder cannot be made") as raised:
        make_folder(tmp_path / name)
    assert raised.value.where == str(tmp_path / name)
