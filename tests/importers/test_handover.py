from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qcaps.artifacts.records import Limits
from qcaps.errors import ArtifactError
from qcaps.importers.handover import Contents, Piece, read_contents, write_contents, write_refusal

PIECES = (
    Piece("layer/inner", "kernel:0", np.arange(6, dtype=np.float32).reshape(2, 3)),
    Piece("", "counter", np.array(7, np.int64)),
    Piece("", "transposed", np.arange(6, dtype=np.float32).reshape(2, 3).T),
    Piece("", "empty", np.zeros((2, 0), np.float32)),
)


def read(folder: Path) -> Contents:
    return read_contents(folder, Limits(), "model.h5")


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read(folder)
    assert caught.value.where == "model.h5"
    return caught.value.what


def test_pieces_come_back_in_order_with_their_shapes(tmp_path: Path) -> None:
    write_contents(tmp_path, Contents(PIECES, {"epoch": 3}, "{}"))
    contents = read(tmp_path)
    found = list(contents.pieces)
    assert (contents.numbers, contents.config) == ({"epoch": 3}, "{}")
    assert [(piece.group, piece.name) for piece in found] == [(piece.group, piece.name) for piece in PIECES]
    for piece, expected in zip(found, PIECES, strict=True):
        assert piece.values.dtype == expected.values.dtype
        assert np.array_equal(piece.values, expected.values)


def test_a_refusal_comes_back_in_one_short_line(tmp_path: Path) -> None:
    write_refusal(tmp_path, "the file is\nstrange" + "!" * 500)
    what = refusal(tmp_path)
    assert what.startswith("the file is strange!!!")
    assert len(what) == 80


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read within the limits" in refusal(tmp_path)


ENTRY = {"group": "", "name": "a", "dtype": "<f4", "shape": [2]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        "\ud800",
        json.dumps({"numbers": {}, "config": "", "entries": []}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "shape": [3]}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "shape": [-1, -2]}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "shape": [2.0]}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "shape": ["2"]}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "shape": [1] * 8 + [2]}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "dtype": "|O"}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "more": 1}]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "name": 1}]}),
        json.dumps({"numbers": {}, "config": 0, "entries": [ENTRY]}),
        json.dumps({"numbers": {"epoch": 1.5}, "config": "", "entries": [ENTRY]}),
        json.dumps({"numbers": {}, "config": "", "entries": [{**ENTRY, "shape": [1]}] * 2}),
        json.dumps({"numbers": {}, "config": " " * 5_000_000, "entries": [ENTRY]}),
    ],
)
def test_a_strange_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "values").write_bytes(bytes(8))
    (tmp_path / "index").write_text(json.dumps({"numbers": {}, "config": "", "entries": [ENTRY]}))
    assert len(list(read(tmp_path).pieces)) == 1
    (tmp_path / "index").write_bytes(text.encode(errors="surrogatepass"))
    assert "cannot be read within the limits" in refusal(tmp_path)


def test_a_refusal_of_endless_length_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "refusal").write_text("!" * 100_000)
    assert "cannot be read within the limits" in refusal(tmp_path)
