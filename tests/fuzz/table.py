"""The command lines of the fuzzer, by what is checked of what they write.

They run in a folder with `m.onnx`, a model that may be broken, `seed.onnx`, the sound model that it was made from, and
the files of `files.files`. SCOPE, TENSOR, OTHER and NODE stand for some that the sound model has. Several commands in a
line run one after the other as long as they end with status 0.
"""

from __future__ import annotations

import re
import shlex
from random import Random

from onnx import ModelProto

from mxtools.graph.functions import model_nodes
from mxtools.pipeline.registry import names
from mxtools.scopes import keys

WRITTEN = "o.onnx"
"""What a line writes, if it writes a model."""

_STEPS = (
    "move-arguments-out",
    "resolve-auxiliary{between=true}",
    "project-parameters{alone=true}",
    "project-parameters{names=n.txt},record-absent{strict=true}",
    "untag{carriers=true}",
    "untag,project-names,project-parameters,resolve-auxiliary,record-absent",
    "project-carried,project-metadata,move-arguments-out,assign-fused,hoist-shared,carry{doc-string=true,rename=true}",
    "carry{namespace=true,layer-annotation=true,output-names=true},restore-names",
    "optimize{with=ort-basic}",
    "optimize{with=onnxslim}",
    "optimize{with=onnxscript},carry{rename=true}",
)
_NEEDING = ("filter", "fold", "graft", "optimize", "surgeon")
"""Passes that need options, or change what the model computes by more than its rounding."""
_CARRIED = "--trace t.json --doc-string --rename --embed-trace --namespace --layer-annotation --output-names"

KEEPING = (
    f"tag m.onnx -o {WRITTEN}",
    f"tag m.onnx -o {WRITTEN} {_CARRIED}",
    f"tag m.onnx -o {WRITTEN} --trace t.json",
    f"tag m.onnx -o {WRITTEN} --trace t.json --inputs i.json --embed-trace",
    f"tag m.onnx -o {WRITTEN} --trace r.json",
    f"tag m.onnx -o {WRITTEN} --inputs i.safetensors",
    f"tag m.onnx -o {WRITTEN} --from seed.onnx",
    f"tag m.onnx -o {WRITTEN} --from seed.onnx --inputs i.npz",
    f"tag m.onnx -o {WRITTEN} --strategy own",
    f"tag m.onnx -o {WRITTEN} --strict --json",
    f"tag seed.onnx -o {WRITTEN} --from m.onnx",
    f"tag m.onnx -o t.onnx {_CARRIED} && run t.onnx -p untag,project-carried -o {WRITTEN}",
    f"run m.onnx -p filter{{scope=.}},carry -o {WRITTEN}",
    f"validate m.onnx --repair -o {WRITTEN}",
    f"validate m.onnx --repair --trace t.json -o {WRITTEN}",
    f"wrap m.onnx -o {WRITTEN} -- cp {{in}} {{out}}",
    f"wrap m.onnx -o {WRITTEN} --trace t.json --inputs i.json -- cp {{in}} {{out}}",
    f"filter m.onnx --scope SCOPE -o part.onnx && graft m.onnx part.onnx -o {WRITTEN} --verify",
    f"filter m.onnx --scope SCOPE -o part.onnx && graft m.onnx part.onnx -o {WRITTEN}",
    f"filter m.onnx --from-tensor TENSOR --to-tensor OTHER -o part.onnx && graft m.onnx part.onnx -o {WRITTEN}",
    f"filter m.onnx --scope SCOPE -o part.onnx && tag part.onnx -o p.onnx && graft m.onnx p.onnx -o {WRITTEN}",
    f"fold m.onnx --depth 1 -o {WRITTEN}",
    f"split m.onnx --depth 1 -d parts && join parts -o {WRITTEN}",
    f"split m.onnx --each SCOPE -d parts && join parts/manifest.json -o {WRITTEN} --json",
    f"split m.onnx --parts 2 --balance activations -d parts && join parts -o {WRITTEN}",
    f"fold m.onnx --each SCOPE --each '*' -o {WRITTEN} --json",
    f"fold m.onnx --repeated --nested --exclude SCOPE -o {WRITTEN}",
    f"fold m.onnx --each '**' --nested -o f.onnx && unfold f.onnx -o {WRITTEN}",
    f"fold m.onnx --depth 2 -o f.onnx && fold f.onnx --depth 1 -o g.onnx && unfold g.onnx -o {WRITTEN}",
    f"fold m.onnx --depth 2 -o f.onnx && fold f.onnx --depth 1 -o g.onnx && unfold g.onnx --each SCOPE -o {WRITTEN}",
    f"unfold m.onnx -o {WRITTEN}",
    f"unfold m.onnx --verify -o {WRITTEN} --json",
    *(f"run m.onnx -p {name} -o {WRITTEN}" for name in names() if name not in _NEEDING),
    *(f"run m.onnx -p {steps} -o {WRITTEN}" for steps in _STEPS),
    f"run m.onnx -p project-values,find-equal,move-to-operations --trace r.json -o {WRITTEN}",
    f"run m.onnx -s auto --trace t.json -o {WRITTEN}",
)
"""The model that they write computes what the first one named computes."""

CUTTING = (
    f"filter m.onnx --scope SCOPE -o {WRITTEN}",
    f"filter m.onnx --scope SCOPE -o {WRITTEN} --verify",
    f"filter m.onnx --scope SCOPE --scope SCOPE -o {WRITTEN} --auxiliary all",
    f"filter m.onnx --scope a --exclude a.b -o {WRITTEN} --auxiliary none",
    f"filter m.onnx --scope '**' --op Relu --op If --op Twice -o {WRITTEN}",
    f"filter m.onnx --tag '/**' --class act -o {WRITTEN}",
    f"filter m.onnx --to-tensor TENSOR -o {WRITTEN}",
    f"filter m.onnx --to-tensor TENSOR --to-tensor OTHER -o {WRITTEN}",
    f"filter m.onnx --from-tensor TENSOR --to-tensor OTHER -o {WRITTEN}",
    f"filter m.onnx --scope SCOPE --verify --inputs i.json -o {WRITTEN}",
    f"run m.onnx -p filter{{scope=SCOPE}},carry -o {WRITTEN}",
)
"""The model that they write computes from values of the first one named other values of it."""

SPLITTING = (
    "split m.onnx --depth 1 -d parts",
    "split m.onnx --depth 2 -d parts --verify",
    "split m.onnx --depth 1 -d parts && split m.onnx --depth 2 -d parts",
    "split m.onnx --each SCOPE -d parts",
    "split m.onnx --each '*' --exclude SCOPE -d parts --json",
    "split m.onnx --parts 2 -d parts",
    "split m.onnx --parts 3 --balance multiply-adds --dim N=2 -d parts --verify",
    "split m.onnx --max-bytes 64 --each SCOPE -d parts --json",
    "split m.onnx --placement places.json -d parts",
)
"""The parts that they write compute, one after the other, what the model computes."""

TELLING = (
    f"filter m.onnx --scope SCOPE --trace t.json --io module -o {WRITTEN}",
    f"filter m.onnx --scope SCOPE --shape TENSOR=2,4 --type TENSOR=float32 -o {WRITTEN}",
    f"wrap seed.onnx -o {WRITTEN} -- sh -c 'cp m.onnx \"$2\"' sh {{in}} {{out}}",
    f"graft m.onnx seed.onnx -o {WRITTEN}",
    f"join m.onnx seed.onnx -o {WRITTEN}",
    f"join --as a=m.onnx --as b=seed.onnx --map a.TENSOR=b.x -o {WRITTEN} --json",
    f"join --as a=seed.onnx --as b=m.onnx --map a.x=b.x --keep -o {WRITTEN}",
    f"graft seed.onnx m.onnx -o {WRITTEN} --verify",
    f"graft seed.onnx m.onnx -o {WRITTEN} --inputs i.npz --verify --json",
    f"run m.onnx -p 'graft{{part=seed.onnx,verify=true}}' -o {WRITTEN}",
    "tag m.onnx --explain NODE --trace t.json",
    "tag m.onnx --explain TENSOR --from seed.onnx",
    "validate m.onnx",
    "validate m.onnx --trace t.json --json",
    "validate m.onnx --trace r.json",
    "compare m.onnx seed.onnx",
    "compare seed.onnx m.onnx --markdown",
    "compare m.onnx seed.onnx --inputs i.npz --json",
    "compare m.onnx m.onnx --inputs i.json",
    "compare seed.onnx m.onnx --trace r.json",
    "tree m.onnx",
    "tree m.onnx --json",
    "tree m.onnx --csv",
    "tree m.onnx --dim N=3 --sort activations",
    "split m.onnx --parts 2 --balance time --profile r-profile.json --dry-run --json",
    "split m.onnx --depth 1 --dry-run",
    "split m.onnx --parts 2 -d parts && run-parts parts --verify m.onnx -o o.npz",
    "run-parts parts --inputs i.npz --json",
    "join parts -o o.onnx",
    "text m.onnx",
    "view m.onnx -f html -o o.html",
    "view m.onnx -f html -o o.html --metric k.json",
    "view m.onnx -o o.html --statistics",
    "view m.onnx -o o.html --against seed.onnx",
    "view seed.onnx -o o.html --against m.onnx --statistics",
    "view m.onnx -f graphml -o o.xml",
    "view m.onnx -f mermaid -o o.txt",
    "view m.onnx -f mermaid -o o.txt --depth 2",
    "view m.onnx -f dot -o o.txt --depth 1",
    "view m.onnx -f netron -o o.txt",
    "view m.onnx -f model-explorer -o o.json",
    "view m.onnx -f model-explorer -o o.json --metric r-profile.json",
    "view seed.onnx -f model-explorer -o o.json --against m.onnx",
    *(f"select m.onnx --scope '**' -f {kind}" for kind in ("names", "float16", "nncf", "olive", "layer-annotation")),
    *(f"select m.onnx --scope SCOPE -f {kind}" for kind in ("ort-names", "modelopt", "quark", "aimet", "tensorrt")),
    "select m.onnx --op Relu --op MatMul -f ort-quant",
    "select m.onnx --tag '/**' --exclude SCOPE -f tensors",
    "verify m.onnx --trace r.json",
    "verify m.onnx --trace r.json --isolate --json --plot o.svg",
    "verify m.onnx --against seed.onnx --isolate --json",
    "verify seed.onnx --against m.onnx --bisect --inputs i.npz",
    "verify m.onnx --against m.onnx --level all --bisect --save-case case",
    "verify m.onnx --against seed.onnx --metric sqnr --tolerances limits.toml --isolate --plot o.svg",
    "verify m.onnx --trace r.json --metric relative-l2 --tolerances limits.toml --bisect",
    "run-values m.onnx -o o.npz && verify m.onnx --against seed.onnx --against-values o.npz",
    "filter m.onnx --scope SCOPE --save-case case",
    "tune m.onnx --inputs i.npz --held-back i.npz --target sqnr>=30 --to int8,float16 --budget 3 -o o.onnx",
    "tune m.onnx --inputs i.npz --held-back i.npz --target kl<=1e-6 --to int4,qdq --budget 4 -o o.onnx --recipe o.py",
    "tune seed.onnx --inputs i.npz --held-back i.npz --target sqnr>=40 -o o.onnx --state s.json --report o.json",
    "profile m.onnx --runs 2",
    "profile m.onnx --runs 1 --memory --json",
    "profile m.onnx --runs 1 --inputs i.npz --json",
    "profile m.onnx --runs 1 --trace r.json --level none",
    "profile m.onnx --from-profile p.json",
    "profile m.onnx --from-profile p.csv --json",
    "profile m.onnx --from-profile trt.json --from-profile layers.json",
    "profile m.onnx --from-profile p.json --against r-profile.json --json",
    "report jobs --json",
    "report jobs --markdown",
    "report jobs --json -o o.html && report jobs --against jobs",
    "strategies",
    "strategies --json",
    "cache cache",
    "cache cache --json",
    "cache cache --prune --days 1",
    "cache cache --prune --megabytes 0.001",
)
"""A model that they write loads, as the one that they are given does."""

WITH_TORCH = (
    "trace net.py:net -o o.json --inputs i.json",
    "trace net.py:net -o o.json --inputs i.safetensors --record",
    "trace net.py:net -o o.json --inputs i.npz --cache cache",
    "trace hf -o o.json",
    "trace hf -o o.json --module encoder --inputs ids.json",
    f"export net.py:net -o {WRITTEN} --exporter torchscript --inputs i.json",
    f"export hf -o {WRITTEN} --exporter torchscript",
    f"auto net.py:net -o {WRITTEN} --inputs i.json --primary torchscript",
    "recommend hf",
)
"""Commands with PyTorch; they take seconds each, and get a small share of the time."""

LINES = (*KEEPING, *CUTTING, *SPLITTING, *TELLING)
KINDS = {
    **dict.fromkeys(KEEPING, "keeping"),
    **dict.fromkeys(CUTTING, "cutting"),
    **dict.fromkeys(SPLITTING, "splitting"),
    **dict.fromkeys((*TELLING, *WITH_TORCH), "telling"),
}
"""What is checked of what a line writes."""

READ_WITH = {
    "i.safetensors": ("i.safetensors",),
    "r.safetensors": ("r.json",),
    "w.data": ("m.onnx",),
    "parts/": ("-d parts", " parts "),
    "mxtools.toml": ("strateg",),
    "pyproject.toml": ("strateg",),
    "jobs/": ("report jobs",),
    "cache/": ("cache cache",),
    "hf/": (" hf",),
}
"""Files that commands read without naming them, with words of the lines that read them."""


def filled(line: str, model: ModelProto, chance: Random) -> str:
    """Return a line with scopes, a node, and two tensors of a model, OTHER made after TENSOR."""
    nodes = list(model.graph.node)
    scopes = [scope for node in model_nodes(model) if (scope := keys.props(node).get(keys.SCOPE, ".")) != "."]
    tensors = [name for node in nodes for name in node.output if name] or ["y"]
    one, two = sorted(chance.randrange(len(tensors)) for _ in range(2))
    known = {
        "SCOPE": scopes or ["."],
        "TENSOR": [tensors[one]],
        "OTHER": [tensors[two]],
        "NODE": [node.name for node in nodes if node.name] or tensors,
    }
    return _STANDS.sub(lambda found: shlex.quote(chance.choice(known[found[0]])), line)


_STANDS = re.compile("SCOPE|TENSOR|OTHER|NODE")


def reading(file: str, lines: tuple[str, ...]) -> list[str]:
    """Return the lines that read a file."""
    words = next((words for name, words in READ_WITH.items() if file.startswith(name)), (f" {file}",))
    return [line for line in lines if any(word in f" {line}" for word in words)]
