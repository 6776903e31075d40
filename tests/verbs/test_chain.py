from __future__ import annotations

import json

import pytest
import torch
from toys import NORMED, toy_images

from qcaps.errors import ArtifactError
from qcaps.verbs.chain import First, first_of, first_to_record

IMAGES = toy_images(NORMED, 19)


def first(*hits: bool) -> First:
    return First("a.pt", "ab" * 32, "efficient-capsnet", {IMAGES.sha256(): torch.tensor(hits)})


@pytest.mark.parametrize("count", [1, 7, 8, 9, 19])
def test_hits_are_read_back_as_they_were_written(count):
    hits = [place % 3 == 0 for place in range(count)]
    record = json.loads(json.dumps({"chain": first_to_record(first(*hits)), "other": 1}))
    found = first_of(record, where="b.pt")
    assert (found.file, found.sha256, found.model) == ("a.pt", "ab" * 32, "efficient-capsnet")
    assert found.hits_on(IMAGES).tolist() == hits


def test_an_image_takes_a_bit():
    (packed,) = first_to_record(first(*[True] * 9, *[False] * 7))["hits"].values()
    assert packed == {"count": 16, "bits": "/4A="}  # 0xff 0x80


def test_other_images_are_not_known():
    assert first(True).hits_on(IMAGES.subset(torch.arange(3))) is None


def test_a_checkpoint_without_a_chain_is_the_first():
    assert first_of({"options": {}}, where="a.pt") is None


def damaged(**changes):
    record = first_to_record(first(*[True] * 9))
    (images,) = record["hits"]
    return record | {"hits": {images: record["hits"][images] | changes}}


@pytest.mark.parametrize(
    "chain",
    [
        None,
        "a.pt",
        {},
        {"file": "a.pt", "sha256": "ab", "model": "m", "hits": [1]},
        damaged(count=17),
        damaged(count=8),
        damaged(count=-1),
        damaged(count=True),
        damaged(count="9"),
        damaged(bits="/4"),
        damaged(bits="…"),
        damaged(bits=None),
    ],
)
def test_a_damaged_record_is_refused_with_its_file(chain):
    with pytest.raises(ArtifactError, match="the record of the first checkpoint is damaged") as raised:
        first_of({"chain": chain}, where="b.pt")
    assert raised.value.where == "b.pt"
