"""Tag and take apart the files that Optimum writes, by traces of the folders they came from.

    python benchmarks/optimum_files.py [--environment DIR] [TEXT …]

Optimum needs an older transformers than mxtools does, so it has an environment of its own: build/optimum/environment,
or DIR, which is taken as it is. Small models with random weights are saved as Hugging Face folders, and exported by
`optimum-cli export onnx`. Then each file is worked on as a user would: `mx trace FOLDER --record`, `mx tag FILE
--trace …`, and `mx filter --scope …` for every call of a module that made something which is used. What is cut out is
run on values of the whole graph, and compared with what PyTorch's module returned in the code that was exported
(`optimum_record.py`). The verdicts are those of the round trip (docs/strategies.md). Given a TEXT, only files that have
it in their name or their folder's are taken.

Prints a line for each file, and one for each call that is not exact; if all files were measured, writes the table into
docs/world.md. Exit status 1 when a call is not exact, other than one of which the exporter left nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto
from safetensors.numpy import load_file, save_file

from mxtools.files.weights import WeightStore
from mxtools.graph.index import Graph
from mxtools.matching.traced_values import same_values
from mxtools.scopes import keys
from mxtools.traces.part import fitted
from mxtools.traces.sidecar import Sidecar, loads

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "optimum"
PAGE = ROOT / "docs" / "world.md"
BEGIN, END = "<!-- measured: benchmarks/optimum_files.py -->\n", "<!-- /measured by optimum_files.py -->"
RECORD = Path(__file__).with_name("optimum_record.py")
MX = Path(sys.executable).with_name("mx")
PACKAGES = ("optimum==2.1.0", "optimum-onnx==0.1.0", "transformers==4.57.6")
"""Versions that get along; besides, what `constraints.txt` pins of PINNED."""
PINNED = ("torch", "onnx", "onnxruntime")
NOTHING_THERE = (2, 4)
"""Exit statuses of `mx filter` where there is no such scope, or nothing left of it."""
WORDS = ("exact", "extra", "bad", "missing", "gone")
COLUMNS = ("file", "trace", "nodes", "tagged", *WORDS)

Array = NDArray[Any]


@dataclass(frozen=True)
class File:
    """A file that Optimum writes for a folder, and the options with which `mx trace` takes what is in it."""

    folder: str
    name: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.folder}/{self.name} | {' '.join(('mx trace', self.folder, *self.options))}"


TASKS = {"bert": "feature-extraction", "t5": "text2text-generation-with-past", "llama": "text-generation-with-past"}
FILES = (
    File("bert", "model.onnx"),
    File("t5", "encoder_model.onnx", ("--module", "encoder")),
    File("t5", "encoder_model.onnx"),
    File("t5", "decoder_model.onnx"),
    File("t5", "decoder_with_past_model.onnx", ("--with-past",)),
    File("llama", "model.onnx", ("--with-past",)),
)


@dataclass(frozen=True)
class Row:
    """What became of a file: its nodes, the share of them of which something is known, and the verdict on each call."""

    file: File
    nodes: int
    tagged: float
    verdicts: Mapping[str, tuple[str, str]]

    def __str__(self) -> str:
        counts = Counter(word for word, _ in self.verdicts.values())
        return " | ".join((str(self.file), str(self.nodes), f"{self.tagged:.0%}", *(str(counts[w]) for w in WORDS)))

    @property
    def others(self) -> list[str]:
        """A line for each call that is not exact."""
        return [f"  {w} {scope}: {reason}" for scope, (w, reason) in self.verdicts.items() if w != "exact"]

    @property
    def fails(self) -> bool:
        """Whether any call is not as PyTorch's module, or there is none."""
        words = {word for word, _ in self.verdicts.values()}
        return "exact" not in words or not words <= {"exact", "gone"}


def main(environment: Path | None, texts: Sequence[str]) -> int:
    """Export, measure and print; return the exit status."""
    python = (environment or _environment()) / "bin" / "python"
    print(" | ".join(COLUMNS))
    rows = []
    for file in FILES:
        if not texts or any(text in str(file) for text in texts):
            rows.append(_measure(file, _exported(file.folder, python) / file.name, python))
            print(rows[-1], *rows[-1].others, sep="\n", flush=True)
    if not texts:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *(f"| {row} |" for row in rows)]
        PAGE.write_text(before + BEGIN + "\n".join(lines) + f"\n{END}" + rest.partition(END)[2])
    return int(any(row.fails for row in rows))


def _environment() -> Path:
    """Make the environment that Optimum runs in, if it is not there."""
    folder = FOLDER / "environment"
    if not (folder / "bin" / "optimum-cli").exists():
        pinned = re.findall(rf"^(?:{'|'.join(PINNED)})==.*", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-qq", *pinned, *PACKAGES], check=True)
    return folder


def _exported(name: str, python: Path) -> Path:
    """Save a model as a Hugging Face folder, and return the folder with what Optimum makes of it."""
    source, target = FOLDER / name, FOLDER / f"{name}-onnx"
    if not target.exists():
        _save(name, source)
        command = [python.with_name("optimum-cli"), "export", "onnx", "--model", source, "--task", TASKS[name], target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"optimum-cli export onnx {name}: {done.stderr.strip().splitlines()[-1]}")
    return target


def _save(name: str, folder: Path) -> None:
    """Save a model with weights of which none equals another."""
    import torch
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": 100, "num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2}
    sizes = {**common, "intermediate_size": 64, "max_position_embeddings": 64}
    model: Any
    if name == "bert":
        model = transformers.BertModel(transformers.BertConfig(**sizes))
    elif name == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2, pad_token_id=0))
    else:
        t5 = transformers.T5Config(
            vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        model = transformers.T5ForConditionalGeneration(t5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand(parameter.shape) * 0.1)
    model.save_pretrained(folder)


def _measure(file: File, source: Path, python: Path) -> Row:
    """Trace, tag and take apart one file."""
    work = FOLDER / "work"
    work.mkdir(exist_ok=True)
    trace, tagged, given, returned = (work / name for name in ("trace.json", "tagged.onnx", "given.st", "returned.st"))
    for line in (
        ("trace", FOLDER / file.folder, *file.options, "--record", "-o", trace),
        ("tag", source, "--trace", trace, "-o", tagged),
    ):
        status, said = _mx(*line)
        if status:
            return Row(file, 0, 0.0, {"": ("bad", said)})
    model = onnx.load(tagged)
    sidecar = fitted(Graph(model), WeightStore(), loads(trace.read_text(), str(trace)))
    inputs = _inputs(model, sidecar, load_file(trace.with_suffix(".safetensors")))
    save_file(inputs, given)
    subprocess.run([python, RECORD, FOLDER / file.folder, given, returned], check=True, stderr=subprocess.DEVNULL)
    scopes, recorded = [call.scope for call in sidecar.calls], Recorded(load_file(returned), sidecar.model.part)
    verdicts = dict(_verdicts(tagged, _whole_values(model, inputs), scopes, recorded))
    nodes = Graph(model).nodes
    known = sum(keys.props(node).get(keys.EVIDENCE, "root") != "root" for node in nodes)
    return Row(file, len(nodes), known / len(nodes), verdicts)


def _mx(*arguments: object) -> tuple[int, str]:
    """Run `mx`; return the exit status and the last line of what it says."""
    done = subprocess.run([MX, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


class Recorded:
    """What PyTorch's modules were given and returned, by their paths; those of a `part` begin there."""

    def __init__(self, arrays: Mapping[str, Array], part: str | None) -> None:
        self._arrays, self._part = arrays, part

    def of(self, scope: str, way: str) -> list[Array]:
        """Return the arrays of more than one element that a module was given (`in`) or that it returned (`out`)."""
        path = scope if self._part is None else scope.removeprefix(self._part).removeprefix(".") or "."
        found = (self._arrays.get(f"{path}:{way}:{place}") for place in range(len(self._arrays)))
        return [array for array in takewhile(lambda a: a is not None, found) if array is not None and array.size > 1]


def _verdicts(
    tagged: Path, whole: Mapping[str, Array], scopes: Sequence[str], recorded: Recorded
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield for each scope of a module that made something the verdict, and the reason for it."""
    model = onnx.load(tagged)
    graph, part = Graph(model), tagged.with_name("part.onnx")
    fixed = graph.constant | graph.stored
    computed = [array for name, array in whole.items() if graph.by_name.get(name) not in fixed]
    kept = [whole[output.name] for output in model.graph.output]
    for scope in scopes:
        given, returned = recorded.of(scope, "in"), recorded.of(scope, "out")
        made = [a for a in returned if not any(same_values(a, g) for g in given)]
        wanted = [a for a in made if any(same_values(c, a) for c in computed)]
        if not made:
            continue
        status, said = _mx("filter", tagged, "--scope", scope, "-o", part)
        if status:
            word = "missing" if wanted or status not in NOTHING_THERE else "gone"
            yield scope, (word, said)
        else:
            yield scope, _verdict(part, whole, wanted, [*returned, *kept])


def _verdict(
    part: Path, whole: Mapping[str, Array], wanted: Sequence[Array], allowed: Sequence[Array]
) -> tuple[str, str]:
    """Run a part; return the verdict on what it returns, and the reason."""
    session = onnxruntime.InferenceSession(part)
    got = session.run(None, {i.name: whole[i.name] for i in session.get_inputs()})
    names = [output.name for output in session.get_outputs()]
    if lacking := [array.shape for array in wanted if not any(same_values(g, array) for g in got)]:
        return "bad", f"does not return what has the shapes {lacking}"
    extra = [n for n, g in zip(names, got, strict=True) if not any(same_values(g, array) for array in allowed)]
    return ("extra", f"returns also {', '.join(extra)}") if extra else ("exact", "")


def _inputs(model: ModelProto, sidecar: Sidecar, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return the traced inputs of the graph's names, else what the outermost call was given that takes all of these."""
    names = {value.name for value in model.graph.input}
    if names <= values.keys():
        return {name: values[name] for name in names}
    given = ({t.name: t.id for t in call.inputs} for call in sidecar.calls)
    ids = next(found for found in given if names <= found.keys())
    return {name: values[str(ids[name])] for name in names}


def _whole_values(model: ModelProto, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return the values that the main graph computes, and its inputs."""
    probe = ModelProto.FromString(model.SerializeToString())
    known = {output.name for output in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name and name not in known]
    probe.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options)
    outputs = [output.name for output in session.get_outputs()]
    return {**given, **dict(zip(outputs, session.run(outputs, dict(given)), strict=True))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", type=Path, help="an environment that has Optimum, which is not changed")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    options = parser.parse_args()
    sys.exit(main(options.environment, options.texts))
