"""Errors: problem and remedy, in Python's words and in those of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mxtools
from mxtools import errors
from mxtools.errors import PYTHON, InputError, MxError, in_words, speaking
from mxtools_cli.words import WORDS
from tests.support.commands import Mx

PACKAGE = Path(mxtools.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
WORD = re.compile("⟨(.*?)⟩")
BEGUN = re.compile("⟨([a-z-]+)$")
COMMAND_LINE = re.compile(r"--[a-z]|`mx[ `]|\bmx [a-z]+ --|(^| )-[a-z]( |$)")
"""An option of two dashes or one, or a command, as a shell has it."""

THEIRS = {
    "fleet/running.py": {"--json"},
    "profile/kernels.py": {"--exportProfile", "--exportLayerInfo"},
    "runtime/cases.py": {"run.py", "argparse"},
    "runtime/arena.py": {"-m"},
    "tools/external.py": {"--"},
    "tools/node_lists.py": {"--layerPrecisions", "--precisionConstraints"},
}
"""Options of other tools and of scripts that are written, which have no other name in Python."""


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a file with their lines, without docstrings, of which each stands alone as a statement."""
    tree = ast.parse(file.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    """All strings of the library with where they are, but for the table of Python's words itself."""
    return [
        (f"{file.relative_to(PACKAGE)}:{line}", text)
        for file in SOURCES
        for line, text in messages(file)
        if text not in PYTHON.values()
    ]


def test_both_tables_have_the_same_words() -> None:
    assert list(PYTHON) == list(WORDS)


def test_every_word_is_in_the_tables(texts: list[tuple[str, str]]) -> None:
    used = {word: where for where, text in texts for word in WORD.findall(text) if where.split(":")[0] != "errors.py"}
    begun = tuple(beginning for _, text in texts for beginning in BEGUN.findall(text))  # `f"⟨exporter-{name}⟩"`
    assert used.keys() - PYTHON.keys() == set(), used
    assert [word for word in PYTHON.keys() - used.keys() if not word.startswith(begun)] == []


def test_the_library_says_nothing_in_the_words_of_the_command_line(texts: list[tuple[str, str]]) -> None:
    wrong = [
        (where, text)
        for where, text in texts
        if COMMAND_LINE.search(text) and not any(own in text for own in THEIRS.get(where.split(":")[0], ()))
    ]
    assert wrong == []


def test_pythons_words_have_no_options() -> None:
    assert [word for word in PYTHON.values() if COMMAND_LINE.search(word)] == []


def test_an_error_is_in_pythons_words_and_in_a_block_in_those_that_it_says() -> None:
    error = InputError("no node has a scope", "⟨tag⟩ again with ⟨trace⟩")
    assert str(error) == "no node has a scope: call `model.tag()` again with trace="
    assert (error.problem, error.remedy) == ("no node has a scope", "call `model.tag()` again with trace=")
    with speaking(WORDS):
        assert str(error) == "no node has a scope: run `mx tag` again with --trace"


def test_a_message_in_a_report_is_in_the_words_of_who_asked_for_it() -> None:
    error = MxError("⟨data-dir⟩ is no folder")
    with speaking(WORDS):
        assert str(InputError(error.problem, "give ⟨data-dir⟩")) == "--data-dir is no folder: give --data-dir"
    assert str(error) == "data_dir= is no folder"


def test_words_are_restored_when_a_block_raises() -> None:
    with pytest.raises(InputError), speaking(WORDS):
        raise InputError("wrong")
    assert in_words("⟨trace⟩") == "trace="


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("give ⟨unknown⟩ or ⟨Name⟩", "give ⟨unknown⟩ or ⟨Name⟩"),
        ("one\n  line\tonly", "one line only"),
        ("an \x1b escape", r"an \x1b escape"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    assert in_words(template) == expected


def test_the_command_line_speaks_its_own_words(mx: Mx, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("{}")
    done = mx("tag", tmp_path / "none.onnx", "--trace", tmp_path / "trace.json", "-o", tmp_path / "out.onnx")
    assert done.returncode == InputError.status
    assert done.stderr.decode().endswith('it has no "schema": give the file that `mx trace` wrote\n')


def test_every_error_has_a_status_of_its_own_kind() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, MxError)]
    assert {cls.__name__: cls.status for cls in classes} == {
        "MxError": 3,
        "CheckError": 1,
        "UsageError": 2,
        "InputError": 3,
        "OutputError": 3,
        "AbsentError": 4,
    }


@pytest.mark.parametrize(
    "line",
    ["profile m.onnx --threads 4000000000", "cache . --prune --megabytes nan", "cache . --prune --days -1"],
)
def test_numbers_that_an_option_cannot_have_are_refused(line: str, mx: Mx, tmp_path: Path) -> None:
    done = mx(*line.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert b"Invalid value for" in done.stderr
