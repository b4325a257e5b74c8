"""The configuration of onnxruntime-genai for the parts of a decoder; benchmarks/genai_parts.py generates text by it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from mxtools.errors import InputError, UsageError
from mxtools.graph.rename import names_in, rename_values
from mxtools.model.model import Model
from mxtools.split.genai import FILE, read_config
from tests.support.commands import Mx
from tests.support.small_graphs import HEAD, tagged

CACHES = ", ".join(f"float[b, 2, p, 4] past_key_values_{n}_{kind}" for n in (0, 1) for kind in ("key", "value"))
RESULTS = ", ".join(f"float[b, 2, t, 4] present_{n}_{kind}" for n in (0, 1) for kind in ("key", "value"))
DECODER = (
    HEAD
    + f" g (int64[b, s] input_ids, int64[b, t] attention_mask, {CACHES}) => (float[b, s, 9] logits, {RESULTS})"
    + """ <float[9, 8] w, int64[4] heads = {0, -1, 2, 4}> {
        e = Gather(w, input_ids)
        a = Reshape(e, heads)
        k = Transpose<perm = [0, 2, 1, 3]>(a)
        present_0_key = Concat<axis = 2>(past_key_values_0_key, k)
        present_0_value = Concat<axis = 2>(past_key_values_0_value, k)
        m = ReduceMean(present_0_value)
        x = Add(e, m)
        c = Reshape(x, heads)
        l = Transpose<perm = [0, 2, 1, 3]>(c)
        present_1_key = Concat<axis = 2>(past_key_values_1_key, l)
        present_1_value = Concat<axis = 2>(past_key_values_1_value, l)
        n = ReduceMean(present_1_value)
        y = Add(x, n)
        v = Transpose<perm = [1, 0]>(w)
        f = Cast<to = 1>(attention_mask)
        g = ReduceMean<keepdims = 0>(f)
        z = Add(y, g)
        logits = MatMul(z, v)
    }"""
)
"""A decoder with two layers, each of which adds to its cache what it is given."""
SCOPES = {
    "e": "embed",
    **dict.fromkeys(("a", "k", "present_0_key", "present_0_value", "m", "x"), "layers.0"),
    **dict.fromkeys(("c", "l", "present_1_key", "present_1_value", "n", "y"), "layers.1"),
    **dict.fromkeys(("v", "f", "g", "z", "logits"), "head"),
}
CONFIG = {
    "vocab_size": 9,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": None,
}


def decoder(text: str = DECODER) -> ModelProto:
    model = tagged(text, SCOPES)
    weights = onnx.helper.make_tensor("w", 1, [9, 8], [n / 72 for n in range(72)])
    del model.graph.value_info[:]
    model.graph.initializer.append(weights)
    names = (name for name in names_in(model.graph) if name.startswith(("past_", "present_")))
    rename_values(model.graph, {name: re.sub(r"_(\d)_", r".\1.", name) for name in names})
    return model


def written(folder: Path, model: ModelProto | None = None, config: dict[str, Any] | None = None) -> dict[str, Any]:
    split = Model(model or decoder()).split("embed", "layers.*", "head")
    split.save(folder, genai=config or CONFIG)
    found: dict[str, Any] = json.loads((folder / FILE).read_text())
    return found


def test_what_it_says(tmp_path: Path) -> None:
    found = written(tmp_path / "parts")["model"]
    own = found["decoder"]
    assert (found["type"], found["vocab_size"], found["context_length"]) == ("decoder-pipeline", 9, 32)
    assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == (1, [2, 3], 2)
    assert (own["num_hidden_layers"], own["num_key_value_heads"], own["head_size"]) == (2, 2, 4)
    assert own["inputs"]["attention_mask"] == "attention_mask"
    assert "position_ids" not in own["inputs"]
    stages = [stage for entry in own["pipeline"] for stage in entry.values()]
    assert [stage["filename"] for stage in stages] == [
        path.name for path in sorted((tmp_path / "parts").glob("*.onnx"))
    ]
    for stage in stages:
        proto = onnx.load(tmp_path / "parts" / stage["filename"])
        assert stage["inputs"] == [info.name for info in proto.graph.input]
        assert stage["outputs"] == [info.name for info in proto.graph.output]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("past_key_values_", "cache_", "is no decoder with a cache"),
        ("float[b, 2, p, 4] past_key_values_1_key", "float[b, 1, p, 4] past_key_values_1_key", "has no one shape"),
        ("float[b, 2, p, 4] past", "float[b, h, p, 4] past", "has no one shape"),
        ("attention_mask", "mask", "does not know what to give to the input 'mask'"),
        ("logits", "scores", "has no output 'logits'"),
        ("ReduceMean(present_0_value)", "ReduceMean(k)", ""),
        ("x = Add(e, m)", "x = Add(e, m)\n q = Neg(m)", ""),
        ("n = ReduceMean(present_1_value)", "n = ReduceMean(present_0_value)", "reads 'present.0.value' from"),
    ],
)
def test_what_the_library_cannot_run_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    model = decoder(DECODER.replace(old, new))
    if said:
        with pytest.raises(UsageError, match=said):
            written(tmp_path / "parts", model)
        assert not (tmp_path / "parts").exists()
    else:
        written(tmp_path / "parts", model)


@pytest.mark.parametrize("missing", ["vocab_size", "max_position_embeddings", "eos_token_id"])
def test_what_the_configuration_lacks_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError, match=missing):
        written(tmp_path / "parts", config={key: value for key, value in CONFIG.items() if key != missing})


def test_configurations(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"n_positions": 8, "vocab_size": 9}}))
    assert read_config(tmp_path)["n_positions"] == 8
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "bos_token_id": None}))
    assert read_config(tmp_path / "config.json")["eos_token_id"] == 7
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="not a configuration"):
        read_config(tmp_path)


def test_the_file_belongs_to_the_split(mx: Mx, tmp_path: Path) -> None:
    onnx.save(decoder(), tmp_path / "m.onnx")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    line = ("split", "m.onnx", "--depth", "1", "-d", "parts")
    assert mx(*line, "--genai", ".", cwd=tmp_path).returncode == 0
    assert (tmp_path / "parts" / FILE).exists()
    assert mx(*line, "--genai", "config.json", cwd=tmp_path).returncode == 0
    assert mx(*line, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "parts" / FILE).exists()
    (tmp_path / "parts" / FILE).write_text("{}")
    done = mx(*line, "--genai", ".", cwd=tmp_path)
    assert (done.returncode, b"is not from an earlier split" in done.stderr) == (3, True), done.stderr
    done = mx(*line, "--genai", "none", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode().count("\n")) == (3, 1)
