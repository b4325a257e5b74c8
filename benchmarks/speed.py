"""Compare `mx tag` and `mx filter` with what people would do instead, on a BERT-base of 440 MB, as whole processes.

speed.py [FOLDER]: models are kept in FOLDER (build/bench). Exit status 1 when a ratio is above its limit.
"""

from __future__ import annotations

import json
import sys

from measuring import EXTRACT, FOLDER, MX, compare, run

BUILD = """
import sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
transformers.BertModel(transformers.BertConfig()).save_pretrained(sys.argv[1])
"""
LOAD_SAVE = "import onnx, sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"


def main() -> int:
    """Build missing models, measure and print; return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    raw, tagged, trace = FOLDER / "bert.onnx", FOLDER / "bert.tagged.onnx", FOLDER / "bert.trace.json"
    if not raw.exists():
        run([sys.executable, "-c", BUILD, FOLDER / "bert"])
        run([MX, "trace", FOLDER / "bert", "-o", trace])
        run([MX, "export", FOLDER / "bert", "--exporter", "torchscript", "-o", raw])
    run([MX, "tag", raw, "--trace", trace, "-o", tagged])
    out = FOLDER / "out.onnx"
    cut = [MX, "filter", tagged, "--scope", "encoder.layer.6", "-o", out]
    report = json.loads(run([*cut, "--json"]))
    boundary = [",".join(report["inputs"]), ",".join(report["outputs"])]

    tag = [MX, "tag", raw, "--trace", trace, "-o", out]
    failed = compare("mx tag : onnx load + save", tag, [sys.executable, "-c", LOAD_SAVE, raw, out], 1.0)
    extract = [sys.executable, "-c", EXTRACT, tagged, out, *boundary]
    failed |= compare("mx filter : onnx.utils.extract_model", cut, extract, 0.3)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
