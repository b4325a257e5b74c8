"""`python -m tests.fuzz SECONDS [SEED]`: mutate files and run commands on them; exit status 1 where something is wrong.

What is found is kept in `build/fuzz/`, a folder each: the files, and the command in `command.txt`. One that is mended
moves to `tests/fuzz/corpus/`, which a test runs.
"""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import mutations, seeds
from tests.fuzz.oracle import does_load, judged

FOUND = Path("build/fuzz")
PASSES = (
    "resolve-auxiliary",
    "untag,project-names,project-parameters,resolve-auxiliary,record-absent",
    "project-carried,project-metadata,move-arguments-out,assign-fused,hoist-shared,carry{doc-string=true,rename=true}",
    "filter{scope=layers.0},carry",
    "restore-names,repair",
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "tag m.onnx -o o.onnx": ("o.onnx",),
    "tag m.onnx -o o.onnx --doc-string --rename --embed-trace --namespace --layer-annotation --output-names": (
        "o.onnx",
    ),
    "tag m.onnx -o o.onnx --trace t.json": ("o.onnx",),
    "tag m.onnx -o o.onnx --trace t.json --inputs i.json": ("o.onnx",),
    "tag m.onnx -o o.onnx --from seed.onnx": ("o.onnx",),
    "tag seed.onnx -o o.onnx --from m.onnx": ("o.onnx",),
    "filter m.onnx --scope layers.0 -o o.onnx": ("o.onnx",),
    "filter m.onnx --scope enc -o o.onnx --verify": ("o.onnx",),
    "filter m.onnx --scope loop -o o.onnx": ("o.onnx",),
    "filter m.onnx --scope last --scope blk -o o.onnx --auxiliary all": ("o.onnx",),
    "filter m.onnx --to-tensor y -o o.onnx": ("o.onnx",),
    "filter m.onnx --scope layers.1 --trace t.json --io module -o o.onnx": ("o.onnx",),
    "split m.onnx --depth 1 -d parts": (),
    "split m.onnx --depth 2 -d parts --verify": (),
    "graft m.onnx seed.onnx -o o.onnx": ("o.onnx",),
    "graft seed.onnx m.onnx -o o.onnx": ("o.onnx",),
    "validate m.onnx": (),
    "validate m.onnx --trace t.json --json": (),
    "validate m.onnx --repair -o o.onnx": ("o.onnx",),
    "compare m.onnx seed.onnx": (),
    "compare seed.onnx m.onnx --markdown": (),
    "compare m.onnx seed.onnx --inputs i.npz --json": (),
    "tree m.onnx": (),
    "tree m.onnx --json": (),
    "tree m.onnx --csv": (),
    "view m.onnx -f html -o o.html": (),
    "view m.onnx -f graphml -o o.xml": (),
    "view m.onnx -f mermaid -o o.txt": (),
    "view m.onnx -f dot -o o.txt": (),
    "view m.onnx -f model-explorer -o o.json": (),
    "select m.onnx --scope '**' -f names": (),
    "select m.onnx --op Relu --op MatMul -f ort-quant": (),
    "select m.onnx --scope '**' -f layer-annotation": (),
    "verify m.onnx --trace t.json": (),
    "profile m.onnx": (),
    "profile m.onnx --from-profile p.json": (),
    "profile m.onnx --from-profile p.json --against r.json --json": (),
    "view m.onnx --metric k.json -f html -o o.html": (),
    "view m.onnx --metric r.json -f model-explorer -o o.json": (),
    "compare m.onnx m.onnx --inputs i.json": (),
    "filter m.onnx --scope layers.1 --verify --inputs i.json -o o.onnx": ("o.onnx",),
    "profile m.onnx --inputs i.npz --json": (),
    "strategies": (),
    "tag m.onnx --strategy own -o o.onnx": ("o.onnx",),
    **{f"run m.onnx -p '{passes}' -o o.onnx": ("o.onnx",) for passes in PASSES},
}


class Fuzzer:
    """Makes a folder of files, one of them mutated, and runs a command in it."""

    def __init__(self, seed: int) -> None:
        """Make the seeds."""
        self.chance = Random(seed)
        self._models = seeds.models()
        self.kind = "model"

    def fill(self, folder: Path) -> bool:
        """Write the files of one try; return whether the model loads."""
        chance = self.chance
        model = copy.deepcopy(chance.choice(self._models))
        (folder / "seed.onnx").write_bytes(model.SerializeToString())
        kind = chance.choice(["model"] * 14 + [*seeds.FILES] * 2 + ["arrays", "settings"])
        data = mutations.mutated(model, chance) if kind == "model" else model.SerializeToString()
        (folder / "m.onnx").write_bytes(data)
        (folder / "parts").mkdir()
        for name, made in seeds.FILES.items():
            text = mutations.mutated_json(made(), chance) if kind == name else json.dumps(made()).encode()
            (folder / name).write_bytes(text)
        (folder / "i.npz").write_bytes(mutations.broken(seeds.arrays(), chance) if kind == "arrays" else seeds.arrays())
        self.kind = kind
        for name, content in seeds.settings().items():
            if kind == "settings":
                (folder / name).write_bytes(mutations.broken(content.encode(), chance))
            elif name == "mxtools.toml":
                (folder / name).write_text(content)
        return does_load(folder / "m.onnx")

    def lines(self) -> list[str]:
        """Return some commands; where another file than the model was changed, those that read it."""
        file = {"model": "m.onnx", "arrays": "i.npz", "settings": "strateg"}.get(self.kind, self.kind)
        fitting = [line for line in sorted(COMMANDS) if file.partition("/")[0] in line]
        return self.chance.sample(fitting, min(4, len(fitting)))


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; print what is found; return the exit status."""
    fuzzer, end = Fuzzer(seed), time.monotonic() + seconds
    inputs = commands = 0
    faults: Counter[str] = Counter()
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "try"
            folder.mkdir()
            loads = fuzzer.fill(folder)
            inputs += 1
            for line in fuzzer.lines():
                commands += 1
                with tempfile.TemporaryDirectory() as room:
                    place = Path(room) / "try"
                    shutil.copytree(folder, place)
                    verdict = judged(shlex.split(line), place, COMMANDS[line], loads)
                if verdict.fault:
                    last = (verdict.said.strip().splitlines() or [""])[-1]
                    faults[f"{verdict.fault}: {line.split()[0]}: {last[:160]}"] += 1
                    _keep(folder, line, verdict.fault, verdict.said)
    print(f"seed {seed}: {inputs} inputs, {commands} commands, {faults.total()} faults of {len(faults)} kinds")
    for text, count in faults.most_common():
        print(f"{count:5} {text}")
    return int(bool(faults))


def _keep(folder: Path, line: str, fault: str, said: str) -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    kept = Path(tempfile.mkdtemp(prefix="case-", dir=FOUND))
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    (kept / "command.txt").write_text(f"{line}\n{fault}\n{said}", errors="replace")


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())))
