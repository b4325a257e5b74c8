"""The command lines that are killed, and the files that they find."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 24
LAYERS = ("enc.0", "enc.1", "enc.2")


@dataclass(frozen=True)
class Case:
    """A command line, run in a copy of the folder that `prepare` makes."""

    line: str
    prepare: str = ""
    """Command lines to run first, one a line."""
    timed: frozenset[str] = frozenset()
    """Files that hold times, or what went wrong, and differ from run to run."""


def _timed(line: str, timed: str, prepare: str = "") -> Case:
    return Case(line, prepare, frozenset(timed.split()))


_PART = "filter big.onnx --scope enc.1 -o part.onnx"
CASES = {
    "tag": Case("tag plain.onnx -o out.onnx"),
    "tag in place": Case("tag plain.onnx -o plain.onnx"),
    "tag through a link": Case("tag big.onnx -o link.onnx"),
    "tag with data": Case("tag big.onnx -o out.onnx"),
    "tag with data in place": Case("tag big.onnx -o big.onnx"),
    "tag with copies": Case(
        "tag big.onnx --doc-string --rename --output-names --namespace -o out.onnx", "tag plain.onnx -o out.onnx"
    ),
    "tag over other data": Case("tag big.onnx -o out.onnx", "filter big.onnx --scope enc.1 -o out.onnx"),
    "tag over data of others": Case("tag big.onnx -o old.onnx"),
    "tag over data of nobody": Case("tag big.onnx -o nobody.onnx"),
    "tag from an earlier model": Case("tag big.onnx --from plain.onnx -o out.onnx", "tag plain.onnx -o out.onnx"),
    "filter over a whole model": Case("filter big.onnx --scope enc.1 -o out.onnx", "tag big.onnx -o out.onnx"),
    "filter without data over data": Case("filter plain.onnx --scope enc.1 -o out.onnx", "tag big.onnx -o out.onnx"),
    "filter and verify": Case("filter big.onnx --scope enc.1 --verify -o big.onnx"),
    "filter to a case": Case("filter big.onnx --scope enc.1 --save-case case"),
    "verify against and save a case": Case("verify big.onnx --against plain.onnx --fail-over 1e9 --save-case case"),
    "run-values": Case("run-values big.onnx -o v.npz", "run-values plain.onnx -o v.npz"),
    "graft": Case("graft big.onnx part.onnx -o out.onnx", _PART),
    "graft in place": Case("graft big.onnx part.onnx -o big.onnx", "filter plain.onnx --scope enc.1 -o part.onnx"),
    "run": Case("run big.onnx -p untag -o out.onnx", "tag big.onnx -o out.onnx"),
    "run in place": Case("run big.onnx -p untag -o big.onnx"),
    "run an optimiser": Case("run big.onnx -p optimize{with=ort-basic} -o big.onnx"),
    "run a script": Case("run big.onnx -p surgeon{script=change.py:change} -o big.onnx"),
    "wrap": Case("wrap big.onnx -o out.onnx -- cp {in} {out}"),
    "wrap in place": Case("wrap plain.onnx -o plain.onnx -- cp {in} {out}"),
    "tune": Case("tune big.onnx --inputs sets --target sqnr>=30 -o out.onnx --report r.json --recipe r.py"),
    "tune and go on": _timed(
        "tune plain.onnx --inputs sets --target sqnr>=44 -o out.onnx --state s.json --plot p.svg",
        "s.json",  # what was found so far
        "tag big.onnx -o out.onnx",
    ),
    "validate": Case("validate big.onnx --repair -o out.onnx"),
    "validate in place": Case("validate big.onnx --repair -o big.onnx"),
    "view": Case("view plain.onnx -o page.html", "view big.onnx -o page.html"),
    "view against": Case("view big.onnx --against plain.onnx --statistics -o page.html"),
    "view netron": Case("view big.onnx -f netron -o out.json"),
    "view graphml": Case("view big.onnx -f graphml -o out.graphml"),
    "view mermaid": Case("view big.onnx -f mermaid -o out.mmd"),
    "view dot": Case("view big.onnx -f dot -o out.dot"),
    "view model-explorer": Case("view big.onnx -f model-explorer --metric time.json --against plain.onnx -o out.onnx"),
    "view model-explorer in place": Case("view big.onnx -f model-explorer --metric time.json -o big.onnx"),
    "view model-explorer as JSON": Case("view big.onnx -f model-explorer --metric time.json -o out.json"),
    "profile": Case("profile big.onnx --runs 1 --threads 1"),
    "profile with a picture": _timed("profile big.onnx --runs 1 --threads 1 --plot p.svg", "p.svg"),
    "split": Case("split big.onnx --each enc.* -d parts"),
    "split and verify": Case("split plain.onnx --each enc.* --verify -d parts"),
    "split into a folder": Case("split big.onnx --each enc.* -d full"),
    "split over another": Case(
        "split big.onnx --each enc.* -d parts", "split big.onnx --depth 1 --exclude enc.2 -d parts"
    ),
    "split over the same": Case("split big.onnx --each enc.* -d parts", "split big.onnx --each enc.* -d parts"),
    "split without data over data": Case(
        "split plain.onnx --each enc.* -d parts", "split big.onnx --each enc.* -d parts"
    ),
    "split over a killed one": Case("split big.onnx --each enc.* -d parts", "split big.onnx --each enc.0 -d parts"),
    "split by a budget": Case("split big.onnx --parts 2 --verify -d parts", "split big.onnx --each enc.* -d parts"),
    "split by a placement": Case("split plain.onnx --placement places.json -d parts"),
    "plan of a split": Case("split plain.onnx --parts 2 --dry-run --plot p.svg"),
    "run parts": Case("run-parts parts -o v.npz", "split big.onnx --parts 2 -d parts"),
    "join parts": Case("join parts -o out.onnx", "split big.onnx --each enc.* -d parts"),
    "join over another": Case("join --as a=big.onnx --as b=plain.onnx -o out.onnx", "tag big.onnx -o out.onnx"),
    "fold": Case("fold big.onnx --repeated -o out.onnx"),
    "fold in place": Case("fold big.onnx --each enc.* --verify -o big.onnx"),
    "unfold over another": Case("unfold out.onnx -o out.onnx", "fold big.onnx --repeated --nested -o out.onnx"),
    "select": Case("select big.onnx --scope enc.1"),
    "tree": Case("tree big.onnx --csv"),
    "compare": Case("compare plain.onnx plain.onnx --markdown"),
    "report": Case("report jobs -o page.html", "view big.onnx -o page.html"),
    "validate as SARIF": Case("validate big.onnx -f sarif"),
    "strategies": Case("strategies"),
    "passes": Case("passes"),
}
_EXPORT = "export net.py:net --exporter torchscript"
_TRACE = "trace net.py:net --record -o t.json"
_TAGGED = f"{_EXPORT} -o raw.onnx\n{_TRACE}"
WITH_TORCH = {
    "demo": Case("demo llama -o llama"),
    "trace": Case("trace net.py:net -o t.json"),
    "trace and record": Case(_TRACE),
    "trace over another": Case(_TRACE, "trace net.py:other --record -o t.json"),
    "trace over a recorded one": Case("trace net.py:net -o t.json", "trace net.py:other --record -o t.json"),
    "trace to a cache": Case(f"{_TRACE} --cache cache", "trace net.py:net -o t.json --cache cache"),
    "trace to a new cache": Case(f"{_TRACE} --cache cache"),
    "tag with a trace": Case("tag raw.onnx --trace t.json --embed-trace -o raw.onnx", _TAGGED),
    "verify": Case(
        "verify raw.onnx --trace t.json --plot p.svg --isolate", f"{_TAGGED}\ntag raw.onnx --trace t.json -o raw.onnx"
    ),
    "export": _timed(f"{_EXPORT} -o out.onnx --log log.txt", "log.txt"),
    "export over another": _timed(
        f"{_EXPORT} -o out.onnx --log log.txt", "log.txt", "tag big.onnx -o out.onnx\nview big.onnx -f dot -o log.txt"
    ),
    "export to a cache": Case(f"{_EXPORT} -o out.onnx --cache cache", f"{_TRACE} --cache cache"),
    "export from a cache": Case(f"{_EXPORT} -o out.onnx --cache cache", f"{_EXPORT} -o other.onnx --cache cache"),
    "export with dynamo": Case("export net.py:tiny --exporter dynamo -o out.onnx --cache cache"),
    "auto over another": _timed(
        "auto net.py:net --primary htp --optimize ort-basic -o out.onnx --report r.md",
        "r.md",
        "tag big.onnx -o out.onnx\nview big.onnx -f dot -o r.md",
    ),
    "auto to a cache": _timed(
        "auto net.py:net --primary htp --verify -o out.onnx --report r.json --cache cache", "r.json"
    ),
    "recommend": Case(
        "recommend net.py:tiny --cache cache", "export net.py:tiny --exporter dynamo -o out.onnx --cache cache"
    ),
    "bench": _timed("bench net.py:net --strategies htp --plot p.svg", "p.svg"),
    "cache": Case("cache cache --prune", f"{_TRACE} --cache cache"),
}
WRITERS = (
    ("tag big.onnx -o out.onnx", "filter big.onnx --scope enc.1 -o out.onnx", "tag plain.onnx -o out.onnx"),
    ("split big.onnx --each enc.* -d parts", "split big.onnx --each enc.1 -d parts"),
)
"""Command lines that write to the same place."""
WRITERS_WITH_TORCH = (
    ("trace net.py:net --record -o t.json", "trace net.py:other --record -o t.json", "trace net.py:net -o t.json"),
    (f"{_TRACE} --cache cache",),
    (f"{_EXPORT} -o out.onnx --cache cache",),
)

_NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.one, self.two = torch.nn.Linear(4, width), torch.nn.Linear(width, 4)
    def forward(self, x):
        return self.two(torch.relu(self.one(x)))
net, other = (Net(8), (torch.ones(2, 4),)), (Net(5), (torch.ones(3, 4),))
tiny = torch.nn.Linear(2, 2), (torch.ones(2, 2),)
"""
_CHANGE = """
def change(graph):
    graph.nodes[0].name = "other"
"""

_JOB = {
    "schema": "mxtools.job/1",
    "model": "m",
    "exporter": "dynamo",
    "tool": "",
    "failure": None,
    "steps": [{"name": "tag", "line": ["tag", "m.onnx"], "status": 0, "seconds": 1.5, "memory": 1000}],
    "figures": {"nodes": 2},
    "pages": [],
    "attempts": 1,
    "plan": "0",
    "versions": [],
}
"""The report of a job."""


def model(seed: int) -> onnx.ModelProto:
    """Return a tagged model of three layers."""
    numbers, nodes, weights, value = np.random.default_rng(seed), [], [], "x"
    for layer in LAYERS:
        weight = numbers.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{layer}.weight"))
        for operator, inputs in (("MatMul", (value, f"{layer}.weight")), ("Relu", (f"{layer}.m",))):
            value = f"{layer}.{operator[0].lower()}"
            nodes.append(helper.make_node(operator, inputs, [value], name=f"/{layer}/{operator}"))
            meta = {
                "pkg.mxtools.scope": layer,
                "pkg.mxtools.tag": f"/Net/Layer.{layer[-1]}",
                "pkg.mxtools.evidence": "name",
            }
            nodes[-1].metadata_props.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in meta.items())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, WIDTH]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def template(folder: Path) -> None:
    """Write the files that every case begins with."""
    onnx.save(model(0), folder / "plain.onnx")
    external = {"save_as_external_data": True, "size_threshold": 0}
    onnx.save(model(1), folder / "big.onnx", location="big.onnx.data", **external)
    # Its weights lie where the weights of old.onnx would be written to.
    onnx.save(model(2), folder / "owner.onnx", location="old.onnx.data", **external)
    onnx.save(model(3), folder / "linked.onnx", location="linked.onnx.data", **external)
    (folder / "link.onnx").symlink_to("linked.onnx")
    (folder / "nobody.onnx.data").write_bytes(b"left")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "m.job.json").write_text(json.dumps(_JOB))
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("not ours")
    (folder / "time.json").write_text(json.dumps({"time": {"enc.0": 1.0}}))
    (folder / "places.json").write_text(json.dumps({"enc.1": "gpu", ".": "cpu"}))
    (folder / "net.py").write_text(_NET)
    (folder / "change.py").write_text(_CHANGE)
    (folder / "sets").mkdir()
    for number in range(3):
        x = np.random.default_rng(number).standard_normal((2, WIDTH)).astype(np.float32)
        np.savez(folder / "sets" / f"{number}.npz", x=x)
