"""Whether what a command writes with `--json` fits the schemas in docs/."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from functools import cache

import jsonschema

from mxtools_cli.help import COMMANDS
from mxtools_cli.main import wants_json
from tests.support.paths import ROOT

ANSWER_IS_NO = 1
"""The one status of a failure with which a command may have written its report before."""


def check_reports(line: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> None:
    """Hold the report of a command, and the error of one that failed, against their schemas."""
    command = next((word for word in line if word in COMMANDS), "")
    if not wants_json(line) or "--help" in line:
        return
    if done.returncode in (0, ANSWER_IS_NO) and done.stdout:
        _validator(command).validate(json.loads(done.stdout))
    if 0 < done.returncode <= 70:
        said = json.loads(done.stderr.splitlines()[-1])
        _validator("error").validate(said)
        assert said["error"]["status"] == done.returncode


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    files = [ROOT / "docs" / "json" / f"{name}.schema.json", ROOT / "docs" / f"{name}.schema.json"]
    return jsonschema.Draft202012Validator(json.loads(next(f for f in files if f.exists()).read_text()))
