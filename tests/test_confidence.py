"""How sure a recommendation is: the share of measured models on which its line was right, as the documentation says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mxtools.strategies import table
from tests.support.paths import ROOT

MEASURED = re.compile(r"^\| (\w+) \| `(\w+)` \| (\d+) \| (\d+)\b", re.MULTILINE)
"""A line of the table: priority, strategy, for how many models it was taken, for how many of them it was right."""


def test_the_decisions_and_the_documented_measurement_agree() -> None:
    text = (ROOT / "docs" / "strategies.md").read_text()
    documented = {(priority, strategy): (int(n), int(m)) for priority, strategy, n, m in MEASURED.findall(text)}
    decided = {(d.priority, d.strategy): (d.taken, d.right) for d in table.shipped().decisions}
    assert decided == documented


def test_the_confidence_is_the_share_that_was_right() -> None:
    confidence = {(d.priority, d.strategy): d.confidence for d in table.shipped().decisions}
    assert confidence["speed", "fx"] == 0.75
    assert confidence["coverage", "fx"] == 1.0


def test_no_decision_is_right_more_often_than_it_is_taken() -> None:
    for decision in table.shipped().decisions:
        assert 0 <= decision.right <= decision.taken


@pytest.mark.parametrize("counts", [{"taken": 0, "right": 0}, {"right": 1}, {"confidence": 1.0}], ids=str)
def test_a_decision_that_was_not_measured_is_refused(counts: dict[str, Any]) -> None:
    decision: dict[str, Any] = {"priority": "speed", "when": (), "strategy": "fx", "reason": "so it is"}
    assert table.Decision(**{**decision, "taken": 4, "right": 3}).confidence == 0.75
    with pytest.raises((TypeError, ValueError)):
        table.Decision(**{**decision, **counts})
