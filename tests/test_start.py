"""The package onnx in the program `mx`: it runs when it is needed, and is then as any other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mxtools.files.elements import ELEMENTS, bits_of
from mxtools.graph.shapes import stored_shape
from mxtools.graph.types import plain_dtype

DEFERRED = "import sys; from mxtools_cli.start import defer_onnx; defer_onnx(); import onnx; "
HAS_NOT_RUN = "assert 'onnx.compose' not in sys.modules and 'load' not in vars(onnx); "


@pytest.mark.parametrize(
    "code",
    [
        f"{HAS_NOT_RUN} import mxtools.pipeline.working_model; {HAS_NOT_RUN}",
        f"from onnx import ModelProto; {HAS_NOT_RUN} assert ModelProto is onnx.onnx_ml_pb2.ModelProto",
        f"onnx.defs.get_schema('Relu', 13); {HAS_NOT_RUN} assert 'numpy' not in sys.modules",
        f"from onnx import helper; {HAS_NOT_RUN} assert onnx.load and onnx.helper is helper",
        "assert onnx.__version__ and type(onnx) is type(sys) and sys.modules['onnx'] is onnx and onnx.compose",
        "import onnx.numpy_helper, onnxruntime, onnx_graphsurgeon; assert onnx.load(sys.argv[1]).ir_version == 9",
        "assert not hasattr(onnx, 'no_such_name') and not hasattr(onnx, '__no_such_name__')",
        "from threading import Thread as T; found = []\n"
        "all = [T(target=lambda: found.append(onnx.load_from_string)) for _ in range(8)]\n"
        "[t.start() for t in all]; [t.join() for t in all]; assert len(set(found)) == 1 and len(found) == 8",
    ],
)
def test_onnx_runs_when_it_is_needed(tmp_path_factory: pytest.TempPathFactory, code: str) -> None:
    file = tmp_path_factory.mktemp("start") / "m.onnx"
    graph = helper.make_graph([], "g", [], [])
    file.write_bytes(helper.make_model(graph, ir_version=9).SerializeToString())
    done = subprocess.run([sys.executable, "-c", DEFERRED + code, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_package_that_is_imported_already_stays() -> None:
    code = "import onnx; from mxtools_cli.start import defer_onnx; defer_onnx(); assert 'load' in vars(onnx)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("element", sorted(ELEMENTS - {TensorProto.STRING}), ids=TensorProto.DataType.Name)
def test_sizes_and_kinds_of_elements_are_those_of_the_package(element: int) -> None:
    array = np.zeros(8, helper.tensor_dtype_to_np_dtype(element))
    assert bits_of(element) == len(numpy_helper.from_array(array).raw_data)  # bytes of eight elements
    assert stored_shape(TensorProto(data_type=element)).kind == plain_dtype(element).kind.replace("u", "i")
