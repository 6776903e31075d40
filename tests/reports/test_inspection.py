from __future__ import annotations

import dataclasses

import pytest

from qcaps.data.preparation import Preparation
from qcaps.data.spec import data_spec
from qcaps.reports.inspection import (
    Decoder,
    InspectedFile,
    Inspection,
    PrunableUnit,
    Quantized,
    Site,
    Stage,
    inspection_lines,
    shape_text,
)

NETWORK = Inspection(
    name="deepcaps",
    kind="network",
    model={"architecture": "deepcaps", "channels": 1},
    input=(1, 28, 28),
    any_size=True,
    classes=10,
    parameters=8_445_504,
    macs=267_675_648,
    activation_values=1_000,
    float_bytes=33_783_040,
    decoder=Decoder("convdecoder28", 58_417),
    stages=(
        Stage("conv1", ((128, 28, 28),), 1_536, 903_168, 900, 2, 1, {"channels": 128}),
        Stage("split", ((640, 8), (10, 4, 4)), 8_443_968, 266_772_480, 100, 0, 1, {"types": 32, "dims": 8}),
    ),
    sites=(
        Site("conv1.weight", "weights", (128, 1, 3, 3), 1_152, None, None, None),
        Site("split.coupling@1", "activations", (), 1, None, None, None),
    ),
    units=(PrunableUnit("conv1.channels", 128, ("a", "b")),),
    file=None,
)
CHECKPOINT = InspectedFile("a.pt", "ab" * 32, 1_689_000, data_spec("digits", preparation=Preparation(256)), {}, None)
FORMATS = [
    ({"kind": "fixed_point", "bits": 8, "frac_bits": 5}, "8 bits, step 2^-5"),
    ({"kind": "fixed_point", "bits": 3, "frac_bits": -2}, "3 bits, step 2^2"),
    ({"kind": "logarithmic", "bits": 4, "max_exponent": -3}, "4 bits, up to 2^-3"),
    ({"kind": "fixed_point", "bits": 2, "frac_bits": [5, 9, -1]}, "2 bits, step 2^-9..2^1 by channel"),
    ({"kind": "logarithmic", "bits": 4, "max_exponent": [-3, 0]}, "4 bits, up to 2^-3..2^0 by channel"),
    ({"kind": "float32", "bits": 32}, "float32"),
]


def lines_of(found: Inspection, *, sites: bool = False, units: bool = False) -> list[str]:
    return inspection_lines(found, sites=sites, units=units)


def of_file(**changes: object) -> list[str]:
    return lines_of(dataclasses.replace(NETWORK, name="a.pt", file=dataclasses.replace(CHECKPOINT, **changes)))


def test_a_network_is_told_in_facts_and_one_table() -> None:
    assert lines_of(NETWORK) == [
        "deepcaps: network, deepcaps",
        "  input        1x28x28, 10 classes, adapts to other sizes",
        "  parameters   8,445,504",
        "  MACs         267,675,648 per image",
        "  in float     33.783 MB",
        "  decoder      convdecoder28, 58,417 parameters apart",
        "",
        "stage  output          parameters         MACs  activations  sites  units",
        "conv1  128x28x28            1,536      903,168          900      3  128 channels",
        "split  640x8 + 10x4x4   8,443,968  266,772,480          100      1  32 types, 8 dims",
        "total                   8,445,504  267,675,648        1,000      2",
    ]


def test_a_network_of_one_size_without_a_decoder_has_fewer_words() -> None:
    lines = lines_of(dataclasses.replace(NETWORK, any_size=False, decoder=None))
    assert lines[1] == "  input        1x28x28, 10 classes"
    assert not any("decoder" in line for line in lines)


def test_a_checkpoint_names_its_images_and_its_file() -> None:
    assert of_file()[6:9] == [
        "  data set     digits, pixels divided by 256",
        "  file         1.689 MB",
        f"  sha256       {'ab' * 32}",
    ]


def test_images_that_are_no_data_set_of_ours_are_told_so() -> None:
    assert "  data set     none of ours" in of_file(data=None)


def test_an_import_is_told_with_its_source() -> None:
    record = {"import": {"source": "q-capsnets", "file": "model.pt", "ignored": []}}
    assert "  imported     model.pt from q-capsnets" in of_file(record=record)


def test_what_a_stranger_wrote_cannot_move_the_cursor() -> None:
    lines = of_file(record={"import": {"source": "a\x1b[2J", "file": "b\nc" * 100}})
    (line,) = (line for line in lines if "imported" in line)
    assert line.isprintable()
    assert len(line) <= 100


@pytest.mark.parametrize("record", [{"import": None}, {"import": "q-capsnets"}, {}])
def test_a_record_that_tells_of_no_import_adds_nothing(record: dict[str, object]) -> None:
    assert of_file(record=record) == of_file()


def test_an_artifact_is_told_with_its_widths() -> None:
    quantized = Quantized("truncation", 42, {"weights": (4, 8), "routing": (6, 6)}, 121_304)
    assert of_file(quantized=quantized)[6:9] == [
        "  widths       weights 4 to 8 bits, routing 6 bits",
        "  rounding     truncation",
        "  weights      121.304 kB",
    ]


def test_sites_and_units_are_told_on_request() -> None:
    assert lines_of(NETWORK, sites=True, units=True)[11:] == [
        "",
        "site              group        shape      values  format",
        "conv1.weight      weights      128x1x3x3   1,152  float32",
        "split.coupling@1  activations  1               1  float32",
        "",
        "unit            count  tensors",
        "conv1.channels    128        2",
    ]


def test_ranges_are_told_where_they_are_known_with_what_formats_hold() -> None:
    weight, coupling = NETWORK.sites
    found = dataclasses.replace(weight, range=(-0.123456, 9.75))
    lines = lines_of(dataclasses.replace(NETWORK, sites=(found, coupling)), sites=True)[-3:]
    assert lines == [
        "site              group        shape      values  range           format",
        "conv1.weight      weights      128x1x3x3   1,152  -0.123 to 9.75  float32",
        "split.coupling@1  activations  1               1                  float32",
    ]
    held = dataclasses.replace(found, format={"bits": 4, "frac_bits": 0}, holds=(-8.0, 7.0))
    last = lines_of(dataclasses.replace(NETWORK, sites=(held,)), sites=True)[-1]
    assert last.endswith("1,152  -0.123 to 9.75  4 bits, step 2^0  -8 to 7")


def test_a_network_without_units_says_so() -> None:
    assert lines_of(dataclasses.replace(NETWORK, units=()), units=True)[-1] == "nothing can be pruned"


@pytest.mark.parametrize(("plain", "text"), FORMATS)
def test_the_format_of_a_site_is_told_in_words(plain: dict[str, str | int], text: str) -> None:
    site = dataclasses.replace(NETWORK.sites[0], format=plain)
    assert lines_of(dataclasses.replace(NETWORK, sites=(site,)), sites=True)[-1].endswith(f"1,152  {text}")


def test_the_shape_of_a_single_value_is_one() -> None:
    assert (shape_text((256, 20, 20)), shape_text(())) == ("256x20x20", "1")
