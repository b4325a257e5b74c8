"""Findings as SARIF 2.1.0, the format in which CI services take annotations.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from mxtools.errors import in_words
from mxtools.files import VERSION
from mxtools.validate.findings import Finding
from mxtools.validate.rules import RULES

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(findings: Iterable[tuple[str, Finding]]) -> dict[str, Any]:
    """Return the log of one run: the rules, and a result for each finding, given with its file in the repository."""
    numbers = {name: number for number, name in enumerate(RULES)}
    rules = [
        {
            "id": rule.name,
            "shortDescription": {"text": rule.title},
            "help": {"text": in_words(rule.remedy)},
            "defaultConfiguration": {"level": str(rule.severity)},
        }
        for rule in RULES.values()
    ]
    driver = {"name": "mx validate", "version": VERSION, "rules": rules}
    results = [_result(finding, file, numbers[finding.rule]) for file, finding in findings]
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(finding: Finding, file: str, number: int) -> dict[str, Any]:
    """Return a result: the file is binary, so the place is line 1, and the node and its scope by name."""
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": quote(file)}, "region": {"startLine": 1}}
    }
    named = [("node", finding.node), ("module", finding.scope)]
    logical = [{"fullyQualifiedName": name, "kind": kind} for kind, name in named if name]
    if logical:
        location["logicalLocations"] = logical
    identity = "\0".join((finding.rule, finding.node, finding.scope, finding.reason))
    return {
        "ruleId": finding.rule,
        "ruleIndex": number,
        "level": str(finding.severity),
        "message": {"text": f"{finding.place}{finding.reason}: {finding.remedy}"},
        "locations": [location],
        "partialFingerprints": {"finding/v1": hashlib.sha256(identity.encode()).hexdigest()},
    }
