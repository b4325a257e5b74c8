"""What the fuzzer found once stays mended: each folder of `fuzz/corpus/` has the files, and the command in a line."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import mutations, seeds
from tests.fuzz.oracle import does_load, judged

CORPUS = Path(__file__).parent / "fuzz" / "corpus"


@pytest.mark.parametrize("case", sorted(path.name for path in CORPUS.iterdir()))
def test_what_was_found_stays_mended(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "try"
    shutil.copytree(CORPUS / case, folder)
    line = shlex.split((folder / "command.txt").read_text().splitlines()[0])
    verdict = judged(line, folder, ("o.onnx",), does_load(folder / "m.onnx"))
    assert not verdict.fault, verdict


def test_mutations_change_a_model_in_few_places() -> None:
    """A fuzzer that breaks everything at once tests nothing but the first check."""
    model, chance = seeds.models()[0], Random(0)
    data, parsed = model.SerializeToString(), 0
    for _ in range(200):
        copy = type(model).FromString(data)
        mutated = mutations.mutated(copy, chance)
        try:
            changed = type(model).FromString(mutated)
        except Exception:  # cut off, as one in twenty is
            continue
        parsed += 1
        assert changed.SerializeToString() != data or mutated == data
    assert parsed > 150
