"""`mx tune` beside other ways to choose which modules are small: how many bytes, and how many evaluations.

    python benchmarks/tuning.py [--models bert,vit] [--precisions int8,qdq] [--folder build/tuning]

Five models are trained for less than a minute each, on data that this file makes; then they are exported and tagged.
For each precision the target is an SQNR 6 dB better than that of the model with everything small. Beside `mx tune`:

    all      everything small: it misses the target
    ranked   as peers do it: a model for each unit alone, ranked by what it does at the outputs (or by that for each
             byte saved, if that is better); then the longest row of units that meets the target, by halving
    every    all choices for the units of one module, 2 to the power of their number; and `mx tune` for the same units
             (leave float16 out: norms count as units there)

Accuracy is on inputs that no search saw. Training data, inputs and initial weights come from fixed seeds, but sums in
other orders on other machines give other weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mxtools
from mxtools.errors import UsageError
from mxtools.files.temporary import Scratch
from mxtools.scopes.selection import Selection
from mxtools.tuning.judging import FunctionJudge, OutputJudge, Verdict
from mxtools.tuning.metrics import METRICS, Target, target
from mxtools.tuning.quantisers import Options, quantisers
from mxtools.tuning.results import Tuned
from mxtools.tuning.samples import Samples, samples
from mxtools.tuning.tuning import Request, tune
from mxtools.tuning.units import Units
from mxtools.tuning.workshop import Evaluation, Workshop

PRECISIONS = ("int8", "qdq", "int4", "float16")
STEPS = 500
"""Batches that a model is trained on."""
ROWS, SETS = 32, 9
BETTER = 6.0
"""Decibels by which the target is better than everything small."""
CLASSES, LENGTH, WORDS, SIDE, PRIME = 8, 16, 32, 32, 11
UNKNOWN = -100
"""The label of what is not judged, as PyTorch's cross entropy has it."""

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A model, what makes its data, the output with the logits, and a module of few units."""

    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator, int], Batch]
    output: str
    module: str
    rate: float = 1e-3


def counting(generator: torch.Generator, rows: int) -> Batch:
    """Return sentences, each with a word that comes most often, which is the class."""
    label = torch.randint(CLASSES, (rows,), generator=generator)
    ids = torch.randint(CLASSES, WORDS, (rows, LENGTH), generator=generator)
    noise = torch.randint(CLASSES, (rows, LENGTH), generator=generator)
    kind = torch.rand((rows, LENGTH), generator=generator)
    ids = torch.where(kind < 0.4, label[:, None], torch.where(kind < 0.6, noise, ids))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, label


_COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


def shapes(generator: torch.Generator, rows: int) -> Batch:
    """Return pictures with some noise of a square or a cross in one of four colours, which are the classes."""
    label = torch.randint(CLASSES, (rows,), generator=generator)
    centre = torch.randint(12, 20, (rows, 2, 1, 1), generator=generator)
    size = torch.randint(6, 11, (rows, 1, 1), generator=generator)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    dy, dx = (y - centre[:, 0]).abs(), (x - centre[:, 1]).abs()
    square = (dy <= size) & (dx <= size)
    cross = square & ((dy <= 1) | (dx <= 1))
    inside = torch.where((label % 2 == 0)[:, None, None], square, cross)
    noise = 0.2 * torch.randn((rows, 3, SIDE, SIDE), generator=generator)
    return {"pixel_values": inside[:, None] * _COLOURS[label // 2][:, :, None, None] + noise}, label


def sorting(generator: torch.Generator, rows: int) -> Batch:
    """Return sequences of different words, to be sorted."""
    ids = torch.rand((rows, WORDS - 1), generator=generator).argsort(-1)[:, :LENGTH] + 1
    label = ids.sort(-1).values
    start = torch.zeros((rows, 1), dtype=torch.long)
    return {"input_ids": ids, "decoder_input_ids": torch.cat([start, label[:, :-1]], -1)}, label


def adding(generator: torch.Generator, rows: int) -> Batch:
    """Return sequences in which each word is the sum of the two before, modulo a prime; nobody can know the second."""
    found = [torch.randint(PRIME, (rows,), generator=generator) for _ in range(2)]
    while len(found) <= LENGTH:
        found.append((found[-1] + found[-2]) % PRIME)
    ids = torch.stack(found, -1)
    label = ids[:, 1:].clone()
    label[:, 0] = UNKNOWN
    return {"input_ids": ids[:, :-1]}, label


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
    return BertForSequenceClassification(
        BertConfig(**sizes, vocab_size=WORDS, max_position_embeddings=LENGTH, num_labels=CLASSES)
    )


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=CLASSES))


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [4, 4, 4], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=CLASSES))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 3, "vocab_size": WORDS}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, use_cache=False, dropout_rate=0.0))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=WORDS, max_position_embeddings=64, use_cache=False))


TASKS: dict[str, Task] = {
    "bert": Task(bert, counting, "logits", "bert.encoder.layer.0"),
    "vit": Task(vit, shapes, "logits", "vit.layers.0"),
    "resnet": Task(resnet, shapes, "logits", "resnet.encoder.stages.1.layers.0"),
    "t5": Task(t5, sorting, "logits", "encoder.block.0", rate=3e-3),
    "llama": Task(llama, adding, "logits", "model.layers.0", rate=2e-3),
}


def trained(task: Task) -> tuple[nn.Module, float]:
    """Train a model for some steps; return it, and its accuracy on other data."""
    torch.manual_seed(0)
    model, generator = task.make().train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), task.rate)
    for _ in range(STEPS):
        inputs, label = task.batch(generator, 64)
        logits = model(**inputs).logits
        loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), label.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    inputs, label = task.batch(torch.Generator().manual_seed(99), 512)
    with torch.no_grad():
        return model, right(model(**inputs).logits.numpy(), label.numpy())


def right(logits: np.ndarray, label: np.ndarray) -> float:
    """Return the share of right answers, of those that can be known."""
    return float((logits.argmax(-1) == label)[label != UNKNOWN].mean())


def exported(name: str, folder: Path) -> mxtools.Model:
    """Return a trained model, exported and tagged; made once."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        task = TASKS[name]
        module, accuracy = trained(task)
        print(f"{name}: accuracy {accuracy:.3f} of the trained model", flush=True)
        inputs, _ = task.batch(torch.Generator().manual_seed(5), 2)
        trace = mxtools.trace(module, inputs)
        model = mxtools.export(module, inputs, dynamic=True)
        model.tag(trace)
        model.save(path)
    return mxtools.load(path)


def data(name: str, model: mxtools.Model) -> Samples:
    """Return sets of inputs with labels."""
    generator, found = torch.Generator().manual_seed(11), []
    for _ in range(SETS):
        inputs, label = TASKS[name].batch(generator, ROWS)
        found.append({n: v.numpy() for n, v in inputs.items()} | {"labels": label.numpy()})
    return samples(model.proto, found, None, more=True)


def accuracy(session: Any, sets: Sequence[Mapping[str, Any]]) -> float:  # noqa: ANN401 - an untyped library's
    """Return the share of right answers."""
    names = [value.name for value in session.get_inputs()]
    found = [right(session.run(["logits"], {n: each[n] for n in names})[0], each["labels"]) for each in sets]
    return float(np.mean(found))


class Bench:
    """One model in one precision: what makes and judges it in the same way for all searches."""

    def __init__(self, name: str, model: mxtools.Model, precision: str, selection: Selection | None = None) -> None:
        self.name, self.model, self.precision, self.selection = name, model, precision, selection
        self.data = data(name, model)
        self.units = Units(model, quantisers([precision], Options()), selection)
        self.judge = OutputJudge(model, self.data.seen, METRICS["sqnr"], [TASKS[name].output])
        self.wanted: Target | None = None

    def shop(self, folder: Path) -> Workshop:
        """Return what makes and judges models in a folder."""
        return Workshop(self.units, self.data, self.judge, self._met, folder)

    def _met(self, verdict: Verdict) -> bool:
        return self.wanted is not None and self.wanted.met(verdict.value, 0.0)

    def everything(self) -> Evaluation:
        """Return the model with everything small."""
        with Scratch() as folder:
            return self.shop(folder).evaluate({unit.name: self.precision for unit in self.units.all})

    def tuned(self) -> Tuned:
        """Return what `mx tune` finds."""
        assert self.wanted
        outputs = [TASKS[self.name].output]
        asked = Request(self.wanted.text, [self.precision], outputs=outputs, budget=40, selection=self.selection)
        return tune(self.model, self.data, asked)

    def ranked(self) -> tuple[int, int]:
        """Return the bytes and the evaluations of a search that ranks units by models with one small unit each."""
        with Scratch() as folder:
            shop = self.shop(folder)
            alone = {unit.name: shop.evaluate({unit.name: self.precision}) for unit in self.units.all}
            whole = max(each.size for each in alone.values()) + 1
            orders = (
                lambda name: alone[name].verdict.damage,
                lambda name: alone[name].verdict.damage / max(1, whole - alone[name].size),
            )
            sizes, counts = [], []
            for order in orders:
                names, before = sorted(alone, key=order), len(shop.evaluations)
                low, high = 0, len(names)
                while high - low > 1:
                    middle = (low + high) // 2
                    good = shop.evaluate(dict.fromkeys(names[:middle], self.precision)).met
                    low, high = (middle, high) if good else (low, middle)
                counts.append(len(alone) + len(shop.evaluations) - before)
                sizes.append(min((e.size for e in shop.evaluations if e.met), default=0))
            return min(sizes), min(counts)

    def every(self) -> tuple[int, int]:
        """Return the bytes and the evaluations of trying all choices."""
        with Scratch() as folder:
            shop = self.shop(folder)
            for choice in product((False, True), repeat=len(self.units.all)):
                shop.evaluate(
                    {u.name: self.precision for u, small in zip(self.units.all, choice, strict=True) if small}
                )
            return min(e.size for e in shop.evaluations if e.met), len(shop.evaluations)

    def accuracies(self, chosen: Evaluation, everything: Evaluation) -> Iterator[float]:
        """Yield the accuracy on inputs held back of the model as it is, of everything small, and of what was chosen."""
        judge = FunctionJudge(self.model, self.data.held, accuracy, target(">=0", judged=True))
        yield judge.base
        with Scratch() as folder:
            shop = self.shop(folder)
            for each in (everything, chosen):
                with Scratch() as place:
                    yield judge.verdict(shop.model(each.precisions, place)).value


def row(name: str, model: mxtools.Model, precision: str) -> None:
    """Measure and print one line of the table."""
    bench = Bench(name, model, precision)
    everything = bench.everything()
    bench.wanted = target(f"sqnr>={everything.verdict.value + BETTER:.3f}", judged=False)
    begun = time.monotonic()
    found = bench.tuned()
    seconds = time.monotonic() - begun
    size, count = bench.ranked()
    figures = [f"{value:.3f}" for value in bench.accuracies(found.chosen, everything)]
    held = f"{found.held.value:.1f}" if found.held else ""
    print(
        f"| {name} | {precision} | {len(bench.units.all)} | {bench.wanted.text} "
        f"| {everything.size} | {size} | {count} "
        f"| {found.chosen.size} | {found.chosen.size / size:.3f} | {len(found.evaluations)} | {found.counts.probes} "
        f"| {found.chosen.verdict.value:.1f} | {held} | {' / '.join(figures)} | {seconds:.0f} |",
        flush=True,
    )


def small_row(name: str, model: mxtools.Model, precision: str) -> None:
    """Measure and print one line of the table of one module."""
    bench = Bench(name, model, precision, Selection(scopes=(TASKS[name].module,)))
    everything = bench.everything()
    bench.wanted = target(f"sqnr>={everything.verdict.value + 2:.3f}", judged=False)
    found = bench.tuned()
    size, count = bench.every()
    print(
        f"| {name} | {precision} | {len(bench.units.all)} | {bench.wanted.text} | {size} | {count} "
        f"| {found.chosen.size} "
        f"| {found.chosen.size / size:.3f} | {len(found.evaluations)} |",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(TASKS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--folder", type=Path, default=Path("build/tuning"))
    parser.add_argument("--every", action="store_true", help="the second table, of all choices for one module")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    models = {name: exported(name, given.folder) for name in given.models.split(",")}
    if given.every:
        print("| model | precision | units | target | bytes: every | evaluations | bytes: tune | ratio | evaluations |")
        print("|---|---|---:|---|---:|---:|---:|---:|---:|")
    else:
        print(
            "| model | precision | units | target | bytes: all | bytes: ranked | evaluations | bytes: tune | ratio "
            "| evaluations | probes | SQNR seen | SQNR held back | accuracy: as it is / all / tune | seconds |"
        )
        print("|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|")
    for name, model in models.items():
        for precision in given.precisions.split(","):
            try:
                (small_row if given.every else row)(name, model, precision)
            except UsageError as error:  # int4 is for products of matrices, which a ResNet's encoder lacks
                print(f"| {name} | {precision} | {error.problem} |", flush=True)


if __name__ == "__main__":
    main()
