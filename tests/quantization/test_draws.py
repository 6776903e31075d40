from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.quantization.draws import site_key, uniforms, weight_uniforms

WRAP = 2**64
STEP = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 % WRAP
    z ^= z >> 27
    z = z * 0x94D049BB133111EB % WRAP
    return z ^ z >> 31


def draw(seed: int, site: str, image: int, element: int) -> float:
    """One draw from the definition, with whole numbers modulo 2^64."""
    key = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "little")
    stream = mix(mix(mix(seed % WRAP) ^ key) ^ image)
    return (mix((stream + (element + 1) * STEP) % WRAP) >> 40) / 2**24


def test_the_oracle_gives_the_published_first_output_of_splitmix64() -> None:
    assert mix(STEP) == 0xE220A8397B1DCDAF


@settings(deadline=None)
@given(
    st.integers(-(2**70), 2**70),
    st.sampled_from(["conv1.out", "class_caps.logits@1", "class_caps.logits@2"]),
    st.lists(st.integers(0, 2**63 - 1), max_size=4),
    st.integers(0, 5),
)
def test_draws_follow_the_definition(seed: int, site: str, images: list[int], count: int) -> None:
    expected = [[draw(seed, site, image, element) for element in range(count)] for image in images]
    drawn = uniforms(seed, site, torch.tensor(images, dtype=torch.int64), count)
    assert drawn.tolist() == expected
    assert (drawn.shape, drawn.dtype) == ((len(images), count), torch.float32)


def test_weights_count_as_the_last_image_index() -> None:
    expected = [draw(5, "conv1.weight", 2**64 - 1, element) for element in range(9)]
    assert weight_uniforms(5, "conv1.weight", 9).tolist() == expected


def test_the_site_key_is_the_start_of_the_digest() -> None:
    assert site_key("") == 0x141CFC9842C4B0E3  # SHA-256 of nothing starts e3 b0 c4 42 98 fc 1c 14


@pytest.mark.parametrize("count", [130_000, 131_072, 131_073, 300_000])
def test_long_arrays_are_drawn_like_short_ones(count: int) -> None:
    drawn = uniforms(1, "primary.votes", torch.tensor([3, 8]), count)
    elements = [0, 1, 65_535, 65_536, 131_071, 131_072, 262_143, 262_144, count - 1]
    for row, image in enumerate((3, 8)):
        for element in (e for e in elements if e < count):
            assert drawn[row, element].item() == draw(1, "primary.votes", image, element)


def test_large_batches_are_drawn_like_single_images() -> None:
    images = torch.arange(300)
    drawn = uniforms(2, "conv1.out", images, 1000)
    for image in (0, 1, 130, 131, 132, 299):
        assert torch.equal(drawn[image], uniforms(2, "conv1.out", images[image : image + 1], 1000)[0])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_draws_do_not_depend_on_the_batch_size(batch: int) -> None:
    images = torch.arange(1000, 1064)
    whole = uniforms(9, "class_caps.sum@1", images, 33)
    parts = [uniforms(9, "class_caps.sum@1", part, 33) for part in torch.split(images, batch)]
    assert torch.equal(whole, torch.cat(parts))


def test_draws_do_not_depend_on_the_image_order() -> None:
    images = torch.arange(64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniforms(9, "a.out", images, 33)[order], uniforms(9, "a.out", images[order], 33))


def test_sites_seeds_images_and_iterations_have_their_own_draws() -> None:
    image = torch.tensor([4])
    rows = [
        uniforms(1, "class_caps.logits@1", image, 50),
        uniforms(1, "class_caps.logits@2", image, 50),
        uniforms(2, "class_caps.logits@1", image, 50),
        uniforms(1, "class_caps.logits@1", image + 1, 50),
        uniforms(1, "primary.logits@1", image, 50),
        weight_uniforms(1, "class_caps.logits@1", 50)[None],
    ]
    assert len(set(torch.cat(rows).flatten().tolist())) == 300


def test_draws_are_spread_evenly_over_the_unit_interval() -> None:
    drawn = uniforms(0, "a.out", torch.arange(100), 10_000)
    tenths = torch.histc(drawn, 10, 0, 1) / 1e6
    assert (drawn.min().item() >= 0, drawn.max().item() < 1) == (True, True)
    assert tenths.tolist() == pytest.approx([0.1] * 10, abs=5 * (0.09 / 1e6) ** 0.5)


def test_neighbouring_images_elements_and_seeds_are_uncorrelated() -> None:
    drawn = uniforms(0, "a.out", torch.arange(100), 1001) - 0.5
    other = uniforms(1, "a.out", torch.arange(100), 1001) - 0.5
    for left, right in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1]), (drawn, other)):
        assert (left * right).mean().item() * 12 == pytest.approx(0, abs=5 / 99_000**0.5)


def test_the_indices_stay_as_they_are_and_no_generator_is_used() -> None:
    images = torch.tensor([5, 6])
    state = torch.get_rng_state()
    uniforms(1, "a.out", images, 3)
    assert images.tolist() == [5, 6]
    assert torch.equal(state, torch.get_rng_state())


def test_draws_are_float32_whatever_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert uniforms(1, "a.out", torch.tensor([5]), 3).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
