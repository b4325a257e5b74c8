"""Validate a model, its tags and its trace: check all rules, and mend what can be mended mechanically."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

from mxtools.errors import UsageError, in_words, suggestion
from mxtools.pipeline.working_model import WorkingModel
from mxtools.scopes import keys
from mxtools.validate.rules import RULES, CheckedModel, Fault, Mend, Rule, Severity

for _table in ("rules_model", "rules_tags", "rules_trace", "rules_flow"):
    import_module(f"mxtools.validate.{_table}")  # importing it registers its rules

ROUNDS = 4
"""How often mending is tried, since a mended fault can uncover another one."""


@dataclass(frozen=True)
class Finding:
    """A fault that a rule found; `node`, `operator` and `scope` are '' if it is not about a single node or scope."""

    rule: str
    severity: Severity
    reason: str
    remedy: str
    node: str = ""
    operator: str = ""
    scope: str = ""
    mend: Mend | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain data, without the fields that are ''."""
        names = ("rule", "severity", "node", "operator", "scope", "reason", "remedy")
        return {name: str(value) for name in names if (value := getattr(self, name))}

    def __str__(self) -> str:
        """Return the finding on one line."""
        return f"{self.severity}: {self.rule}: {self.place}{self.reason}: {self.remedy}"

    @property
    def place(self) -> str:
        """Operator, node and scope, as far as there are any, as the beginning of a line."""
        node = f"{self.operator} {self.node!r}" if self.operator else ""
        place = " in ".join(part for part in (node, self.scope) if part)
        return f"{place}: " if place else ""


@dataclass(frozen=True)
class Mended:
    """A finding that was mended, and what was done."""

    finding: Finding
    done: str


def validate(model: WorkingModel, folder: Path = Path()) -> list[Finding]:
    """Return all findings of a model, in the order of the rules; `folder` is where its sidecar lies."""
    checked = CheckedModel(model, folder)

    @cache
    def check(name: str) -> list[Finding]:
        """Return the findings of a rule, none if a rule that it depends on has findings."""
        rule = RULES[name]
        if any(map(check, rule.unless)):
            return []
        return [_finding(checked, rule, fault) for fault in rule.find(checked)]

    return [finding for name in RULES for finding in check(name)]


def repair(model: WorkingModel, folder: Path = Path()) -> tuple[list[Mended], list[Finding]]:
    """Mend in place what can be mended mechanically; return what was mended, and the remaining findings."""
    mended: list[Mended] = []
    for _ in range(ROUNDS):
        findings = validate(model, folder)
        mends = [(finding, finding.mend) for finding in findings if finding.mend]
        if not mends:
            return mended, findings
        with model.changing():
            mended += [Mended(finding, mend()) for finding, mend in mends]
    return mended, validate(model, folder)


def require_rules(names: Iterable[str]) -> None:
    """Raise UsageError if no rule has one of the names."""
    for name in names:
        if name not in RULES:
            raise UsageError(f"there is no rule {name!r}", suggestion(name, RULES))


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Return the number of findings of each severity."""
    found = Counter(finding.severity for finding in findings)
    return {str(severity): found[severity] for severity in Severity}


def _finding(checked: CheckedModel, rule: Rule, fault: Fault) -> Finding:
    """Return a fault as a finding: with its rule's severity and remedy, and the names of its node."""
    node = operator = ""
    scope = fault.scope
    if fault.node is not None:
        proto = checked.graph.nodes[fault.node]
        node = proto.name or next(filter(None, proto.output), f"#{fault.node}")
        operator = proto.op_type
        scope = scope or checked.entries[fault.node].get(keys.SCOPE, "")
    remedy = in_words(f"{rule.remedy}, or ⟨repair⟩" if fault.mend else rule.remedy)
    return Finding(rule.name, rule.severity, fault.reason, remedy, node, operator, scope, fault.mend)
