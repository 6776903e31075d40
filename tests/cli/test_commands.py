from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path

import pytest
from made_pictures import write_folder
from qcaps_cli import compare, environment, evaluate, import_, inspect, listing, prune, quantize, recipe, train, verify
from shell import call, spawn

from qcaps.config import (
    CompareConfig,
    EvaluateConfig,
    ImportConfig,
    InspectConfig,
    PruneConfig,
    QuantizeConfig,
    RunConfig,
    TrainConfig,
    configure,
)
from qcaps.errors import UsageError
from qcaps.recipe.lookup import find_recipe, shipped_recipes
from qcaps.recipe.overrides import override
from qcaps.recipe.schema import check_recipe
from qcaps.recipe.yaml_reader import read_yaml
from qcaps.registry import (
    AUGMENTATIONS,
    DATASETS,
    DECODERS,
    IMPORTANCES,
    IMPORTERS,
    MODELS,
    PREPARATIONS,
    ROUNDINGS,
    ROUTINGS,
    SEARCHES,
)
from qcaps.verbs.outcome import Outcome

MODULES = {
    "train": train,
    "prune": prune,
    "quantize": quantize,
    "eval": evaluate,
    "run": recipe,
    "inspect": inspect,
    "compare": compare,
    "verify": verify,
    "import": import_,
    "list": listing,
    "env": environment,
}
EXAMPLES = [pytest.param(verb, example, id=example) for verb, module in MODULES.items() for example in module.EXAMPLES]
REGISTRIES = {
    "models": MODELS,
    "decoders": DECODERS,
    "datasets": DATASETS,
    "preparations": PREPARATIONS,
    "augmentations": AUGMENTATIONS,
    "roundings": ROUNDINGS,
    "searches": SEARCHES,
    "routings": ROUTINGS,
    "importances": IMPORTANCES,
    "importers": IMPORTERS,
}


@pytest.fixture
def given(monkeypatch):
    """Replace every verb by something that checks what it is given, as far as that needs no computing."""
    noted = []

    def checked(config):
        def verb(*arguments, on_progress=None, **options):
            noted.append((arguments, configure(config, options)))
            return Outcome(0, (), {}, ())

        return verb

    def run(name, *changes, on_progress, **options):
        source, path = find_recipe(name)
        check_recipe(override(read_yaml(path.read_bytes(), source=source), changes), source=source)
        noted.append(((name, *changes), configure(RunConfig, options)))
        return Outcome(0, (), {}, ())

    def verify_files(*files):
        noted.append((files, None))
        return Outcome(0, (), {}, ())

    monkeypatch.setattr("qcaps.verbs.train.train", checked(TrainConfig))
    monkeypatch.setattr("qcaps.verbs.prune.prune", checked(PruneConfig))
    monkeypatch.setattr("qcaps.verbs.quantize.quantize", checked(QuantizeConfig))
    monkeypatch.setattr("qcaps.verbs.evaluate.evaluate", checked(EvaluateConfig))
    monkeypatch.setattr("qcaps.verbs.compare.compare", checked(CompareConfig))
    monkeypatch.setattr("qcaps.verbs.inspect.inspect", checked(InspectConfig))
    monkeypatch.setattr("qcaps.verbs.importing.import_checkpoint", checked(ImportConfig))
    monkeypatch.setattr("qcaps.verbs.verify.verify", verify_files)
    monkeypatch.setattr("qcaps.recipe.runner.run", run)
    return noted


@pytest.mark.parametrize(("verb", "example"), EXAMPLES)
def test_an_example_of_the_help_runs(capsys, given, verb, example):
    command, *words = shlex.split(example)
    assert (command, words[0]) == ("qcaps", verb)
    answer = call(capsys, *words)
    assert (answer.code, answer.err) == (0, "")
    assert len(given) == (0 if verb in {"list", "env"} else 1)


@pytest.mark.parametrize(("verb", "example"), EXAMPLES)
def test_an_example_stands_in_the_help_in_one_piece(capsys, monkeypatch, verb, example):
    monkeypatch.setenv("COLUMNS", "80")
    assert example in [line.strip() for line in call(capsys, verb, "--help").out.splitlines()]


@pytest.mark.parametrize("verb", MODULES)
def test_every_verb_has_two_examples_and_is_listed_in_the_help(capsys, verb):
    module = MODULES[verb]
    assert len(module.EXAMPLES) == 2
    page = " ".join(call(capsys, "--help").out.replace("│", " ").split())
    assert f" {verb} {module.DOC} " in page


def test_arguments_and_options_reach_their_verb(capsys, given):
    call(capsys, "quantize", "a.pt", "--accuracy-tolerance", "1.5", "--memory-budget", "250kB", "--offline")
    call(capsys, "eval", "a.pt", "b.pt", "--split", "validation", "--seed", "3")
    call(capsys, "eval")
    call(capsys, "run", "quickstart", "train.epochs=2", "seed=1", "--dry-run", "--out", "here")
    call(capsys, "train", "--epochs", "7", "--hard-training", "--model-arg", "a=1", "--model-arg", "b=2")
    call(capsys, "inspect", "deepcaps", "--input", "3x32x32", "--units")
    call(
        capsys,
        "import",
        "a.h5",
        "--from",
        "efficient-capsnet",
        "--preparation",
        "plain-256",
        "--model-arg",
        "height=32",
    )
    call(capsys, "verify", "a.pt", "b.pt")
    (quantized, q), (evaluated, e), (default, _), (ran, r), (trained, t), (inspected, i), (imported, m), checked = given
    assert (quantized, float(q.accuracy_tolerance), q.memory_budget) == (("a.pt",), 1.5, 250_000)
    assert (evaluated, e.split, e.seed, e.latency) == (("a.pt", "b.pt"), "validation", 3, True)
    assert default == ()
    assert (ran, r.dry_run, r.out) == (("quickstart", "train.epochs=2", "seed=1"), True, Path("here"))
    assert (trained, t.epochs, t.hard_training, t.model_arg) == ((), 7, True, ("a=1", "b=2"))
    assert (inspected, i.input, i.units, i.sites) == (("deepcaps",), (3, 32, 32), True, False)
    assert checked == (("a.pt", "b.pt"), None)
    assert (imported, m.preparation, m.model_arg) == (("a.h5", "efficient-capsnet"), "plain-256", ("height=32",))


def test_pruning_options_of_eagleeye_are_understood(capsys, given):
    call(
        capsys, "prune", "a.pt", "--flops_target", "0.5", "--max_rate", "0.7", "--cap", "conv1.*=0.2", "--only", "conv*"
    )
    ((arguments, found),) = given
    assert (arguments, found.flops, found.only) == (("a.pt",), 0.5, ("conv*",))
    assert found.cap == (("*", 0.7), ("conv1.*", 0.2))
    answer = call(capsys, "prune", "--min_rate", "0")
    assert (answer.code, answer.err) == (2, "error: --min-rate is retired; ratios begin at 0\n")


def test_a_target_out_of_reach_is_told_in_one_line(capsys, tiny_checkpoint, tmp_path):
    answer = call(capsys, "prune", tiny_checkpoint, "--flops", "0.01", "--out", tmp_path, "--json")
    document = json.loads(answer.out)
    assert (answer.code, document["exit_code"], document["where"]) == (4, 4, "--flops")
    assert answer.err.startswith("error: no strategy keeps 0.01 of the MACs: the narrowest keeps 0.")
    assert answer.err.count("\n") == 1


def test_pruning_prints_its_report_and_tells_how_far_it_is(capsys, tiny_checkpoint, tmp_path):
    words = ("--flops", 0.5, "--candidates", 1, "--improve", 0, "--finetune-epochs", 0, "--calibration-images", 20)
    answer = call(capsys, "prune", tiny_checkpoint, *words, "--out", tmp_path, "--reproducible", "--json")
    assert answer.code == 0
    assert answer.out == (tmp_path / "report.json").read_text()
    assert answer.err.startswith("candidates: ")
    assert "test images: unpruned: 360/360" in answer.err.splitlines()


def test_quantizing_quietly_prints_only_what_was_written(capsys, tiny_checkpoint, tmp_path):
    answer = call(capsys, "quantize", tiny_checkpoint, "--accuracy-tolerance", 3, "--out", tmp_path, "--quiet")
    names = ("satisfied.pt", "report.json", "report.md", "report.html", "junit.xml", "pareto.csv", "sensitivity.csv")
    files = [tmp_path / name for name in names]
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [str(file) for file in files]
    assert all(file.is_file() for file in files)


def test_quantizing_tells_the_verdict_and_the_files(capsys, tiny_checkpoint, tmp_path):
    answer = call(capsys, "quantize", tiny_checkpoint, "--accuracy-tolerance", 3, "--out", tmp_path)
    lines = answer.out.splitlines()
    assert lines[0].startswith("satisfied: ")
    assert f"wrote {tmp_path}/satisfied.pt" in lines
    assert "float network: 300/300" in answer.err.splitlines()


def test_quantizing_with_json_prints_the_report(capsys, tiny_checkpoint, tmp_path):
    answer = call(capsys, "quantize", tiny_checkpoint, "--accuracy-tolerance", 3, "--out", tmp_path, "--json")
    assert answer.out == (tmp_path / "report.json").read_text()


def test_the_default_output_folder_is_named_after_the_input(capsys, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(capsys, "quantize", tiny_checkpoint, "--accuracy-tolerance", 3)
    assert os.listdir(tmp_path / "runs") == ["checkpoint-quantize"]


def test_evaluating_with_json_prints_one_document(capsys, tiny_checkpoint):
    answer = call(capsys, "eval", tiny_checkpoint, "--json", "--no-latency")
    document = json.loads(answer.out)
    assert document["schema"] == "qcaps.eval/1"
    assert document["files"][0]["sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert answer.err == "evaluate checkpoint.pt: 360/360\n"


@pytest.mark.parametrize("kind", sorted(REGISTRIES.keys() - {"models", "datasets"}))
def test_every_registry_is_listed(capsys, kind):
    answer = call(capsys, "list", kind)
    entries = list(REGISTRIES[kind])
    assert (answer.code, answer.err) == (0, "")
    assert [line.split(maxsplit=1) for line in answer.out.splitlines()] == [[e.name, e.doc] for e in entries]


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_quiet_list_holds_only_names(capsys, kind):
    assert call(capsys, "list", kind, "--quiet").out.split() == list(REGISTRIES[kind].names())


def test_networks_are_listed_with_their_figures_in_one_table(capsys):
    head, *rows, note = call(capsys, "list", "models").out.splitlines()
    assert head.split() == ["name", "input", "classes", "parameters", "MACs"]
    assert note == "* adapts to images of other sizes"
    assert [row.split()[0] for row in rows] == list(MODELS.names())
    # Published totals; MACs as the cost tests derive them by hand.
    efficient = next(row for row in rows if row.startswith("efficient-capsnet "))
    assert efficient.split()[1:5] == ["1x28x28*", "10", "161,824", "30,135,424"]
    assert next(row.split()[1] for row in rows if row.startswith("deepcaps-64 ")) == "3x64x64"
    ends = {row.index(doc) for row, doc in zip(rows, (entry.doc for entry in MODELS), strict=True)}
    assert len(ends) == 1


def test_the_figures_of_networks_are_numbers_in_json(capsys):
    document = json.loads(call(capsys, "list", "models", "--json").out)
    found = {entry.pop("name"): entry for entry in document["entries"]}
    assert list(found) == list(MODELS.names())
    assert found["shallow-capsnet"] == {
        "doc": MODELS.entry("shallow-capsnet").doc,
        "input": [1, 28, 28],
        "any_size": True,
        "classes": 10,
        "parameters": 6_804_384,
        "macs": 201_793_536,
    }


def test_data_sets_are_listed_with_what_is_there_and_what_is_missing(capsys, tmp_path):
    write_folder(tmp_path, {"cifar10/train.zip": b"", "svhn/train_32x32.mat": b"", "SVHN/test_32x32.mat": b""})
    head, *rows, place = call(capsys, "list", "datasets", "--data-dir", str(tmp_path)).out.splitlines()
    assert head.split() == ["name", "files"]
    assert place == f"in {tmp_path}"
    files = dict(zip(DATASETS.names(), (row[head.index("files") :] for row in rows), strict=True))
    assert files["digits"] == "nothing needed"
    assert files["cifar10"] == "missing: cifar10/test.zip"
    assert files["svhn"] == "svhn/train_32x32.mat, SVHN/test_32x32.mat"


def test_what_is_there_of_data_sets_is_told_in_json(capsys, tmp_path, monkeypatch):
    write_folder(tmp_path, {"cifar10/train.zip": b""})
    monkeypatch.setenv("QCAPS_DATA", str(tmp_path))
    document = json.loads(call(capsys, "list", "datasets", "--json").out)
    found = {entry["name"]: (entry["found"], entry["missing"]) for entry in document["entries"]}
    assert tuple(found) == DATASETS.names()
    assert found["cifar10"] == (["cifar10/train.zip"], ["cifar10/test.zip"])
    assert found["digits"] == ([], [])


def test_recipes_are_listed(capsys):
    document = json.loads(call(capsys, "list", "recipes", "--json").out)
    assert (document["schema"], document["kind"]) == ("qcaps.list/1", "recipes")
    assert [entry["name"] for entry in document["entries"]] == [entry.name for entry in shipped_recipes()]


@pytest.mark.parametrize("kind", [*REGISTRIES, "recipes"])
def test_the_help_of_list_names_every_list(capsys, kind):
    assert kind in call(capsys, "list", "--help").out


def test_an_unknown_name_points_to_a_list_that_there_is(capsys):
    for registry in REGISTRIES.values():
        with pytest.raises(UsageError) as raised:
            registry.entry("nothing")
        kind = raised.value.do.split("`")[1].removeprefix("qcaps list ")
        assert call(capsys, "list", kind).code == 0


def test_the_real_command_gives_data_on_stdout_and_progress_on_stderr(tiny_checkpoint, tmp_path):
    answer = spawn("eval", tiny_checkpoint, "--json", "--no-latency", cwd=tmp_path)
    assert answer.code == 0
    assert json.loads(answer.out)["files"][0]["images"] == 360
    assert answer.err.splitlines()[-1] == "evaluate checkpoint.pt: 360/360"
    assert os.listdir(tmp_path) == []
