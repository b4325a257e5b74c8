"""The peak of live activations that mxtools computes from shapes, beside what the arena of ONNX Runtime reports.

    python benchmarks/activations.py ZOO.py [NAME …]

`ZOO.py` defines `zoo`, a dict of functions that return a module and its inputs. Each model is exported with a dynamic
first axis, which then is 64 long, so that what the arena rounds up does not matter, and runs with memory patterns off.
What the caller holds, the inputs, is in no arena, and so is left out of both figures. Exit status 1 if fewer than five
models differ by at most 10 %. ONNX Runtime plans from shapes that it knows beforehand which values lie in the memory of
earlier ones, and keeps that memory in between; so it can need more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

sys.path.append(str(Path(__file__).resolve().parents[1]))

from mxtools.costs.activations import peak
from mxtools.errors import InputError
from mxtools.graph.types import size_of
from mxtools.pipeline.working_model import WorkingModel
from mxtools.runtime.arena import peak_in_arena

NAMES = ("resnet", "plain_unet", "bert", "gpt2", "llama", "albert", "swin", "segformer", "mobilenet_v2", "convnextv2")
BATCH = 64
CLOSE, WANTED = 0.1, 5
MX = Path(sys.executable).with_name("mx")


def exported(spec: str, folder: Path) -> Path | None:
    """Export a model whose first axes are dynamic where they are 1 long; None where that fails."""
    trace, file = folder / "trace.json", folder / "model.onnx"
    if not _done("trace", spec, "-o", trace):
        return None
    inputs = json.loads(trace.read_text())["model"]["inputs"]
    axes = [f"{tensor['name']}=0:batch" for tensor in inputs if tensor["shape"][:1] == [1]]
    options = [word for axis in axes for word in ("--dynamic", axis)]
    return file if _done("export", spec, "--exporter", "torchscript", *options, "-o", file) else None


def _done(*arguments: object) -> bool:
    return not subprocess.run([str(MX), *map(str, arguments)], capture_output=True).returncode


def measured(file: Path) -> tuple[int, int] | None:
    """Return the peak that is computed, and the arena's; None where ONNX Runtime cannot run the model."""
    model = WorkingModel.read(file)
    generator = np.random.default_rng(0)
    feeds = {}
    for info in model.proto.graph.input:
        shape = [BATCH if size_of(dim) is None else size_of(dim) for dim in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        floats = dtype.kind == "f"
        feeds[info.name] = (generator.standard_normal(shape) if floats else generator.integers(0, 2, shape)).astype(
            dtype
        )
    try:
        found = peak_in_arena(model.proto, model.weights, feeds)
    except InputError:
        return None
    graph = model.graph
    ours = peak(graph, graph.main, model.costs(other=BATCH).size, graph.inputs, graph.outputs)
    return ours.bytes - sum(array.nbytes for array in feeds.values()), found


def main() -> int:
    """Measure and print; return the exit status."""
    zoo, *names = sys.argv[1:]
    close = 0
    for name in names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            file = exported(f"{zoo}:{name}", Path(folder))
            found = measured(file) if file else None
        if found is None:
            print(f"{name}: no export with a dynamic axis that runs", flush=True)
            continue
        ours, arena = found
        close += abs(ours / arena - 1) <= CLOSE
        print(
            f"{name}: {ours / 1e6:.2f} MB computed, {arena / 1e6:.2f} MB in the arena: {ours / arena:.3f}", flush=True
        )
    print(f"within {CLOSE:.0%}: {close} (at least {WANTED})")
    return int(close < WANTED)


if __name__ == "__main__":
    sys.exit(main())
