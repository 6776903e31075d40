from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcaps.errors import Problem, RecipeError, UsageError
from qcaps.recipe.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, plain, read_yaml


def read(text):
    return plain(read_yaml(text.encode(), source="r.yaml"))


def problems_of(text):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(RecipeError) as caught:
        read_yaml(data, source="r.yaml")
    return caught.value.problems


def the_problem(text):
    (problem,) = problems_of(text)
    return problem


# ---- values


def test_a_recipe_is_read_as_mappings_lists_and_scalars():
    text = """\
schema: qcaps.recipe/1
imports: [data/fashion-mnist, search/default]  # named fragments
seed: 42
model: {checkpoint: pretrained/shallow-fashion.pt}
steps:
  - {step: prune, flops: 0.5}
  - step: train
    lr: 3e-4
    hard: true
promises:
  memory-budget: 1.5 MB
  accuracy-tolerance:
"""
    assert read(text) == {
        "schema": "qcaps.recipe/1",
        "imports": ["data/fashion-mnist", "search/default"],
        "seed": 42,
        "model": {"checkpoint": "pretrained/shallow-fashion.pt"},
        "steps": [{"step": "prune", "flops": 0.5}, {"step": "train", "lr": 0.0003, "hard": True}],
        "promises": {"memory-budget": "1.5 MB", "accuracy-tolerance": None},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("~", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("9" * 100, 10**100 - 1),
        ("0.2", 0.2),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("2.5e+2", 250.0),
    ],
)
def test_words_and_decimal_numbers_have_their_type(text, value):
    got = read(text)
    assert got == value
    assert type(got) is type(value)


surprises = (
    "no No off yes on y n True FALSE Null 010 00 0o10 0x1F 0b1 1_000 12:30:00 2020-01-01 1.2.3 01.5 1e e5 "
    ".inf -.inf .nan inf nan 1e999 -1e999 = . - + \u0663"
)


@pytest.mark.parametrize("text", [*surprises.split(), "1.5 MB", "9" * 101, "1" * 5000])
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(text):
    assert read(f"[{text}]") == [text]


@pytest.mark.parametrize("text", ["no", "1", "1e-3", "null", "", "~", "true"])
def test_quoted_scalars_are_text(text):
    assert read(f"['{text}', \"{text}\"]") == [text, text]


def test_block_scalars_are_text():
    assert read("a: |\n  1\nb: >-\n  true\n") == {"a": "1\n", "b": "true"}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n"])
def test_an_empty_document_is_none(text):
    assert read(text) is None


def test_a_merge_key_is_a_key_like_any_other():
    assert read("<<: {a: 1}") == {"<<": {"a": 1}}


def test_keys_that_yaml_1_1_takes_for_booleans_are_text():
    assert read("on: 1\nno: 2\n") == {"on": 1, "no": 2}


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cn", "Co"]), max_size=8)
)
keys = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cn", "Co"]), max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_json_is_read_as_json(value):
    assert read(json.dumps(value, ensure_ascii=False)) == value


# ---- places


def test_values_know_where_their_key_or_they_themselves_start():
    root = read_yaml(b"# head\na: 1\nb:\n  - x\n  -   c:\n        7\n", source="r.yaml")
    b = root.value["b"]
    c = b.value[1].value["c"]
    assert (root.line, root.column) == (2, 1)
    assert (root.value["a"].line, root.value["a"].column) == (2, 1)
    assert (b.line, b.column) == (3, 1)
    assert (b.value[0].line, b.value[0].column) == (4, 5)
    assert (c.line, c.column, c.value) == (5, 7, 7)


def test_a_byte_order_mark_and_windows_line_ends_do_not_move_places():
    root = read_yaml(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", source="r.yaml")
    assert (root.value["b"].line, root.value["b"].column) == (2, 1)


# ---- keys


def test_a_key_given_twice_is_refused_with_both_lines():
    assert the_problem("a: 1\nb: 2\na: 3\n") == Problem(3, "a", "key 'a' is already given on line 1")


def test_a_key_given_three_times_is_refused_twice_with_the_first_line():
    assert [problem.message[-6:] for problem in problems_of("a: 1\na: 2\na: 3\n")] == ["line 1", "line 1"]


def test_a_nested_key_given_twice_is_refused_with_its_path():
    problem = the_problem("steps:\n  - x\n  - lr: 1\n    'lr': 2\n")
    assert problem == Problem(4, "steps[1].lr", "key 'lr' is already given on line 3")


def test_the_same_key_in_two_mappings_is_no_duplicate():
    assert read("- {a: 1}\n- {a: {a: 2}}\n") == [{"a": 1}, {"a": {"a": 2}}]


def test_keys_differ_when_only_one_is_short_enough_to_be_shown_whole():
    long = "k" * 200
    assert read(f"? {long}a\n: 1\n? {long}b\n: 2\n") == {f"{long}a": 1, f"{long}b": 2}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1: x", "1"),
        ("1.5: x", "1.5"),
        ("true: x", "true"),
        ("~: x", "~"),
        ("?\n: x", ""),
        ("? [a]\n: x", "…"),
    ],
)
def test_keys_that_are_not_text_are_refused(text, shown):
    assert the_problem(text) == Problem(1, "", f"key '{shown}' is not text; quote it")


# ---- what only bombs and code need


def test_anchors_are_refused():
    problem = the_problem("a: 1\nb: {c: &here 2}\n")
    assert problem == Problem(2, "b.c", "anchor '&here' is not allowed; repeat the value or use imports")


def test_aliases_are_refused():
    problem = the_problem("a: [1, *here]")
    assert problem == Problem(1, "a[1]", "alias '*here' is not allowed; repeat the value or use imports")


@pytest.mark.parametrize("value", ["!x 1", "!!python/object:os.system {}", "! 1", "!!str 1", "!<a> [1]"])
def test_tags_are_refused(value):
    problem = the_problem(f"a: {value}")
    assert (problem.line, problem.path) == (1, "a")
    assert problem.message.startswith("tag '")


def test_billion_laughs_are_refused_at_every_level():
    levels = [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    problems = problems_of("a: &a [" + ", ".join(["lol"] * 10) + "]\n" + "\n".join(levels))
    assert len(problems) == 9 + 80  # anchors and aliases
    assert problems[-1].path == "i[9]"


# ---- limits


def test_a_text_of_256_kib_is_read():
    assert read("#" * MAX_BYTES) is None
    assert MAX_BYTES == 262_144


def test_a_longer_text_is_refused():
    assert "262145 bytes" in the_problem("#" * (MAX_BYTES + 1)).message


def test_twenty_levels_are_read():
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH) == json.loads("[" * 20 + "]" * 20)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_deeper_nesting_is_refused(opening):
    assert the_problem(opening * 30_000) == Problem(1, "", "more than 20 levels of nesting")


def test_levels_that_are_left_again_do_not_add_up():
    assert read("[[1]]" + "\n") == [[1]]
    assert len(read("\n".join(["- [[], []]"] * 50))) == 50


def test_ten_thousand_nodes_are_read():
    assert len(read("- 1\n" * (MAX_NODES - 1))) == 9_999  # and the list itself


def test_more_nodes_are_refused_where_they_start():
    assert the_problem("- 1\n" * MAX_NODES) == Problem(10_000, "", "more than 10000 values and keys")


def test_keys_count_as_nodes():
    lines = "".join(f"k{n}: 1\n" for n in range(5000))
    assert "more than 10000" in the_problem(lines).message


def test_a_second_document_is_refused():
    assert the_problem("a: 1\n---\nb: 2\n") == Problem(2, "", "a second document starts here; only one is allowed")


# ---- text that is not YAML


@pytest.mark.parametrize(
    ("data", "line", "byte"),
    [(b"a: 1\nb: \xff\n", 2, "0xff"), (b"\n\n\xc3", 3, "0xc3"), (b"\xed\xa0\x80", 1, "0xed")],
)
def test_bytes_that_are_not_utf_8_are_refused(data, line, byte):
    assert the_problem(data) == Problem(line, "", f"byte {byte} is not UTF-8")


def test_utf_16_is_refused():
    assert "is not UTF-8" in the_problem("a: 1".encode("utf-16")).message


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\ufffe"])
def test_control_characters_and_hidden_line_ends_are_refused(character):
    problem = the_problem(f"a: 1\nb: x{character}c: 3\n")
    assert problem == Problem(2, "", f"character U+{ord(character):04X} is not allowed")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb\nc: 2\n", 3),
        ("a: 'x", 1),
        ("a: @x", 1),
        ("a: 1\n b: 2", 2),
        ('a: "\\q"', 1),
        ("%YAML 2.0\n---\na", 1),
    ],
)
def test_broken_yaml_is_refused_with_its_line(text, line):
    problem = the_problem(text)
    assert (problem.line, problem.path) == (line, "")
    assert problem.message.startswith("this is not YAML: ")


@pytest.mark.parametrize("text", ['"\\UFFFFFFFF"', '"\\U00110000"', "%YAML 1." + "9" * 5000 + "\n--- a"])
def test_numbers_that_python_cannot_hold_are_refused(text):
    assert the_problem(text).message == "this is not YAML: a number is out of range"


def test_escapes_that_give_half_a_character_are_refused():
    problem = the_problem('a: "\\ud83d\\ude00"')
    assert problem == Problem(1, "a", "an escape gives half a character; write the character itself")


# ---- the error


def test_all_problems_are_told_at_once_in_the_order_of_their_lines():
    text = "a: &x 1\nb:\n  a: !t 2\n  a: 3\n1: 4\nc: *x\nb: 5\nd: [\n"
    assert [(problem.line, problem.path) for problem in problems_of(text)] == [
        (1, "a"),
        (3, "b.a"),
        (4, "b.a"),
        (5, ""),
        (6, "c"),
        (7, "b"),
        (9, ""),
    ]


def test_a_duplicate_is_told_even_if_its_value_is_broken():
    assert [problem.line for problem in problems_of("a: 1\na: [\n")] == [2, 3]


def test_the_error_shows_one_line_per_problem():
    error = RecipeError([Problem(7, "b[0].c", "is odd"), Problem(2, "", "is bad")], source="r.yaml")
    assert str(error) == "2 problems in r.yaml:\n  line 2: is bad\n  line 7, b[0].c: is odd"


def test_one_problem_is_not_spoken_of_in_the_plural():
    assert str(RecipeError([Problem(1, "", "x")], source="r.yaml")).startswith("1 problem in r.yaml:\n")


def test_a_recipe_error_is_a_usage_error_with_exit_code_2():
    error = RecipeError([Problem(1, "", "x")], source="r.yaml")
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert error.where == "r.yaml"


def test_no_part_of_the_error_can_forge_a_line():
    error = RecipeError([Problem(1, "a\n::error::b", "c\rd\x1b[2K\u2028e")], source="r\n.yaml")
    assert str(error) == "1 problem in r .yaml:\n  line 1, a ::error::b: c d [2K e"


def test_keys_cannot_move_the_cursor_or_flood_the_screen():
    long = "k" * 1000
    problems = problems_of(f'"\\e[2K\\n": &a 1\n? {long}\n: {{{long}: &b 2}}\n')
    assert problems[0].path == " [2K "
    assert problems[1].path == "k" * 79 + "…." + "k" * 79 + "…"


# ---- anything at all

tokens = "a b: - [ ] { } , : ? &a *a !t !!x | |9 >- ' \" \\ \\x \\u00 \\U # --- ... %F % 0 1e999 ~ @ !< %FF <<: é"
blanks = [
    "\n",
    "\n  ",
    "\n    ",
    " ",
    " ",
    "\t",
    "\r",
    "\ufeff",
    "\u2028",
    "\0",
    "\n---\n",
    "%YAML 1.1\n",
    "%TAG ! x\n",
]
yaml_parts = st.sampled_from(tokens.split()) | st.sampled_from(blanks)


def reads_or_refuses(data):
    try:
        plain(read_yaml(data, source="r.yaml"))
        return True
    except RecipeError as error:
        return len(str(error).splitlines()) == 1 + len(error.problems) > 1


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data):
    assert reads_or_refuses(data)


@given(st.text(max_size=200))
def test_random_text_raises_nothing_else(text):
    assert reads_or_refuses(text.encode("utf-8", "surrogatepass"))


@given(st.lists(yaml_parts, max_size=25).map("".join))
def test_random_pieces_of_yaml_raise_nothing_else(text):
    assert reads_or_refuses(text.encode())
