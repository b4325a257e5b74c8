"""A small part of `benchmarks/kills.py`: a command that is killed, or gets an error, loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from benchmarks.killing.cases import CASES, WITH_TORCH, WRITERS, WRITERS_WITH_TORCH
from benchmarks.kills import Campaign
from mxtools_cli.forked import FORKS
from mxtools_cli.main import COMMANDS, load

forks = pytest.mark.skipif(not FORKS, reason="a command runs in a forked child")
OUTPUTS = ("--output", "--dir", "--plot", "--log", "--report", "--cache")


@forks
@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("tag over other data", 5),
        ("tag through a link", 9),
        ("filter without data over data", 3),
        ("wrap", 8),
        ("split over another", 24),
    ],
)
def test_a_killed_command_loses_nothing(tmp_path: Path, name: str, every: int) -> None:
    found = Campaign(tmp_path)
    found.run(name, CASES[name], every, 3)
    assert not found.faults, found.faults[0]
    assert found.counts["kills"] > 5
    assert found.counts["errors"] > 3


@forks
@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "every"), [("trace over a recorded one", 4), ("trace over another", 15), ("trace to a cache", 15)]
)
def test_a_killed_trace_loses_nothing(tmp_path: Path, name: str, every: int) -> None:
    found = Campaign(tmp_path)
    found.run(name, WITH_TORCH[name], every, 3)
    assert not found.faults, found.faults[0]
    assert found.counts["kills"] > 5


@forks
@pytest.mark.parametrize("lines", WRITERS, ids=["a file", "a folder"])
def test_writers_of_one_target_leave_the_result_of_one(tmp_path: Path, lines: tuple[str, ...]) -> None:
    found = Campaign(tmp_path)
    found.parallel(lines, 4)
    assert not found.faults, found.faults[0]


@forks
@pytest.mark.model
def test_traces_of_one_target_leave_the_result_of_one(tmp_path: Path) -> None:
    found = Campaign(tmp_path)
    found.parallel(WRITERS_WITH_TORCH[0], 3)
    assert not found.faults, found.faults[0]


def test_every_option_that_names_what_is_written_is_killed() -> None:
    lines = [case.line.split() for case in (CASES | WITH_TORCH).values()]
    for name in COMMANDS:
        for parameter in load(name).params:
            if written := {*parameter.opts} & {*OUTPUTS}:
                assert any(line[0] == name and {*parameter.opts} & {*line} for line in lines), (name, written)


@forks
def test_the_campaign_finds_what_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a control: a command that writes its data in place is found out."""
    from mxtools.files import atomic

    @contextmanager
    def in_place(target: Path, locks: bool = True) -> Iterator[tuple[Path, BinaryIO]]:
        with target.open("wb") as file:
            yield target, file

    monkeypatch.setattr(atomic, "temporary", in_place)
    found = Campaign(tmp_path)
    found.run("view", CASES["view"])
    assert any("neither old nor new" in fault for fault in found.faults)
