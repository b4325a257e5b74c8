"""What programs read: every command's `--json` has a schema that its real output fits, and errors are JSON too."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

import mxtools
from mxtools_cli.agents.reports import SCHEMAS, file_of
from mxtools_cli.main import COMMANDS, load
from tests.support.commands import Done, Mx
from tests.support.paths import ROOT
from tests.support.reports import check_reports
from tests.support.shared_models import MODELS, Build, Record

LINES = {
    "trace": f"trace {MODELS}:repeated -o {{out}}/t.json --json",
    "export": f"export {MODELS}:repeated -o {{out}}/m.onnx --json",
    "tag": "tag raw.onnx --trace trace.json -o {out}/m.onnx --json --explain {node}",
    "auto": f"auto {MODELS}:repeated -o {{out}}/m.onnx --json",
    "tree": "tree tagged.onnx --json",
    "view": "view tagged.onnx -o {out}/m.html --json",
    "profile": "profile tagged.onnx --runs 1 --json",
    "filter": "filter tagged.onnx --scope encoder.layer.0 --verify -o {out}/m.onnx --json",
    "split": "split tagged.onnx --depth 1 -d {out}/parts --json",
    "split by a budget": "split tagged.onnx --parts 2 --dry-run --json",
    "run-parts": "run-parts {out}/parts --verify tagged.onnx -o {out}/o.npz --json",
    "graft": "graft tagged.onnx {out}/m.onnx --verify -o {out}/g.onnx --json",
    "fold": "fold tagged.onnx --repeated --verify -o {out}/f.onnx --json",
    "join": "join {out}/parts -o {out}/j.onnx --json",
    "unfold": "unfold {out}/f.onnx --verify -o {out}/u.onnx --json",
    "verify": "verify tagged.onnx --trace {recorded} --isolate --json",
    "verify another graph": "verify tagged.onnx --against tagged.onnx --bisect --json",
    "verify the round trip": "verify tagged.onnx --trace {recorded} --round-trip --json",
    "run-values": "run-values tagged.onnx -o {out}/v.npz --json",
    "compare": "compare tagged.onnx {out}/m.onnx --json",
    "validate": "validate tagged.onnx --json",
    "validate several": "validate tagged.onnx raw.onnx --json",
    "wrap": "wrap tagged.onnx -o {out}/w.onnx --json -- cp {{in}} {{out}}",
    "tune": "tune tagged.onnx --inputs {out}/sets --target sqnr>=45 --budget 3 -o {out}/s.onnx --json",
    "run": "run tagged.onnx -p filter{{scope=encoder}},record-absent,record-absent -o {out}/r.onnx --json",
    "recommend": f"recommend {MODELS}:repeated --cache {{out}}/cache --json",
    "bench": f"bench {MODELS}:repeated --strategies usage --json",
    "strategies": "strategies --json",
    "passes": "passes --json",
    "cache": "cache {out}/cache --json",
    "batch": "batch {out}/jobs.toml --json",
    "report": "report {out} --json",
    "report against another": "report {out} --against {out} --json",
}
"""Lines for each command that reports; in this order, as some need what those before them wrote."""

JOBS = """
[[jobs]]
model = "bert"
report = "{out}/bert.job.json"
steps = [{{name = "tree", line = "tree tagged.onnx --json"}}, {{name = "tag", line = "tag raw.onnx"}}]
"""


ANSWER_IS_NO = ("compare", "validate several")


def test_every_report_has_a_schema_and_a_line() -> None:
    reporting = {name for name in COMMANDS if any("--json" in parameter.opts for parameter in load(name).params)}
    assert reporting == SCHEMAS.keys() - {"error"} == {line.split()[0] for line in LINES.values()}
    for name in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(json.loads((ROOT / "docs" / file_of(name)).read_text()))


@pytest.mark.model
def test_what_commands_report_fits_their_schemas(built: Build, recorded: Record, mx: Mx, tmp_path: Path) -> None:
    folder = built("bert")
    node = onnx.load(folder / "tagged.onnx", load_external_data=False).graph.node[0].name
    (tmp_path / "sets").mkdir()
    for number in range(3):
        np.savez(tmp_path / "sets" / f"{number}.npz", **mxtools.load(folder / "tagged.onnx").inputs())
    (tmp_path / "jobs.toml").write_text(JOBS.format(out=tmp_path))
    for name, line in LINES.items():
        words = [word.format(out=tmp_path, recorded=recorded("bert"), node=node) for word in line.split()]
        done = mx(*words, cwd=folder)  # which holds the report against its schema
        assert done.returncode == (1 if name in ANSWER_IS_NO else 0), done.stderr.decode()
        assert json.loads(done.stdout)


def test_a_report_that_does_not_fit_is_found() -> None:
    wrong = Done(["mx"], 0, b'{"files": [], "scopes": "many", "nodes": 1, "metrics": []}', b"")
    with pytest.raises(jsonschema.ValidationError, match="many"):
        check_reports(["view", "--json"], wrong)
    more = Done(["mx"], 0, b'{"files": [], "scopes": 1, "nodes": 1, "metrics": [], "more": 1}', b"")
    with pytest.raises(jsonschema.ValidationError, match="more"):
        check_reports(["view", "--json"], more)


FAILURES = {
    "no such file": ("tree none.onnx --json", "tree", 3),
    "no such option": ("tree none.onnx --jsn --json", "tree", 2),
    "no such command": ("tre --json", "", 2),
    "both to stdout": ("tag none.onnx --json", "tag", 2),
    "a folder": ("validate . --json", "validate", 3),
    "limits that are no number": ("tree none.onnx --limits x --json", "", 2),
}


@pytest.mark.parametrize("case", FAILURES)
def test_an_error_is_an_object_on_stderr(mx: Mx, tmp_path: Path, case: str) -> None:
    line, command, status = FAILURES[case]
    done = mx(*line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, b"")
    found = json.loads(done.stderr)
    assert found["error"].pop("problem")
    assert found["error"].pop("remedy")
    assert found == {"error": {"command": command, "status": status}}


def test_json_of_another_tool_is_not_for_errors(mx: Mx, tmp_path: Path) -> None:
    done = mx("wrap", "none.onnx", "-o", "o.onnx", "--", "tool", "--json", cwd=tmp_path)
    assert done.stderr.startswith(b"mx wrap: ")
