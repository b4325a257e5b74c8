"""Replaying `mx` commands with two checkouts: that a change of the code changes no output, to the byte.

Exit status, stdout and all files of each command are compared, and stderr, which counts as `message`. The inputs are
made once, with the first checkout, and kept in the work folder; remove its folder `inputs` to make them anew.

    python benchmarks/replay.py BEFORE AFTER [--work DIR] [--zoo FILE.py] [--models NAME,…] [--only COMMAND,…]
                                             [--no-shipped] [--json FILE]

BEFORE and AFTER are folders of checkouts, or revisions, which leave out what is not committed. Models are those of the
zoo, a file with a dictionary `zoo` or with functions that take nothing (else `fixtures/models.py`), by both exporters,
and those that the onnx package ships. Prints a line for each difference, then how many outputs were compared. Exit
status 1 where any differs; what the two made is then in the work folder, under the number in the line.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product, zip_longest
from pathlib import Path

import onnx
from google.protobuf.json_format import MessageToDict
from replay_worker import CARRIERS, COMMANDS, EXPORTERS, Inputs, Request, Worker, emptied, few, scopes_of, shipped

ROOT = Path(__file__).parent.parent
SHOWN = 100
"""Characters of a value that differs."""
EVERY = 200
"""Commands between two lines that tell how far the work is."""
PROCESSES = 2
"""Workers that make inputs."""

OF_ZOO = f"""
tag in/raw.onnx -o out.onnx
tag in/raw.onnx --trace in/bare.json -o out.onnx
tag in/raw.onnx --trace in/trace.json -o out.onnx --json
tag in/raw.onnx --trace in/trace.json -o out.onnx {CARRIERS}
tag in/raw.onnx --trace in/trace.json -o out.onnx --strategy STRATEGY
tag in/external.onnx --trace in/trace.json -o out.onnx
tag --trace in/trace.json < in/raw.onnx
tag in/carried.onnx -o out.onnx
tag in/ALTERED.onnx --from in/tagged.onnx -o out.onnx --json
tag in/ALTERED.onnx --from in/tagged.onnx --trace in/trace.json -o out.onnx
tag in/ALTERED.onnx --trace in/trace.json -o out.onnx --strict
wrap in/carried.onnx -o out.onnx -- cp {{in}} {{out}}
filter in/tagged.onnx --scope SCOPE -o out.onnx
filter in/tagged.onnx --scope SOME --io module --trace in/trace.json -o out.onnx --json
filter in/int8.tagged.onnx --scope SOME -o out.onnx
filter in/tagged.onnx --scope FEW --trace in/trace.json --verify -o out.onnx
filter in/tagged.onnx --scope FEW --auxiliary all -o out.onnx
filter in/tagged.onnx --scope FEW --auxiliary none -o out.onnx
filter in/tagged.onnx --scope . --exclude FEW -o out.onnx
filter in/tagged.onnx --op MatMul --op Conv -o out.onnx
filter in/external.onnx --scope . -o out.onnx
filter --scope . < in/tagged.onnx
select in/tagged.onnx --scope FEW --format FORMAT
select in/carried.onnx --op MatMul --op Conv --format FORMAT
split in/tagged.onnx --depth 2 --dir parts
split in/tagged.onnx --depth 1 --dir parts --trace in/trace.json --verify --json
split in/tagged.onnx --each FEW --dir parts
graft in/tagged.onnx in/PART.onnx -o out.onnx --json
graft in/tagged.onnx in/PART.int8.onnx -o out.onnx
compare in/tagged.onnx in/int8.tagged.onnx --json
compare in/tagged.onnx in/int8.tagged.onnx --trace in/trace.json --json
compare in/tagged.onnx in/int8.tagged.onnx --trace in/trace.json
compare in/tagged.onnx in/carried.onnx
verify in/tagged.onnx --trace in/trace.json --json
verify in/int8.tagged.onnx --trace in/trace.json --json
verify in/int8.tagged.onnx --trace in/trace.json --isolate
validate in/raw.onnx --trace in/trace.json --json
validate in/tagged.onnx --trace in/trace.json --json
validate in/carried.onnx --format sarif
validate in/int8.onnx --trace in/trace.json
validate in/int8.onnx --trace in/trace.json --repair -o out.onnx
tree in/tagged.onnx --json
tree in/tagged.onnx
tree in/int8.tagged.onnx --csv
tree in/tagged.onnx --markdown --depth 2 --sort parameters --no-fold
tree in/tagged.onnx --scope FEW --json
tree in/raw.onnx
view in/tagged.onnx --format VIEW -o out.txt --json
view in/int8.tagged.onnx --format model-explorer --against in/tagged.onnx -o out.onnx
run in/raw.onnx -p project-metadata,project-names,resolve-auxiliary,filter{{scope=FEW}} -o out.onnx --json
run in/raw.onnx --trace in/trace.json -s auto -p carry{{rename=true}},untag{{carriers=true}} -o out.onnx --json
run in/tagged.onnx --trace in/trace.json -p optimize{{with=TOOL}} -o out.onnx
"""
OF_SHIPPED = """
tag in/raw.onnx -o out.onnx --json
tag in/raw.onnx -o out.onnx --strategy usage
tree in/tagged.onnx --json
validate in/raw.onnx --json
filter in/tagged.onnx --op OPERATOR -o out.onnx
filter in/tagged.onnx --scope SOME -o out.onnx
split in/tagged.onnx --depth 1 --dir parts
view in/tagged.onnx --format html
view in/tagged.onnx --format graphml
"""
OF_PYTORCH = """
trace MODEL -o out.trace.json --record
export MODEL -o out.onnx --exporter EXPORTER
"""
ALONE = """
--help
--version
COMMAND --help
passes
passes --json
strategies
strategies --json
tag none.onnx
tag --none
none
filter in/tagged.onnx
run in/tagged.onnx -p none
"""
WORDS = {
    "ALTERED": ("slim", "basic", "extended", "int8"),
    "COMMAND": COMMANDS.split(),
    "EXPORTER": EXPORTERS,
    "FORMAT": ("names", "tensors", "ort-quant", "float16", "nncf", "olive", "layer-annotation"),
    "STRATEGY": ("htp", "fx", "usage"),
    "TOOL": ("onnxscript", "onnxslim", "ort-basic"),
    "VIEW": ("html", "model-explorer", "netron", "graphml", "mermaid", "dot"),
}
"""What stands for each of the words in commands; models add scopes, parts and operators of their own."""

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Job:
    """A command to replay, and the model that it is about."""

    model: str
    request: Request

    @property
    def kind(self) -> str:
        """The command's name."""
        return self.request.arguments[0].lstrip("-")

    def __str__(self) -> str:
        pipe = f" < {self.request.stdin}" if self.request.stdin != os.devnull else ""
        return f"mx {shlex.join(self.request.arguments)}{pipe}"


@dataclass(frozen=True)
class Difference:
    """An output that differs."""

    kind: str
    model: str
    command: str
    output: str
    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.model} #{self.number}: {self.command}: {self.output}: {self.what}"


def requests(text: str, links: Mapping[str, str], words: Words, pytorch: bool = False) -> Iterator[Request]:
    """Return the commands of a text, one a line, each with all that its words in capitals stand for."""
    for line in text.strip().splitlines():
        arguments, _, stdin = line.partition(" < ")
        used = [word for word in words if word in arguments]
        for values in product(*(words[word] for word in used)):
            filled = tuple(_filled(part, dict(zip(used, values, strict=True))) for part in shlex.split(arguments))
            yield Request(filled, links, stdin=stdin or os.devnull, pytorch=pytorch)


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def words_of(folder: Path) -> dict[str, Sequence[str]]:
    """Return what the words that depend on a model stand for: its scopes, operators, and parts."""
    file = folder / "tree.json"
    root = json.loads(file.read_bytes()) if file.exists() else {}
    scopes = [scope for scope, _ in scopes_of(folder)]
    parts = [path.stem for path in sorted(folder.glob("part-?.onnx"))]
    operators = list(root.get("operators", ()))
    own = {"SCOPE": scopes, "SOME": scopes[::3], "FEW": few(folder), "OPERATOR": operators, "PART": parts}
    return {**WORDS, **own}


def jobs(zoo: Path, models: Sequence[str], others: Sequence[str], inputs: Path) -> list[Job]:
    """Return the commands to replay, those that need PyTorch last."""
    found: list[Job] = []
    folders: dict[str, tuple[Path, str]] = {}
    for name in models:
        spec = f"{zoo}:{name}"  # the same file for both, as exporters write where code comes from
        listed = requests(OF_PYTORCH.replace("MODEL", shlex.quote(spec)), {}, WORDS, pytorch=True)
        found += (Job(name, request) for request in listed)
        for exporter in EXPORTERS:
            folder = inputs / zoo.stem / name / exporter
            if (folder / "raw.onnx").exists():
                folders[f"{name}/{exporter}"] = folder, OF_ZOO
    folders |= {name: (inputs / "shipped" / name, OF_SHIPPED) for name in others}
    for name, (folder, text) in folders.items():
        found += (Job(name, request) for request in requests(text, {"in": str(folder)}, words_of(folder)))
    found += (Job("-", request) for request in requests(ALONE, {}, WORDS))
    return sorted(found, key=lambda job: job.request.pytorch)


def replayed(
    listed: Sequence[Job], workers: Sequence[Worker], runs: Sequence[Path]
) -> Iterator[list[dict[str, bytes]]]:
    """Run commands with both checkouts, at the same time; return what each of the two made, in order."""
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in workers]
        sides = list(zip(pools, workers, runs, strict=True))
        for pool in pools:
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        waiting = [
            [pool.submit(worker.run, folder / str(number), job.request) for pool, worker, folder in sides]
            for number, job in enumerate(listed)
        ]
        for number, pair in enumerate(waiting):
            folders = [folder / str(number) for folder in runs]
            yield [outputs(folder, done.result()) for folder, done in zip(folders, pair, strict=True)]


def outputs(folder: Path, status: int) -> dict[str, bytes]:
    """Return what a command made, by name."""
    made = [path for path in sorted((folder / "files").rglob("*")) if path.is_file() and not path.is_symlink()]
    files = {str(path.relative_to(folder / "files")): path.read_bytes() for path in made}
    streams = {name: (folder / name).read_bytes() for name in ("stdout", "stderr")}
    return {"exit status": str(status).encode(), **streams, **files}


def compared(
    job: Job, number: int, pair: Sequence[Mapping[str, bytes]], count: Counter[tuple[str, bool]]
) -> Iterator[Difference]:
    """Count the outputs of a command, and return those that differ."""
    before, after = pair
    for name in {**before, **after}:
        kind = "message" if name == "stderr" else job.kind
        same = before.get(name) == after.get(name)
        count[kind, same] += 1
        if not same:
            what = described(name, before.get(name), after.get(name))
            yield Difference(kind, job.model, str(job), name, what, number)


def described(name: str, before: bytes | None, after: bytes | None) -> str:
    """Return in a few words how an output differs."""
    if before is None or after is None:
        return "only " + ("after" if before is None else "before")
    for read in (_read, _lines):
        try:
            found = first_difference(read(name, before), read(name, after))
        except Exception:  # what is not of the kind; protobuf and json raise classes of their own
            continue
        if found:
            return found
    return f"{len(before)} → {len(after)} bytes"


def _read(name: str, data: bytes) -> object:
    """Return what a file says; ValueError where it is text, or the errors of protobuf."""
    return MessageToDict(onnx.ModelProto.FromString(data)) if name.endswith(".onnx") else json.loads(data)


def _lines(_: str, data: bytes) -> object:
    return {f"line {number}": line for number, line in enumerate(data.decode().splitlines(), 1)}


def first_difference(before: object, after: object, path: str = "") -> str:
    """Return where two values first differ, and how; nothing where they are equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = list({**before, **after})
        pairs = ((f"{path}.{key}", before.get(key), after.get(key)) for key in keys)
    elif isinstance(before, list) and isinstance(after, list):
        pairs = ((f"{path}[{n}]", a, b) for n, (a, b) in enumerate(zip_longest(before, after)))
    else:
        return "" if before == after else f"{path.lstrip('.')}: {_apart(before, after)}"
    return next((found for where, a, b in pairs if (found := first_difference(a, b, where))), "")


def _apart(before: object, after: object) -> str:
    """Return two values; of long texts what is around the first character that differs."""
    texts = [value if isinstance(value, str) else repr(value) for value in (before, after)]
    equal = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, equal - SHOWN // 4)
    return " → ".join(f"{'…' * bool(start)}{text[start:]!r:.{SHOWN}}" for text in texts)


def checkout(text: str, stack: ExitStack) -> Path:
    """Return the folder of a checkout; of a revision a temporary one, which goes with the stack."""
    if Path(text).is_dir():
        return Path(text)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mx-"))) / "checkout"
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", folder, text], check=True)
    stack.callback(partial(subprocess.run, [*git, "remove", "--force", folder], check=True))
    return folder


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description="Show that two checkouts of mxtools have the same outputs.")
    for name in ("before", "after"):
        parser.add_argument(name, metavar=name.upper())
    parser.add_argument("--work", type=Path, default=Path("build/replay"), metavar="DIR")
    parser.add_argument("--zoo", type=Path, metavar="FILE.py")
    parser.add_argument("--models", type=_names, metavar="NAME,…")
    parser.add_argument("--only", type=_names, metavar="COMMAND,…")
    parser.add_argument("--no-shipped", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    return text.split(",")


def prepared(options: argparse.Namespace, before: Path) -> list[Job]:
    """Make the inputs that are not there yet, and return what is to be replayed."""
    zoo = (options.zoo or before / "fixtures" / "models.py").resolve()
    others = {} if options.no_shipped else shipped()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(closing(Worker(before, options.work / f"code/inputs-{n}", n))) for n in range(PROCESSES)
        ]
        inputs = Inputs(options.work, zoo, workers)
        models = options.models or inputs.names()
        inputs.make(partial(inputs.of_zoo, name) for name in models)
        inputs.make(partial(inputs.of_shipped, name, path) for name, path in others.items())
    found = jobs(zoo, models, list(others), inputs.folder)
    return [job for job in found if not options.only or job.kind in options.only]


def main(arguments: Sequence[str]) -> int:
    """Replay, print what differs, and return the exit status."""
    options = parsed(arguments)
    count: Counter[tuple[str, bool]] = Counter()
    statuses: Counter[str] = Counter()
    differences: list[Difference] = []
    with ExitStack() as stack:
        sides = {"before": checkout(options.before, stack), "after": checkout(options.after, stack)}
        listed = prepared(options, sides["before"])
        runs = [emptied(options.work / "runs" / side) for side in sides]
        workers = [
            stack.enter_context(closing(Worker(folder, options.work / "code" / side, n)))
            for n, (side, folder) in enumerate(sides.items())
        ]
        start = time.perf_counter()
        for number, pair in enumerate(replayed(listed, workers, runs)):
            found = list(compared(listed[number], number, pair, count))
            differences += found
            statuses[pair[0]["exit status"].decode()] += 1
            for difference in found:
                print(difference, flush=True)
            for folder in () if found else runs:
                shutil.rmtree(folder / str(number))
            tell(number + 1, len(listed), time.perf_counter() - start)
    summary(count)
    print("exit statuses before:", ", ".join(f"{n} times {status}" for status, n in sorted(statuses.items())))
    if options.json:
        options.json.write_text(json.dumps([asdict(difference) for difference in differences], indent=1))
    return int(bool(differences))


def tell(done: int, total: int, seconds: float) -> None:
    """Print on stderr how far the work is, not too often."""
    if done == total or not done % EVERY:
        print(f"{done}/{total} commands, {seconds:.0f} s", file=sys.stderr, flush=True)


def summary(count: Mapping[tuple[str, bool], int]) -> None:
    """Print a table of how many outputs were compared."""
    kinds = sorted({kind for kind, _ in count})
    rows = [(kind, count.get((kind, True), 0), count.get((kind, False), 0)) for kind in kinds]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    print(f"{'kind':<12}{'compared':>10}{'equal':>10}{'different':>10}")
    for kind, equal, different in rows:
        print(f"{kind:<12}{equal + different:>10}{equal:>10}{different:>10}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
