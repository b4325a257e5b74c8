"""The cases of `tests/golden`: what pipelines make of small graphs, `pytest tests/test_golden.py --update-golden`.

How to read one, and to write one, is said in `tests/support/golden_cases.py`.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mxtools.pipeline.registry import names
from mxtools.scopes import keys
from tests.support import golden_text
from tests.support.golden_cases import Case, files


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_case(file: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found, _ = Case.read(file).run(tmp_path)
    if request.config.getoption("--update-golden"):
        file.write_text(str(found))
    assert str(found) == file.read_text()


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_before_and_after_are_valid_and_the_text_says_all(file: Path) -> None:
    sections = Case.read(file).sections
    for name in sorted(sections.keys() & {"before", "earlier", "part", "after"}):
        model = golden_text.read(sections[name])
        onnx.checker.check_model(model, full_check=True)
        again = golden_text.read(golden_text.shown(model))
        assert again == model, name


def test_every_pass_has_cases() -> None:
    shown = {step.name for file in files() for step in Case.read(file).passes().passes}
    assert shown >= {*names()}


def test_the_text_shows_tags_in_bodies_and_functions_metadata_and_doc_strings() -> None:
    text = """<
   ir_version: 10,
   opset_import: ["" : 21, "own" : 1],
   metadata_props: ["pkg.mxtools.absent": "{\\"two\\": \\"folded\\"}"]
>
g (float[2] x, bool c) => (float[2] y)
   <float[2] "one.w" =  {1,2}>
{
   ["/one/Add"] a = Add (x, "one.w")            #@ one name one two
     #+ namespace: Net/one: Block
     #+ pkg.mxtools.tag: /Net/Block
     #" "it is said\\nthat # is no comment"
   b = If (c) <then_branch: graph = t () => (float[2] p) {
      p = Neg (a)                               #@ one dataflow
   }, else_branch: graph = e () => (float[2] q) {
      q = Abs (a)                               #@ one.q name
   }>
   "d/2" = own.f (b)
   y = Relu ("d/2")                             #@ . root
}
<
  domain: "own",
  opset_import: ["" : 21]
>
f (p0) => (q0)
{
   q0 = Neg (p0)                                #@ two name
}
"""
    model = golden_text.read(text)
    assert keys.props(model.graph.node[0])["namespace"] == "Net/one: Block"
    assert model.graph.node[0].doc_string == "it is said\nthat # is no comment"
    assert golden_text.shown(model) == text
