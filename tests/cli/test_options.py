from __future__ import annotations

import dataclasses
import re
from typing import Annotated

import pytest
import typer
from qcaps_cli.options import command
from shell import call

from qcaps.config import (
    CompareConfig,
    EvaluateConfig,
    ImportConfig,
    InspectConfig,
    PruneConfig,
    QuantizeConfig,
    RunConfig,
    TrainConfig,
)
from qcaps.config.option import about, shell_name
from qcaps.verbs.outcome import Outcome

CONFIGS = {
    "train": TrainConfig,
    "prune": PruneConfig,
    "quantize": QuantizeConfig,
    "eval": EvaluateConfig,
    "run": RunConfig,
    "inspect": InspectConfig,
    "compare": CompareConfig,
    "import": ImportConfig,
}
FIELDS = [
    pytest.param(verb, field, id=f"{verb}-{field.name}")
    for verb, config in CONFIGS.items()
    for field in dataclasses.fields(config)
]


def text_of(help_page: str) -> str:
    """Take the frames and line breaks out of a help page."""
    return " ".join(re.sub("[│─╭╮╰╯]", " ", help_page).split())


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {}


@pytest.fixture
def page(capsys, pages, monkeypatch):
    """Give the help page of a verb, as wide as in a log."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def of(verb: str) -> str:
        if verb not in pages:
            answer = call(capsys, verb, "--help")
            assert (answer.code, answer.err) == (0, "")
            pages[verb] = text_of(answer.out)
        return pages[verb]

    return of


@pytest.mark.parametrize(("verb", "field"), FIELDS)
def test_the_help_shows_every_option_with_its_meaning_and_default(page, verb, field):
    text = about(field).help
    if about(field).names is not None:
        text += f" One of {', '.join((*about(field).names.names(), *about(field).also))}."
    if field.default not in (None, (), False, True):
        text += f" (default: {field.default})"
    found = page(verb)
    assert f" --{shell_name(field.name)} " in found or f" --{shell_name(field.name)}/" in found
    assert " ".join(text.split()) in found


@pytest.mark.parametrize(
    ("verb", "option", "default"),
    [
        ("train", "epochs", "10"),
        ("train", "lr", "0.001"),
        ("train", "batch-size", "100"),
        ("train", "regularization-scale", "as published, 0.0005 of sse and l1, 0.392 of mse"),
        ("train", "decay-steps", "2000"),
        ("train", "decay-rate", "0.96"),
        ("train", "seed", "42"),
        ("quantize", "accuracy-tolerance", "0.2"),
        ("quantize", "rounding", "round_to_nearest"),
        ("quantize", "min-bits", "2"),
        ("quantize", "margin", "10"),
        ("eval", "split", "test"),
        ("prune", "candidates", "50"),
        ("prune", "importance", "l1"),
        ("prune", "finetune-epochs", "3"),
    ],
)
def test_defaults_are_those_that_were_promised(page, verb, option, default):
    _, _, rest = page(verb).partition(f" --{option} ")
    assert re.search(r"\(default: ([^)]*)\)", rest)[1] == default


@pytest.mark.parametrize("verb", CONFIGS)
def test_every_verb_knows_the_shared_options(page, verb):
    assert all(f" {option} " in page(verb) for option in ("--json", "--quiet", "--debug", "--help"))


@dataclasses.dataclass(frozen=True)
class Settings:
    count: int = dataclasses.field(default=3, metadata=TrainConfig.__dataclass_fields__["epochs"].metadata)
    many: tuple[str, ...] = dataclasses.field(
        default=(), metadata=TrainConfig.__dataclass_fields__["model_arg"].metadata
    )
    off: bool = dataclasses.field(default=False, metadata=TrainConfig.__dataclass_fields__["fresh"].metadata)
    on: bool = dataclasses.field(default=True, metadata=TrainConfig.__dataclass_fields__["fresh"].metadata)


@pytest.fixture
def run():
    """Make a command of the settings above; it gives the exit code, and what its verb was given."""
    noted = []

    def call(arguments, options, output):
        noted.append((arguments, options, output.json, output.quiet))
        return Outcome(0 if not options else 1, (), {}, ())

    app = typer.Typer()
    words = {"word": Annotated[str, typer.Argument()], "more": Annotated[list[str] | None, typer.Argument()]}
    app.command()(command(Settings, call, words))

    def run(*typed: str):
        code = app(list(typed), standalone_mode=False)
        return code, *noted.pop()

    return run


def test_only_what_was_typed_reaches_the_verb(run):
    assert run("a") == (0, {"word": "a", "more": None}, {}, False, False)


def test_options_reach_the_verb_as_typed(run):
    _, _, options, _, _ = run("a", "--count", "007", "--many", "x=1", "--many", "y=2", "--off")
    assert options == {"count": "007", "many": ["x=1", "y=2"], "off": True}


def test_an_option_that_is_on_can_be_turned_off(run):
    assert run("a", "--no-on")[2] == {"on": False}
    assert run("a", "--on")[2] == {"on": True}


def test_an_option_that_is_off_has_no_opposite(run):
    with pytest.raises(typer.exceptions.TyperException):
        run("a", "--no-off")


def test_an_argument_that_must_be_given_is_missed(run):
    with pytest.raises(typer.exceptions.TyperException, match="word"):
        run()


def test_arguments_come_in_their_order(run):
    assert run("a", "b", "c")[1] == {"word": "a", "more": ["b", "c"]}


def test_shared_options_set_the_output_and_do_not_reach_the_verb(run):
    assert run("a", "--json", "--quiet", "--debug")[2:] == ({}, True, True)
    assert run("a", "-q")[2:] == ({}, False, True)


def test_the_exit_code_is_that_of_the_outcome(run):
    assert run("a", "--off")[0] == 1


def test_latency_can_be_left_out_on_the_shell(capsys, tiny_checkpoint):
    assert "latency" in call(capsys, "eval", tiny_checkpoint).out
    assert "latency" not in call(capsys, "eval", tiny_checkpoint, "--no-latency").out
