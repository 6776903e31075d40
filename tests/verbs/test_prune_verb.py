from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from few_digits import few_digits
from shell import after

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from qcaps.config import PruneConfig, configure
from qcaps.data.load import load_split
from qcaps.data.spec import data_spec
from qcaps.errors import InfeasibleError, StoppedError, UsageError
from qcaps.evaluation.cost import stage_costs
from qcaps.evaluation.measure import Measurement
from qcaps.evaluation.outputs import Outputs
from qcaps.models.network import encoder_tensors, predictions
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import image_of, initialised
from qcaps.quantization.loading import load
from qcaps.verbs import prune_finalists
from qcaps.verbs.prune_job import make_job
from qcaps.verbs.prune_proof import Look, first_of_chain

OWN = {"journal.jsonl", "journal.jsonl.lock"}
FILES = ["checkpoint.pt", "report.json", "report.md", "report.html", "candidates.csv", "strategies.svg"]
SEARCH = {"candidates": 3, "improve": 2, "calibration_images": 64, "scoring_images": 50, "reproducible": True}
QUICK = {"flops": 0.5, "finetune_epochs": 0, **SEARCH}
ONE = {"candidates": 1, "improve": 0}
FULL = {"flops": 0.5, "finetune_epochs": 2, "finetune_lr": 0.003, "top_k": 2, **SEARCH}


@pytest.fixture(scope="module", autouse=True)
def opened():
    with few_digits() as parts:
        yield parts


@pytest.fixture(scope="module")
def pruned(tiny_checkpoint, tmp_path_factory):
    """Prune and fine-tune, once for all tests that only look."""
    out = tmp_path_factory.mktemp("pruned")
    return out, qcaps.prune(tiny_checkpoint, **FULL, out=out)


@pytest.fixture(scope="module")
def quick(tiny_checkpoint, tmp_path_factory, opened):
    """Prune without fine-tuning, once; give also what had been opened when the first images were looked at."""
    out, before = tmp_path_factory.mktemp("quick"), []
    opened.clear()
    listener = after(1, lambda: before.extend(opened), phase="validation images: unpruned")
    return out, qcaps.prune(tiny_checkpoint, **QUICK, out=out, on_progress=listener), (before, list(opened))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def hits_of(file: Path, split: str) -> torch.Tensor:
    """Predict every image at once."""
    loaded = load(file)
    images = load_split(loaded.data, split)
    with torch.inference_mode():
        return predictions(loaded.network(images.pixels.float() / 255)) == images.labels


def test_pruning_ends_with_a_checkpoint_and_its_reports(pruned):
    out, outcome = pruned
    assert outcome.exit_code == 0
    assert outcome.lines[0].startswith("pruned: ")
    assert [file.name for file in outcome.files] == FILES
    assert set(os.listdir(out)) == {*FILES} | OWN


def test_the_document_is_the_report(pruned):
    assert json.loads(json.dumps(pruned[1].document)) == report_of(pruned[0])


def test_the_report_names_the_file_and_where_it_came_from(pruned, tiny_checkpoint):
    report = report_of(pruned[0])
    assert report["sha256"] == hashlib.sha256((pruned[0] / "checkpoint.pt").read_bytes()).hexdigest()
    source = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert report["inputs"] == {"checkpoint": "checkpoint.pt", "checkpoint sha256": source}
    assert report["first"] == {"file": "checkpoint.pt", "sha256": source}


def macs_of(file: Path) -> int:
    loaded = load(file)
    return sum(stage.macs for stage in stage_costs(loaded.network, image_of(loaded.model)))


def test_the_network_in_the_file_meets_the_target_and_costs_what_the_report_says(pruned, tiny_checkpoint):
    file, cost = pruned[0] / "checkpoint.pt", report_of(pruned[0])["cost"]
    before, after = macs_of(tiny_checkpoint), macs_of(file)
    assert 0.4 * before < after <= 0.5 * before
    assert (cost["MACs"]["before"], cost["MACs"]["after"]) == (before, after)
    held = sum(tensor.numel() for tensor in encoder_tensors(load(file).network).values())
    assert cost["weight bytes"]["after"] == 4 * held
    assert cost["file bytes"] == {
        "before": tiny_checkpoint.stat().st_size,
        "after": file.stat().st_size,
        "kept": file.stat().st_size / tiny_checkpoint.stat().st_size,
    }


def test_layers_add_up_to_the_whole(pruned):
    report = report_of(pruned[0])
    for layer_key, key in (("macs", "MACs"), ("parameters", "parameters"), ("activation_bytes", "activation bytes")):
        for when in ("before", "after"):
            total = sum(layer[layer_key][when] for layer in report["layers"])
            assert total == report["cost"][key][when]


def test_the_result_scores_on_the_test_images_what_its_file_scores(pruned, tiny_checkpoint):
    last = report_of(pruned[0])["milestones"][-1]
    before, now = hits_of(tiny_checkpoint, "test"), hits_of(pruned[0] / "checkpoint.pt", "test")
    assert last["stand"] == "fine-tuned"
    assert (last["test"]["score"]["images"], last["test"]["score"]["correct"]) == (100, int(now.sum()))
    assert last["test"]["comparison"]["lost"] == int((before & ~now).sum())
    assert last["test"]["comparison"]["gained"] == int((now & ~before).sum())


def test_every_stand_on_the_way_is_scored(pruned, tiny_checkpoint):
    report = report_of(pruned[0])
    stands = {one["stand"]: one["test"]["score"]["correct"] for one in report["milestones"]}
    assert list(stands) == ["unpruned", "cut", "recalibrated", "fine-tuned"]
    assert stands["unpruned"] == int(hits_of(tiny_checkpoint, "test").sum())
    assert stands["cut"] < stands["recalibrated"]
    assert report["by_chance"]["stand"] == "random units, recalibrated"


def test_the_winner_is_the_finalist_that_recognises_most_of_the_images_that_choose(pruned):
    report = report_of(pruned[0])
    rows = report["finalists"]
    (winner,) = (row for row in rows if row["won"])
    assert len(rows) == 2
    assert winner["correct"] == max(row["correct"] for row in rows)
    assert {width["unit"]: width["kept"] for width in report["widths"]} == winner["widths"]
    found = report["milestones"][-1]["validation"]["score"]
    assert (found["correct"], found["images"]) == (winner["correct"], winner["images"])


def test_finalists_are_the_best_candidates_by_score(pruned):
    report = report_of(pruned[0])
    ranked = report["search"]["ranked"]
    assert [row["score"] for row in ranked] == sorted(row["score"] for row in ranked)
    assert [row["number"] for row in report["finalists"]] == [row["number"] for row in ranked[:2]]


def test_every_candidate_is_in_the_table_with_its_strategy(pruned):
    report = report_of(pruned[0])
    with (pruned[0] / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == [row["number"] for row in report["search"]["ranked"]]
    for finalist in report["finalists"]:
        (row,) = (row for row in rows if int(row["number"]) == finalist["number"])
        assert {unit: int(row[unit]) for unit in finalist["widths"]} == finalist["widths"]
        assert int(row["choosing_correct"]) == finalist["correct"]


def test_images_that_calibrate_score_and_choose_are_apart(pruned, tiny_checkpoint):
    search, data = report_of(pruned[0])["search"], load(tiny_checkpoint).data
    used = {name: set(map(int, search[name]["indices"].split())) for name in ("calibration", "scoring", "choosing")}
    assert used["calibration"] <= set(load_split(data, "train").indices.tolist())
    assert used["scoring"] | used["choosing"] == set(load_split(data, "validation").indices.tolist())
    assert not used["scoring"] & used["choosing"]
    assert [len(used[name]) for name in used] == [64, 50, 250]


def test_test_images_are_opened_once(quick):
    before, opened = quick[2]
    assert before.count("test") == opened.count("test") == 1


def test_no_test_image_is_opened_before_the_winner_stands(tiny_checkpoint, tmp_path, opened):
    opened.clear()
    last = FULL["finetune_epochs"]
    with pytest.raises(StoppedError):
        qcaps.prune(tiny_checkpoint, **FULL, out=tmp_path, on_progress=interrupt(5, f"finalist 2 of 2: epoch {last}"))
    assert set(opened) == {"train"}


def test_the_checkpoint_records_how_it_was_made(pruned, tiny_checkpoint):
    record, report = read_checkpoint(pruned[0] / "checkpoint.pt")[0].record, report_of(pruned[0])
    made = record["pruning"]
    assert made["sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert (made["targets"], made["finished"], made["importance"]) == ({"flops": 0.5}, True, "l1")
    assert made["widths"] == {width["unit"]: width["kept"] for width in report["widths"]}
    assert made["before"] == {width["unit"]: width["before"] for width in report["widths"]}
    (winner,) = (row for row in report["finalists"] if row["won"])
    assert record["best_epoch"] == winner["best_epoch"]
    assert len(record["history"]) == made["finetuning"]["epochs"] == 2


def test_a_further_fine_tuning_finds_how_the_network_was_trained(pruned, tiny_checkpoint):
    assert (
        read_checkpoint(pruned[0] / "checkpoint.pt")[0].record["options"]
        == (read_checkpoint(tiny_checkpoint)[0].record["options"])
    )
    assert report_of(pruned[0])["finetuning"]["batch_size"] == 32


def test_a_repeated_search_scores_no_candidate_again(tiny_checkpoint, quick):
    out, first, _ = quick
    again = qcaps.prune(tiny_checkpoint, **QUICK | {"reproducible": False}, out=out).document
    assert again["run"]["candidates_scored"] == 0
    assert [one["batch_size"] for one in again["run"]["latency"]] == [1, 100]
    assert again["sha256"] == first.document["sha256"]


def interrupt(count: int, phase: str):
    return after(count, lambda: signal.raise_signal(signal.SIGINT), phase=phase)


def test_an_interrupted_search_leaves_the_best_so_far(tiny_checkpoint, tmp_path):
    with pytest.raises(StoppedError) as raised:
        qcaps.prune(tiny_checkpoint, **FULL, out=tmp_path, on_progress=interrupt(1, "improve"))
    file = tmp_path / "checkpoint.pt"
    assert raised.value.what == f"interrupted while searching; the best so far is {file}"
    assert (raised.value.where, raised.value.do) == (str(tmp_path), "the same command continues")
    assert macs_of(file) <= 0.5 * macs_of(tiny_checkpoint)
    assert not read_checkpoint(file)[0].record["pruning"]["finished"]
    assert set(os.listdir(tmp_path)) == {"checkpoint.pt"} | OWN


def test_a_search_interrupted_at_once_leaves_nothing(tiny_checkpoint, tmp_path):
    with pytest.raises(StoppedError, match="nothing was scored yet"):
        qcaps.prune(tiny_checkpoint, **FULL, out=tmp_path, on_progress=interrupt(1, "candidates"))
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("phase", ["finalist 2 of 2: epoch 1", "test images"])
def test_an_interrupted_pruning_continues_to_the_same_bytes(tiny_checkpoint, pruned, tmp_path, phase):
    with pytest.raises(StoppedError):
        qcaps.prune(tiny_checkpoint, **FULL, out=tmp_path, on_progress=interrupt(3, phase))
    assert not (tmp_path / "report.json").exists()
    told = []
    qcaps.prune(tiny_checkpoint, **FULL, out=tmp_path, on_progress=told.append)
    assert files_of(tmp_path) == files_of(pruned[0])
    # Only the steps that were left.
    steps = [(step.phase, step.done) for step in told if ": epoch" in step.phase]
    second = [("finalist 2 of 2: epoch 1/2", 4), ("finalist 2 of 2: epoch 1/2", 5)]
    second += [("finalist 2 of 2: epoch 2/2", done) for done in range(1, 6)]
    assert steps == (second if phase.startswith("finalist") else [])


def test_without_an_epoch_the_network_is_the_recalibrated_one(quick):
    out, outcome, _ = quick
    report = outcome.document
    assert [one["stand"] for one in report["milestones"]] == ["unpruned", "cut", "recalibrated"]
    found = int(hits_of(out / "checkpoint.pt", "test").sum())
    assert report["milestones"][-1]["test"]["score"]["correct"] == found
    assert read_checkpoint(out / "checkpoint.pt")[0].record["pruning"]["finetuning"] is None


def test_a_fine_tuning_that_makes_it_worse_is_not_taken(tiny_checkpoint, tmp_path):
    worse = {**FULL, "finetune_lr": 1.0, "finetune_epochs": 1, "top_k": 1, **ONE}
    outcome = qcaps.prune(tiny_checkpoint, **worse, out=tmp_path)
    (row,) = outcome.document["finalists"]
    assert (row["best_epoch"], row["correct"]) == (0, row["recalibrated_correct"])
    assert "fine-tuning made it worse" in outcome.lines[1]


def test_several_targets_hold_together(tiny_checkpoint, tmp_path):
    both = {**QUICK, **ONE, "params": 0.6, "capsules": 0.5, "importance": "taylor"}
    cost = qcaps.prune(tiny_checkpoint, **both, out=tmp_path).document["cost"]
    assert cost["MACs"]["kept"] <= 0.5
    assert cost["parameters"]["kept"] <= 0.6
    assert (cost["capsules"]["before"], cost["capsules"]["after"]) == (2, 1)


def kept(outcome) -> dict[str, int]:
    return {width["unit"]: width["kept"] for width in outcome.document["widths"]}


def test_layers_that_are_built_alike_compete_by_how_much_the_true_class_listens(tiny_checkpoint, tmp_path):
    told = {**QUICK, **ONE, "importance": "coupling", "scope": "isomorphic"}
    report = qcaps.prune(tiny_checkpoint, **told, out=tmp_path).document
    assert report["cost"]["MACs"]["kept"] <= 0.5
    assert (report["search"]["importance"], report["search"]["scope"]) == ("coupling", "isomorphic")
    assert report["search"]["by_l1"] == ("conv1.channels", "conv2.channels", "conv3.channels")


def test_the_unpruned_network_teaches_in_the_way_asked_for(tiny_checkpoint, tmp_path, monkeypatch):
    given = []

    def finetune(spec, tensors, data, config, *_, teacher, resume):
        given.append((config, teacher, data))
        raise StoppedError("enough")

    monkeypatch.setattr(prune_finalists, "finetune", finetune)
    taught = {**FULL, **ONE, "distill": "poses", "distill_weight": 2.0, "augment": False}
    with pytest.raises(StoppedError):
        qcaps.prune(tiny_checkpoint, **taught, out=tmp_path)
    ((config, teacher, data),) = given
    assert (config.distill, config.distill_weight, config.augment, config.lr) == ("poses", 2.0, False, 0.003)
    source = load(tiny_checkpoint).network.state_dict()
    assert all(torch.equal(tensor, source[name]) for name, tensor in teacher.state_dict().items())
    assert (data.train.split, len(data.validation)) == ("train", 250)


def test_no_candidate_within_the_time_is_a_broken_promise(tiny_checkpoint, tmp_path):
    outcome = qcaps.prune(tiny_checkpoint, **QUICK, time_budget="0.000001s", out=tmp_path)
    assert (outcome.exit_code, outcome.files) == (1, ())
    assert "the time budget ended the search before any candidate was scored" in outcome.lines[0]
    assert not (tmp_path / "checkpoint.pt").exists()


# ---- a strategy that was written down


def test_a_strategy_in_a_file_is_replayed(tiny_checkpoint, tmp_path):
    widths = {"conv1.channels": 5, "conv2.channels": 6, "conv3.channels": 7, "primary.types": 1, "primary.dims": 6}
    strategy = tmp_path / "strategy.json"
    strategy.write_text(json.dumps(widths))
    outcome = qcaps.prune(tiny_checkpoint, strategy=strategy, **QUICK | {"flops": None}, out=tmp_path / "out")
    assert {width["unit"]: width["kept"] for width in outcome.document["widths"]} == widths
    assert [row["origin"] for row in outcome.document["search"]["ranked"]] == ["given"]
    assert load(outcome.files[0]).model.conv_channels == (5, 6, 7, 6)


def test_a_strategy_beside_a_target_is_one_candidate_more(tiny_checkpoint, tmp_path):
    strategy = tmp_path / "strategy.json"
    strategy.write_text(json.dumps({"conv1.channels": 2, "conv2.channels": 2}))
    outcome = qcaps.prune(tiny_checkpoint, strategy=strategy, **QUICK | ONE, out=tmp_path)
    assert sorted(row["origin"] for row in outcome.document["search"]["ranked"]) == ["drawn", "given"]


# ---- refusals


@pytest.mark.parametrize(
    ("options", "what", "where"),
    [
        ({}, "nothing says how small", ""),
        ({"flops": 0}, "no fraction to keep", "--flops"),
        ({"flops": 0.5, "importance": "l3"}, "unknown importance 'l3'", "--importance"),
    ],
)
def test_a_wrong_option_is_a_usage_error_before_anything_is_written(tiny_checkpoint, tmp_path, options, what, where):
    with pytest.raises(UsageError) as raised:
        qcaps.prune(tiny_checkpoint, **options, out=tmp_path / "out")
    assert what in raised.value.what
    assert raised.value.where == where
    assert not (tmp_path / "out").exists()


def test_a_hopeless_target_is_refused_before_anything_is_read_or_written(tiny_checkpoint, tmp_path, opened):
    opened.clear()
    with pytest.raises(InfeasibleError, match=r"no strategy keeps 0\.01 of the MACs: the narrowest keeps") as raised:
        qcaps.prune(tiny_checkpoint, flops=0.01, out=tmp_path / "out")
    assert raised.value.exit_code == 4
    assert opened == []
    assert not (tmp_path / "out").exists()


def test_two_runs_cannot_share_a_folder(tiny_checkpoint, tmp_path):
    refused = []

    def meddle():
        with pytest.raises(UsageError, match="another run") as raised:
            qcaps.prune(tiny_checkpoint, **QUICK, out=tmp_path)
        refused.append(raised.value.where)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError):
        qcaps.prune(tiny_checkpoint, **QUICK, out=tmp_path, on_progress=after(1, meddle))
    assert refused == [str(tmp_path)]


# ---- a decoder, further pruning, quantizing

ROUTED = ShallowCapsNetSpec(
    conv_channels=(4,), primary_types=3, primary_dim=4, primary_coupling=1 / 3, class_dim=4, decoder="fc"
)


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """Write an untrained ShallowCapsNet with a decoder: no batch norm, three routing iterations."""
    path = tmp_path_factory.mktemp("routed") / "routed.pt"
    tensors = {k: v for k, v in initialised(ROUTED, 3).state_dict().items() if not k.endswith("num_batches_tracked")}
    write_checkpoint(path, Checkpoint(ROUTED, tensors, data_spec("digits", augmentation="shift"), {}))
    return path


def test_a_network_with_a_decoder_keeps_it_and_learns_with_it(routed, tmp_path):
    told = {**FULL, **ONE, "finetune_epochs": 1}
    outcome = qcaps.prune(routed, **told, out=tmp_path)
    made, source = read_checkpoint(outcome.files[0])[0], read_checkpoint(routed)[0]
    assert outcome.document["search"]["recalibration"] == "least-squares"
    assert read_checkpoint(outcome.files[0])[0].record["history"][0]["reconstruction_loss"] > 0
    decoder = [name for name in source.tensors if name.startswith("decoder.")]
    assert decoder
    assert all(made.tensors[name].shape == source.tensors[name].shape for name in decoder)
    assert made.network().reconstruct(torch.zeros(1, 10, 4), torch.tensor([3])).shape == (1, 1, 28, 28)


def test_a_pruned_network_is_pruned_further_and_remembers_the_first_of_its_chain(pruned, tiny_checkpoint, tmp_path):
    outcome = qcaps.prune(pruned[0] / "checkpoint.pt", **QUICK | ONE, out=tmp_path)
    assert macs_of(outcome.files[0]) <= 0.5 * macs_of(pruned[0] / "checkpoint.pt")
    record = read_checkpoint(outcome.files[0])[0].record
    source = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert outcome.document["first"]["sha256"] == record["chain"]["sha256"] == source
    assert record["chain"] == read_checkpoint(pruned[0] / "checkpoint.pt")[0].record["chain"]
    assert record["pruning"]["sha256"] != source


def test_a_chain_begins_anew_on_other_images(pruned, tiny_checkpoint):
    job = make_job(pruned[0] / "checkpoint.pt", configure(PruneConfig, {"flops": 0.5}))
    images = load_split(job.data, "validation")
    seen = Look(images, Measurement(images.labels, images.labels), torch.zeros(len(images)), Outputs())
    known = first_of_chain(job, [seen])
    assert known.sha256 == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert known.hits_on(images).tolist() == hits_of(tiny_checkpoint, "validation").tolist()
    others = images.subset(torch.arange(10))
    begun = first_of_chain(
        job, [seen, Look(others, Measurement(others.labels, others.labels), torch.zeros(10), Outputs())]
    )
    assert begun.sha256 == job.sha256
    assert begun.hits_on(others).all()


def test_what_quantizing_loses_is_counted_against_the_first_of_the_chain(pruned, tiny_checkpoint, tmp_path):
    outcome = qcaps.quantize(pruned[0] / "checkpoint.pt", search="common-width", accuracy_tolerance=10, out=tmp_path)
    assert outcome.exit_code == 0
    assert load(outcome.files[0]).file_bytes < (pruned[0] / "checkpoint.pt").stat().st_size / 2
    report = outcome.document
    for split, name in (("validation", "search"), ("test", "report")):
        before, after = hits_of(tiny_checkpoint, split), artifact_hits(outcome.files[0], split)
        assert report["baseline"][name]["correct"] == int(before.sum())
        found = report["result"][0][name]
        assert (found["lost"], found["gained"]) == (int((before & ~after).sum()), int((after & ~before).sum()))
        assert found["allowed"] == int(before.sum()) // 10 * (90 if name == "search" else 100) // 100
    assert report["inputs"]["losses are counted against"] == "checkpoint.pt"
    assert report["inputs"]["its sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()


def artifact_hits(file: Path, split: str) -> torch.Tensor:
    """Let an artifact predict every image at once."""
    loaded = load(file)
    images = load_split(loaded.data, split)
    with torch.inference_mode():
        return loaded.predictor()(images.pixels.float() / 255, images.indices) == images.labels


@pytest.mark.slow
def test_two_processes_find_and_train_what_one_does(tiny_checkpoint, tmp_path):
    words = ["prune", str(tiny_checkpoint), "--flops", "0.5", "--candidates", "3", "--improve", "2", "--top-k", "2"]
    words += ["--finetune-epochs", "1", "--calibration-images", "64", "--reproducible", "--device", "cpu"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for count in (1, 2):
        command = [*torchrun, str(count), "-m", "qcaps_cli.main", *words, "--out", str(tmp_path / str(count))]
        subprocess.run(command, check=True, timeout=300, capture_output=True)
    assert files_of(tmp_path / "2") == files_of(tmp_path / "1")
