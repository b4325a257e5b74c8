"""The process in which `replay.py` runs the commands of a checkout, and the inputs that it makes with them.

The process imports the libraries once and forks for each command, so that commands do not see each other, and none
waits for imports. What a command needs of mxtools is imported by the first of its name itself, and is there for the
others. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

LIBRARIES = """
csv difflib importlib.metadata inspect logging tempfile uuid google.protobuf.json_format numpy numpy.random onnx
onnx.checker onnx.compose onnx.helper onnx.numpy_helper onnx.shape_inference onnx_graphsurgeon onnxruntime pydantic
pydantic.plugin._loader pydantic.types rich.console rich.markdown rich.markup rich.panel rich.progress rich.table
safetensors.numpy typer typer._adapters typer._coercion typer.core typer.main typer.rich_utils
"""
OF_PYTORCH = """
torch torch.export torch.onnx torch.onnx._internal.exporter._core transformers transformers.modeling_utils
transformers.pytorch_utils onnxscript onnxscript.optimizer
"""
LIMIT = 600
"""Seconds that a command may take."""
ENVIRONMENT = {
    "COLUMNS": "120",
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "TERM": "dumb",
}


EXPORTERS = ("torchscript", "dynamo")
SHIPPED = ("simple", "pytorch-operator", "pytorch-converted", "light")
COMMANDS = """
trace export tag wrap filter select split graft compare verify profile validate tree view run auto bench recommend cache
strategies passes
"""
CARRIERS = "--doc-string --rename --output-names --embed-trace --namespace --layer-annotation"
MADE = f"""
mx tag in/raw.onnx --trace in/trace.json -o in/tagged.onnx
mx tag in/raw.onnx --trace in/trace.json -o in/carried.onnx {CARRIERS}
external in/tagged.onnx in/external.onnx
slim in/tagged.onnx in/slim.onnx
basic in/tagged.onnx in/basic.onnx
extended in/tagged.onnx in/extended.onnx
int8 in/tagged.onnx in/int8.onnx
mx tag in/int8.onnx --from in/tagged.onnx -o in/int8.tagged.onnx
mx tree in/tagged.onnx --json
"""
"""How the inputs of a model of the zoo are made of its export and its trace; the last line ends in `tree.json`."""
MADE_OF_SHIPPED = """
mx tag in/raw.onnx -o in/tagged.onnx
mx tree in/tagged.onnx --json
"""
PARTS = """
mx filter in/tagged.onnx --scope FEW -o in/part-NUMBER.onnx
int8 in/part-NUMBER.onnx in/part-NUMBER.int8.onnx
"""


@dataclass(frozen=True)
class Request:
    """A command to run in a folder, and what to link there; `program` is mx, or a function of PROGRAMS."""

    arguments: tuple[str, ...]
    links: Mapping[str, str]
    program: str = "mx"
    stdin: str = os.devnull
    pytorch: bool = False


class Worker:
    """A process that runs commands of a checkout, one after the other, on one processor."""

    def __init__(self, checkout: Path, code: Path, processor: int) -> None:
        code.mkdir(parents=True, exist_ok=True)
        for name, folder in (("mxtools", "mxtools"), ("mxtools_cli", "cli")):
            (code / name).unlink(missing_ok=True)
            (code / name).symlink_to((checkout / folder).resolve(), target_is_directory=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MX_", "PYTHON"))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(processor)],
            env={**own, **ENVIRONMENT, "PYTHONPATH": str(code.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = self._answer()
        if Path(str(found)) != code.resolve() / "mxtools" / "__init__.py":
            raise SystemExit(f"{checkout}: mxtools comes from {found}")

    def run(self, folder: Path, request: Request) -> int:
        """Run a command in `folder/files`, made anew, with stdout and stderr beside that; return the exit status."""
        shutil.rmtree(folder, ignore_errors=True)
        files = folder / "files"
        files.mkdir(parents=True)
        for name, target in request.links.items():
            (files / name).symlink_to(Path(target).resolve(), target_is_directory=True)
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"folder": str(folder.resolve()), **asdict(request)}) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> int | str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended")
        answer: int | str = json.loads(line)
        return answer


class Inputs:
    """The folder of inputs, which workers of the first checkout fill."""

    def __init__(self, work: Path, zoo: Path, workers: Sequence[Worker]) -> None:
        self.folder, self.zoo, self._scratch = work / "inputs", zoo, work / "scratch"
        self._count = len(workers)
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)

    def names(self) -> list[str]:
        """Return the names of the models of the zoo."""
        status = self._run(Request((str(self.zoo.resolve()),), {}, "names", pytorch=True), self._scratch / "names")
        if status:
            raise SystemExit((self._scratch / "names" / "stderr").read_text())
        return list(json.loads((self._scratch / "names" / "stdout").read_bytes()))

    def make(self, works: Iterable[Callable[[], None]]) -> None:
        """Do works, as many at a time as there are workers."""
        with ThreadPoolExecutor(self._count) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()

    def of_zoo(self, name: str) -> None:
        """Make the inputs of a model of the zoo, where they are not there yet."""
        folder = self.folder / self.zoo.stem / name
        if (folder / "made").exists():
            return
        emptied(folder)
        links, spec = {"in": str(folder)}, f"{self.zoo}:{name}"
        arguments = ("trace", spec, "-o", "in/trace.json", "--record")
        if not self._run(Request(arguments, links, pytorch=True), self._scratch / name):
            for exporter in EXPORTERS:
                export = ("export", spec, "-o", f"in/{exporter}/raw.onnx", "--exporter", exporter)
                emptied(folder / exporter)
                if not self._run(Request(export, links, pytorch=True), self._scratch / name):
                    self._of_export(folder / exporter)
        (folder / "made").touch()
        print(f"inputs of {name} are made", file=sys.stderr, flush=True)

    def of_shipped(self, name: str, model: Path) -> None:
        """Make the inputs of a model that onnx ships, where they are not there yet."""
        folder = self.folder / "shipped" / name
        if not (folder / "made").exists():
            shutil.copy(model, emptied(folder) / "raw.onnx")
            self._steps(folder, MADE_OF_SHIPPED)
            (folder / "made").touch()

    def _of_export(self, folder: Path) -> None:
        for name in ("trace.json", "trace.safetensors"):
            if (folder.parent / name).exists():
                shutil.copy(folder.parent / name, folder)
        trace = json.loads((folder / "trace.json").read_bytes())
        (folder / "bare.json").write_text(json.dumps({k: v for k, v in trace.items() if k != "record"}))
        self._steps(folder, MADE)
        for number, scope in enumerate(few(folder)):
            self._steps(folder, PARTS.replace("FEW", shlex.quote(scope)).replace("NUMBER", str(number)))

    def _steps(self, folder: Path, steps: str) -> None:
        """Run commands in a folder; what fails leaves its file out. The last one's stdout is `tree.json`."""
        scratch = self._scratch / folder.relative_to(self.folder)
        for step in steps.strip().splitlines():
            program, *arguments = shlex.split(step)
            status = self._run(Request(tuple(arguments), {"in": str(folder)}, program), scratch)
            if arguments[0] == "tree" and not status:
                shutil.copy(scratch / "stdout", folder / "tree.json")

    def _run(self, request: Request, scratch: Path) -> int:
        worker = self._free.get()
        try:
            return worker.run(scratch, request)
        finally:
            self._free.put(worker)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def shipped() -> dict[str, Path]:
    """Return the models that onnx ships and that have nodes, by name."""
    import onnx

    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    files = [(group, path) for group in SHIPPED for path in sorted((data / group).rglob("*.onnx"))]
    named = {f"{group}/{path.stem if group == 'light' else path.parent.name}": path for group, path in files}
    return {name: path for name, path in named.items() if onnx.load(path).graph.node}


def scopes_of(folder: Path) -> list[tuple[str, int]]:
    """Return the scopes of a model, with their numbers of nodes, from its tree in JSON; nothing where there is none."""
    file = folder / "tree.json"
    return list(_scopes(json.loads(file.read_bytes()))) if file.exists() else []


def few(folder: Path) -> list[str]:
    """Return at most three scopes of a model, rather such as have several nodes."""
    scopes = scopes_of(folder)
    inner = [scope for scope, count in scopes[1:] if count > 1] or [scope for scope, _ in scopes]
    return list(dict.fromkeys(inner[len(inner) * n // 4] for n in (1, 2, 3) if inner))


def _scopes(branch: dict[str, object]) -> Iterator[tuple[str, int]]:
    """Return the scopes of a tree in JSON, with their numbers of nodes."""
    yield str(branch["scope"]), int(str(branch["nodes"]))
    children = branch["children"]
    for child in children if isinstance(children, list) else ():
        yield from _scopes(child)


def serve(processor: int) -> None:
    """Run what stdin asks for until its end."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[processor % len(allowed)]})
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import(LIBRARIES)
    found = importlib.util.find_spec("mxtools")
    print(json.dumps(found and found.origin), file=answers, flush=True)
    seen = set()
    for line in requests:
        request = json.loads(line)
        _import(OF_PYTORCH if request["pytorch"] else "")
        print(json.dumps(forked(request)), file=answers, flush=True)
        if request["arguments"][0] not in seen:
            seen.add(request["arguments"][0])
            with contextlib.suppress(OSError):  # it was killed
                _import(Path(request["folder"], "modules").read_text())


def _import(names: str) -> None:
    """Import modules, but for those that cannot be, which a command that needs them finds itself."""
    for name in names.split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def forked(request: dict[str, Any]) -> int:
    """Run a request in a process of its own; return its exit status, negative where a signal ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.alarm(LIMIT)
        _redirect(Path(request["folder"]), request["stdin"])
        status = _status(request)
    finally:
        os._exit(status)


def _redirect(folder: Path, stdin: str) -> None:
    """Change to the folder, and connect the standard streams with files there."""
    os.chdir(folder / "files")
    write = os.O_WRONLY | os.O_CREAT
    files = os.open(stdin, os.O_RDONLY), os.open("../stdout", write), os.open("../stderr", write)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open to the end, as the next two
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as stdin
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - as stdin


def _status(request: dict[str, Any]) -> int:
    """Run a request as the interpreter would; return the exit status."""
    status = 0
    try:
        PROGRAMS[request["program"]](*request["arguments"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # as at the end of a process
        traceback.print_exc()
        status = 1
    Path(request["folder"], "modules").write_text(" ".join(name for name in sys.modules if name.startswith("mxtools")))
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def mx(*arguments: str) -> None:
    """Run `mx`."""
    sys.argv = ["mx", *arguments]
    importlib.import_module("mxtools_cli.main").main()


def names(file: str) -> None:
    """Print the models of a file as JSON: the keys of its dictionary `zoo`, else its functions without parameters."""
    sys.path.insert(0, str(Path(file).resolve().parent))
    module = importlib.import_module(Path(file).stem)
    functions = inspect.getmembers(module, inspect.isfunction)
    functions.sort(key=lambda item: item[1].__code__.co_firstlineno)
    found = [
        name
        for name, function in functions
        if function.__module__ == module.__name__ and name[0] != "_" and not inspect.signature(function).parameters
    ]
    print(json.dumps([*getattr(module, "zoo", found)]))


def onnxslim(source: str, target: str) -> None:
    """Optimise a model by onnxslim."""
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), target)


def optimised(level: str) -> Callable[[str, str], None]:
    """Return ONNX Runtime's optimiser at a level."""

    def run(source: str, target: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = target
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return run


def quantised(source: str, target: str) -> None:
    """Quantise a model dynamically, to 8 bits."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target)


def external(source: str, target: str) -> None:
    """Move the weights of a model to a file beside it."""
    import onnx

    onnx.save(onnx.load(source), target, save_as_external_data=True, location="weights.bin", size_threshold=0)


PROGRAMS: dict[str, Callable[..., None]] = {
    "mx": mx,
    "names": names,
    "slim": onnxslim,
    "basic": optimised("ORT_ENABLE_BASIC"),
    "extended": optimised("ORT_ENABLE_EXTENDED"),
    "int8": quantised,
    "external": external,
}

if __name__ == "__main__":
    serve(int(sys.argv[1]))
