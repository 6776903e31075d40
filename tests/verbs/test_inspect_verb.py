from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal

import pytest
import torch
from shell import after
from toys import NORMED, ROUTED, toy_network

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
from qcaps.capsules.sites import hooked
from qcaps.data.load import load_split
from qcaps.data.spec import data_spec
from qcaps.errors import ArtifactError, StoppedError, UsageError
from qcaps.models.network import array_sites, encoder_tensors, weight_sites
from qcaps.models.spec import build, initialised, preset
from qcaps.quantization.artifact import Artifact, artifact_bytes
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, PerChannel
from qcaps.quantization.loading import load
from qcaps.quantization.plan import BitPlan
from qcaps.registry import MODELS
from qcaps.verbs.site_ranges import held_range


def document_of(subject=None, **options) -> dict:
    """Inspect, and give the document as JSON has it."""
    return json.loads(json.dumps(qcaps.inspect(subject, **options).document))


@pytest.fixture(scope="module")
def shallow():
    return document_of("shallow-capsnet")


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint, tmp_path_factory):
    """Quantize the tiny network, once for all tests that only look."""
    outcome = qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path_factory.mktemp("artifact"))
    return outcome.files[0], outcome.document


def test_a_named_network_is_described_by_its_published_figures(shallow):
    assert (shallow["schema"], shallow["kind"], shallow["file"]) == ("qcaps.inspect/1", "network", None)
    assert (shallow["input"], shallow["classes"], shallow["any_size"]) == ([1, 28, 28], 10, True)
    assert (shallow["parameters"], shallow["macs"]) == (6_804_384, 201_793_536)
    assert shallow["float_bytes"] == 4 * 6_804_384


def test_the_decoder_that_training_would_add_is_counted_apart(shallow):
    # Published: 16 x 512 + 512 and 512 x 1024 + 1024 and 1024 x 784 + 784.
    assert shallow["decoder"] == {"name": "fc", "parameters": 8_704 + 525_312 + 803_600}
    assert document_of("shallow-capsnet", model_arg=["decoder=none"])["decoder"] is None


def test_every_stage_tells_what_it_gives_costs_and_can_lose(shallow):
    conv1, primary, class_caps = shallow["stages"]
    assert (conv1["name"], conv1["outputs"], conv1["parameters"]) == ("conv1", [[256, 20, 20]], 20_992)
    assert (conv1["weight_sites"], conv1["array_sites"], conv1["units"]) == (2, 1, {"channels": 256})
    assert (primary["outputs"], primary["units"]) == ([[1152, 8]], {"types": 32, "dims": 8, "positions": 36})
    assert (class_caps["units"], class_caps["weight_sites"]) == ({}, 2)


def test_units_of_one_kind_are_added_up_within_a_stage():
    found = document_of("deepcaps")
    block1 = next(stage for stage in found["stages"] if stage["name"] == "block1")
    counts = [unit["count"] for unit in found["units"] if unit["name"].startswith("block1.")]
    assert sum(block1["units"].values()) == sum(counts) > max(counts)


@pytest.mark.parametrize("name", MODELS.names())
def test_every_network_fits_into_100_columns(name):
    lines = qcaps.inspect(name, sites=True, units=True).lines
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["shallow-capsnet", "deepcaps", "em-capsnet", "resnet50"])
def test_the_sites_are_those_of_the_network(name):
    spec = preset(name).spec
    network = build(spec).eval()
    found = document_of(name)
    arrays = array_sites(network, (spec.channels, spec.height, spec.width))
    assert [site["site"] for site in found["sites"]] == [*weight_sites(network), *arrays]
    assert {s["site"]: s["values"] for s in found["sites"] if s["site"] in arrays} == arrays
    assert sum(s["weight_sites"] + s["array_sites"] for s in found["stages"]) == len(found["sites"])


def test_a_weight_site_has_the_shape_of_its_parameter(shallow):
    assert shallow["sites"][0] == {
        "site": "conv1.weight",
        "group": "weights",
        "shape": [256, 1, 9, 9],
        "values": 20_736,
        "format": None,
        "holds": None,
        "range": None,
    }


def test_every_prunable_unit_names_the_tensors_that_shrink_with_it(shallow):
    assert shallow["units"][0] == {
        "name": "conv1.channels",
        "count": 256,
        "tensors": ["conv1.conv.weight", "conv1.conv.bias", "primary.conv.weight"],
    }


def test_a_named_network_can_be_resized():
    found = document_of("shallow-capsnet", input="3x32x32", model_arg=["classes=7"])
    # 32 - 8 = 24 after the first convolution, 8 x 8 positions after the second: the published CIFAR-10 layout.
    assert (found["input"], found["classes"], found["stages"][1]["outputs"]) == ([3, 32, 32], 7, [[2048, 8]])


def test_a_network_that_cannot_be_resized_says_what_it_takes():
    with pytest.raises(UsageError, match="deepcaps-64 takes 3x64x64 images, not 3x32x32"):
        qcaps.inspect("deepcaps-64", input="3x32x32")


def test_a_checkpoint_is_told_with_its_images_and_its_file(tiny_checkpoint):
    found = document_of(tiny_checkpoint)
    assert (found["kind"], found["name"]) == ("checkpoint", str(tiny_checkpoint))
    assert found["file"]["bytes"] == os.stat(tiny_checkpoint).st_size
    assert found["file"]["sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert (found["file"]["data"]["dataset"], found["file"]["quantized"]) == ("digits", None)
    assert found["file"]["record"]["best_epoch"] >= 1


def test_the_float_bytes_of_a_checkpoint_are_what_an_evaluation_calls_its_weights(tiny_checkpoint):
    evaluated = qcaps.evaluate(tiny_checkpoint, latency=False).document["files"][0]
    found = document_of(tiny_checkpoint)
    assert [found[key] for key in ("float_bytes", "parameters", "macs")] == [
        evaluated[key] for key in ("weight_bytes", "parameters", "macs")
    ]


def test_the_decoder_inside_a_checkpoint_is_counted_apart(tmp_path):
    spec = dataclasses.replace(ROUTED, decoder="fc")
    network = initialised(spec, 0)
    write_checkpoint(tmp_path / "a.pt", Checkpoint(spec, dict(network.state_dict()), data_spec("digits"), {}))
    found = document_of(tmp_path / "a.pt")
    assert found["decoder"]["parameters"] == sum(p.numel() for p in network.decoder.parameters())
    assert found["parameters"] == sum(p.numel() for p in network.stages.parameters())


def test_an_artifact_is_told_with_the_format_of_every_site(artifact):
    path, report = artifact
    found = document_of(path)
    assert found["kind"] == "artifact"
    expected = {layer["site"]: layer["bits"] for layer in report["layers"]}
    assert {site["site"]: site["format"]["bits"] for site in found["sites"]} == expected


def test_an_artifact_is_told_with_its_widths_and_its_payload(artifact):
    path, report = artifact
    quantized = document_of(path)["file"]["quantized"]
    for group in ("weights", "activations", "routing"):
        widths = [layer["bits"] for layer in report["layers"] if layer["group"] == group]
        assert quantized["bits"][group] == [min(widths), max(widths)]
    assert quantized["payload_bytes"] == report["result"][0]["payload_bytes"]
    assert quantized["rounding"] == "round_to_nearest"


def ranges_of(found: dict, key: str = "range") -> dict[str, list[float] | None]:
    return {site["site"]: site[key] for site in found["sites"]}


def test_the_weights_of_a_file_are_told_with_their_ranges(tiny_checkpoint):
    found = ranges_of(document_of(tiny_checkpoint))
    network = load(tiny_checkpoint).network
    parameters = dict(network.named_parameters())
    expected = {site: sorted(parameters[name].flatten().tolist()) for site, name in weight_sites(network).items()}
    assert {site: ends for site, ends in found.items() if ends} == {s: [v[0], v[-1]] for s, v in expected.items()}


def test_arrays_have_ranges_on_training_images_where_asked_for(tiny_checkpoint):
    told = []
    outcome = qcaps.inspect(tiny_checkpoint, ranges=True, calibration_images=300, on_progress=told.append)
    found = ranges_of(json.loads(json.dumps(outcome.document)))
    loaded = load(tiny_checkpoint)
    training = load_split(loaded.data, "train")
    drawn = training.subset(torch.randperm(len(training), generator=torch.Generator().manual_seed(42))[:300])
    arrays = {}
    with torch.inference_mode(), hooked(loaded.network, lambda site, array: arrays.setdefault(site, array)):
        loaded.network(drawn.pixels.float() / loaded.data.preparation.divisor)
    for site, array in arrays.items():
        assert found[site] == pytest.approx([float(array.min()), float(array.max())], abs=1e-4), site
    assert {(step.phase, step.total) for step in told} == {("ranges", 300)}


def test_asking_for_ranges_lists_the_sites(tiny_checkpoint):
    lines = qcaps.inspect(tiny_checkpoint, ranges=True, calibration_images=5).lines
    assert any(line.startswith("class_caps.votes ") and " to " in line for line in lines)


def test_an_artifact_is_told_with_what_its_formats_hold_and_stays_within(artifact):
    found = document_of(artifact[0], ranges=True, calibration_images=50)
    formats = {site["site"]: site["format"] for site in found["sites"]}
    held = {site: ends for site, ends in ranges_of(found, "holds").items() if ends is not None}
    in_float = {site for site, fmt in formats.items() if fmt["kind"] == "float32"}
    assert held.keys() == formats.keys() - in_float != set()
    for site, (low, high) in held.items():
        bits, step = formats[site]["bits"], 2.0 ** -formats[site]["frac_bits"]
        assert (low, high) == (-(2 ** (bits - 1)) * step, (2 ** (bits - 1) - 1) * step)
        smallest, largest = ranges_of(found)[site]
        assert low <= smallest <= largest <= high


def test_float_sites_hold_anything_and_channels_hold_what_the_widest_does():
    assert held_range(Float32()) is None
    assert held_range(Logarithmic(4, 3)) == (-8, 8)
    assert held_range(PerChannel(FixedPoint(4, 0), (5, 0, 2))) == (-8, 7)


def test_a_named_network_has_no_ranges():
    with pytest.raises(UsageError, match="a named network has no numbers yet") as raised:
        qcaps.inspect("shallow-capsnet", ranges=True)
    assert raised.value.where == "--ranges"


def test_ranges_need_a_data_set(tmp_path):
    write_checkpoint(tmp_path / "a.pt", Checkpoint(NORMED, encoder_tensors(toy_network(NORMED)), None, {}))
    with pytest.raises(UsageError, match="names no data set"):
        qcaps.inspect(tmp_path / "a.pt", ranges=True)


def test_an_interrupt_while_images_run_ends_the_inspection(tiny_checkpoint):
    listener = after(1, lambda: signal.raise_signal(signal.SIGINT), phase="ranges")
    with pytest.raises(StoppedError) as raised:
        qcaps.inspect(tiny_checkpoint, ranges=True, on_progress=listener)
    assert raised.value.do == "nothing was written"


def test_a_format_that_covers_all_iterations_is_told_at_each(tmp_path):
    network = toy_network(ROUTED)
    weights = dict.fromkeys(weight_sites(network), Float32())
    arrays = {site.split("@")[0]: FixedPoint(12, 6) for site in array_sites(network, (1, 14, 14))}
    arrays["class_caps.logits"] = FixedPoint(5, 3)
    plan = BitPlan("round_to_nearest", weights, arrays)
    made = Artifact(ROUTED, data_spec("digits"), plan, 0, network, {})
    (tmp_path / "a.pt").write_bytes(artifact_bytes(made))
    formats = {site["site"]: site["format"] for site in document_of(tmp_path / "a.pt")["sites"]}
    five = {"kind": "fixed_point", "bits": 5, "frac_bits": 3}
    assert (formats["class_caps.logits@1"], formats["class_caps.logits@2"]) == (five, five)


def test_images_that_are_no_data_set_of_ours_are_none(tmp_path):
    tensors = encoder_tensors(toy_network(NORMED))
    write_checkpoint(tmp_path / "a.pt", Checkpoint(NORMED, tensors, None, {}))
    assert document_of(tmp_path / "a.pt")["file"]["data"] is None


def test_without_a_name_the_shipped_default_is_described():
    assert qcaps.inspect().lines[0].endswith("efficient_capsnet_digits.pt: checkpoint, efficient-capsnet")


def test_a_shipped_file_is_found_by_its_name():
    assert document_of("efficient_capsnet_mnist.pt")["file"]["data"]["dataset"] == "mnist"


def test_a_name_means_the_network_even_beside_a_file_of_that_name(tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deepcaps").write_bytes(tiny_checkpoint.read_bytes())
    assert document_of("deepcaps")["kind"] == "network"
    assert document_of("./deepcaps")["kind"] == "checkpoint"


def test_an_unknown_name_points_to_networks_and_shipped_files():
    with pytest.raises(UsageError) as raised:
        qcaps.inspect("shallow-capsnets")
    assert raised.value.what == "there is no network and no file 'shallow-capsnets'"
    assert "did you mean 'shallow-capsnet'" in raised.value.do
    assert "efficient_capsnet_digits.pt" in raised.value.do


@pytest.mark.parametrize(
    ("option", "where"), [({"input": "1x28x28"}, "--input"), ({"model_arg": ["a=1"]}, "--model-arg")]
)
def test_the_numbers_of_a_file_cannot_be_changed(tiny_checkpoint, option, where):
    with pytest.raises(UsageError, match="a file has its own numbers") as raised:
        qcaps.inspect(tiny_checkpoint, **option)
    assert raised.value.where == where


def test_a_damaged_file_is_an_artifact_error(tmp_path):
    (tmp_path / "a.pt").write_text("text")
    with pytest.raises(ArtifactError):
        qcaps.inspect(tmp_path / "a.pt")
