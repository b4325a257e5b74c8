"""A small part of `benchmarks/kills.py`: a command that is killed, or gets an error, loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import CASES, WRITERS, Campaign
from tests.support.commands import FORKS

pytestmark = pytest.mark.skipif(not FORKS, reason="a command runs in a forked child")


@pytest.mark.parametrize(
    ("name", "every"), [("tag with data in place", 4), ("filter over a whole model", 9), ("split over another", 24)]
)
def test_a_killed_command_loses_nothing(tmp_path: Path, name: str, every: int) -> None:
    found = Campaign(tmp_path)
    found.run(name, CASES[name], every, 3)
    assert not found.faults, found.faults[0]
    assert found.counts["kills"] > 5
    assert found.counts["errors"] > 3


def test_writers_of_one_target_leave_the_result_of_one(tmp_path: Path) -> None:
    found = Campaign(tmp_path)
    found.parallel(WRITERS[0], 3)
    assert not found.faults, found.faults[0]
