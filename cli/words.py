"""What the words in errors are on the command line; `mxtools.errors.PYTHON` has the same words for Python."""

from __future__ import annotations

WORDS: dict[str, str] = {
    # options
    "any-inputs": "--input or --inputs",
    "by-tag": "--tag",
    "cache": "--cache",
    "class": "--class",
    "data-dir": "--data-dir",
    "depth": "--depth",
    "dynamic": "--dynamic",
    "each": "--each",
    "exclude-scope": "--exclude",
    "exporter-dynamo": "--exporter dynamo",
    "exporter-torchscript": "--exporter torchscript",
    "from-tensor": "--from-tensor",
    "input": "--input",
    "input-shape": "--input",
    "inputs": "--inputs",
    "io-module": "--io module",
    "io-tensors": "--io tensors",
    "keep-modules": "--keep-modules",
    "log-file": "--log FILE",
    "op": "--op",
    "opset": "--opset",
    "output": "-o",
    "repair": "--repair",
    "scope": "--scope",
    "to-tensor": "--to-tensor",
    "trace": "--trace",
    # commands
    "passes": "`mx passes`",
    "profiler": "`mx profile --json`",
    "record": "mx trace --record",
    "recording": "--record",
    "splitter": "mx split",
    "strategies": "`mx strategies`",
    "tag": "run `mx tag`",
    "tag-renaming": "`mx tag --rename`",
    "tag-with-trace": "run `mx tag --trace`",
    "tracer": "`mx trace`",
    "tree": "`mx tree`",
    "view": "`mx view`",
    # usage
    "dashes": "-- ",
    "wrap-command": "`mx wrap [ONNX] -- COMMAND {in} {out}`",
}
