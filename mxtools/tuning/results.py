"""What a search found: the model, its figures, all evaluations and units; the report, and recipes for the model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mxtools.errors import UsageError
from mxtools.files.json_text import finite
from mxtools.pipeline.working_model import WorkingModel
from mxtools.tools.node_lists import FORMATS, Format, Selected
from mxtools.tuning import steps
from mxtools.tuning.metrics import METRICS, Target
from mxtools.tuning.own_errors import Measured
from mxtools.tuning.quantisers import CALIBRATED, FLOAT, Step
from mxtools.tuning.samples import Origin
from mxtools.tuning.units import Units
from mxtools.tuning.workshop import Evaluation

M = TypeVar("M", bound=WorkingModel)
SCHEMA = "mxtools.tune/1"
_MAIN = '''

STEPS = json.loads(r"""{steps}""")
SETS = json.loads(r"""{sets}""")


def sets(model, place):
    """Return the inputs that ranges of activations were found on, from the same file or folder."""
    wanted = {{value.name: value.type.tensor_type.elem_type for value in model.graph.input}}
    found = []
    for name, start, stop in SETS:
        arrays = np.load(place / name if place.is_dir() else place)
        found.append({{
            n: arrays[n].astype(onnx.helper.tensor_dtype_to_np_dtype(kind))[start:stop]
            for n, kind in wanted.items()
            if n in arrays.files
        }})
    return found


def main():
    """Make the tuned model."""
    if len(sys.argv) not in (3, 4) or (SETS and len(sys.argv) == 3):
        sys.exit(f"usage: {{sys.argv[0]}} MODEL.onnx OUT.onnx{{' INPUTS' if SETS else ''}}")
    source = Path(sys.argv[1])
    feeds = sets(onnx.load(source, load_external_data=False), Path(sys.argv[3])) if SETS else []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(run_steps(STEPS, source, Path(folder), feeds), sys.argv[2])


main()
'''


@dataclass(frozen=True)
class Counts:
    """What a search did.

    Attributes: `evaluations`, how many models were judged; `probes`, how often the model was run with switches on,
    once for each set or piece of the inputs; `seconds` of the whole search.
    """

    evaluations: int
    probes: int
    seconds: float


@dataclass(frozen=True)
class Held:
    """The figures on inputs that the search never saw.

    Attributes: `base`, the value of the model as it is; `value`, that of the chosen model; `noise`, by how much it may
    differ by chance; `met`, whether the target is met.
    """

    base: float
    value: float
    noise: float
    met: bool


@dataclass(frozen=True)
class Tuned(Generic[M]):
    """The model that a search chose, and all that was found on the way.

    Attributes: `model`, the chosen one, with tags; `units`, what could get a precision; `target`; `base` and `noise`,
    value and noise of the model as it is; `chosen`, the evaluation of the model; `evaluations`, all of them, in order;
    `measured`, what was measured of the units, None if that was not needed; `held`, the figures on the sets held back,
    None if a user's function brings its own inputs; `size`, the bytes of the weights of the model as it is; `counts`;
    `origins` of the seen sets; `exhausted`, whether the budget ended the search; `interrupted`, whether the user did.
    """

    model: M
    units: Units
    target: Target
    base: float
    noise: float
    chosen: Evaluation
    evaluations: Sequence[Evaluation]
    measured: Measured | None
    held: Held | None
    size: int
    counts: Counts
    origins: Sequence[Origin] = ()
    exhausted: bool = False
    interrupted: bool = False

    @property
    def met(self) -> bool:
        """Whether the model meets the target on the inputs that the search saw."""
        return self.chosen.met

    @property
    def front(self) -> list[Evaluation]:
        """The evaluations than which no other is both smaller and better (the Pareto front), the smallest first.

        If the search was for the fastest model, they are those than which no other is both faster and better.
        """
        sign = 1 if self.target.rises else -1

        def worth(evaluation: Evaluation) -> float:
            return sign * evaluation.verdict.value

        found: list[Evaluation] = []
        usable = [e for e in self.evaluations if not math.isnan(e.verdict.value)]
        for each in sorted(usable, key=lambda e: (e.cost, -worth(e))):
            if not found or worth(each) > worth(found[-1]):
                found.append(each)
        return found

    def left(self, evaluation: Evaluation | None = None) -> list[str]:
        """Return the outermost scopes in which all units stayed in float32, by default of the chosen evaluation."""
        precisions = (evaluation or self.chosen).precisions
        hierarchy, inside = self.units.model.annotations.hierarchy, self.units.inside
        kept = {c for c, units in inside.items() if all(precisions.get(u.name, FLOAT) == FLOAT for u in units)}
        return [hierarchy.scopes[call] for call in sorted(hierarchy.outermost(kept))]

    def shares(self, evaluation: Evaluation) -> dict[str, int]:
        """Return how many units an evaluation gave each precision, the most frequent first."""
        precisions = Counter(evaluation.precisions.get(unit.name, FLOAT) for unit in self.units.all)
        return dict(precisions.most_common())

    @property
    def unit(self) -> str:
        """The name of the metric with its unit, "sqnr (dB)", for an axis of a picture; "figure" for a function."""
        metric = METRICS.get(self.target.metric)
        return f"{metric.name} ({metric.unit})" if metric and metric.unit else metric.name if metric else "figure"

    @property
    def advice(self) -> str:
        """What the user can do if no smaller model meets the target."""
        if self.exhausted:
            return "give a larger ⟨budget⟩"
        return "give other precisions, or another target"

    def precision(self, unit: str) -> str:
        """Return the precision that a unit, given by its name, got in the chosen model."""
        return self.chosen.precisions.get(unit, FLOAT)

    def __repr__(self) -> str:
        """Return the target, the value and the bytes before and after, in one line."""
        return f"Tuned({self.target.text}: {self.chosen.verdict.value:.6g}, {self.size} -> {self.chosen.size} bytes)"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON; its `metrics` has numbers by scope, as `mx view --metric` reads them."""
        held = self.held
        return {
            "schema": SCHEMA,
            "target": self.target.text,
            "wanted": number(self.target.at(self.base)),
            "met": self.met,
            "base": number(self.base),
            "value": number(self.chosen.verdict.value),
            "noise": number(self.chosen.verdict.noise),
            "base_noise": number(self.noise),
            "held_back": held
            and {
                "base": number(held.base),
                "value": number(held.value),
                "noise": number(held.noise),
                "met": held.met,
            },
            "bytes": {"before": self.size, "after": self.chosen.size},
            "evaluations": [_evaluation(each) for each in self.evaluations],
            "front": [self.evaluations.index(each) for each in self.front],
            "chosen": self.evaluations.index(self.chosen),
            "probes": self.counts.probes,
            "exhausted": self.exhausted,
            "interrupted": self.interrupted,
            "choices": [self._choice(unit.name) for unit in self.units.all],
            "metrics": self._metrics(),
        }

    def _choice(self, name: str) -> dict[str, Any]:
        """Return what the report says of one unit."""
        unit, measured = self.units.by_name[name], self.measured
        found: dict[str, Any] = {
            "scope": unit.scope,
            "nodes": [self.units.model.graph.nodes[node].name for node in unit.nodes],
            "precision": self.precision(name),
            "bytes": unit.size,
        }
        if measured:
            found["sizes"] = measured.sizes[name]
            if measured.times:
                found["nanoseconds"] = measured.times[name]
            found["own_errors"] = {p: number(e) for p, e in measured.errors[name].items()}
            found["damages"] = {p: number(d) for p, d in measured.damages[name].items()}
        return found

    def _metrics(self) -> dict[str, dict[str, Any]]:
        """Return numbers by scope, for each module that has units: the bytes that its units left in float32.

        If units were measured, also the sum of their damages and the largest of their own errors, each in the precision
        in which it is largest.
        """
        scopes, inside = self.units.model.annotations.hierarchy.scopes, self.units.inside
        found: dict[str, dict[str, Any]] = {"bytes left in float32": {}}
        for call, units in inside.items():
            found["bytes left in float32"][scopes[call]] = sum(u.size for u in units if self.precision(u.name) == FLOAT)
            if self.measured:
                damages = [max(self.measured.damages[u.name].values(), default=0.0) for u in units]
                errors = [max(self.measured.errors[u.name].values(), default=0.0) for u in units]
                found.setdefault("damage", {})[scopes[call]] = number(sum(damages))
                found.setdefault("largest own error", {})[scopes[call]] = number(max(errors))
        return found

    def recipe(self, path: Path) -> str:
        """Return the text of a recipe; the name of its file says which: `.py` is a program, `.json` arguments of tools.

        The program makes the model with numpy, onnx and onnxruntime, and with the other quantisers of its steps, but
        without mxtools. The arguments are those with which other quantisers, which `mx select` knows, leave the units
        that are in float32 here as they are. Raises UsageError if the name ends otherwise, or if the program needs
        inputs that do not come from .npz files.
        """
        check_recipe(path)
        return self._arguments() if path.suffix == ".json" else self._program()

    def _program(self) -> str:
        """Return a program: the source of `steps` without its docstring, and a main function that runs these steps."""
        found: list[Step] = self.units.steps(self.chosen.precisions)
        origins = self.origins if any(step["kind"] in CALIBRATED for step in found) else ()
        if any(not origin.file.endswith(".npz") for origin in origins):
            raise UsageError("a recipe with ranges of activations reads .npz files only", "give ⟨inputs⟩ as such files")
        source = Path(steps.__file__).read_text(encoding="utf-8").partition('"""\n\n')[2]
        title = f'"""Make the model that meets {self.target.text}, of {Path(self.units.model.name).name}."""\n\n'
        imports = "import json\nimport shutil\nimport tempfile\n"
        source = source.replace("import inspect\n", imports + "import inspect\n")
        return (
            title
            + source
            + _MAIN.format(
                steps=json.dumps(found, indent=1), sets=json.dumps([[o.file, o.start, o.stop] for o in origins])
            )
        )

    def _arguments(self) -> str:
        """Return a JSON object that has, by tool, the arguments to leave the nodes of all float32 units as they are."""
        annotations = self.units.model.annotations
        kept = [n for unit in self.units.all if self.precision(unit.name) == FLOAT for n in unit.nodes]
        found: dict[str, Any] = {}
        for name in (Format.ORT_QUANT, Format.FLOAT16, Format.NNCF, Format.OLIVE, Format.MODELOPT, Format.QUARK):
            found[str(name)] = FORMATS[name](Selected(annotations, tuple(sorted(kept))))
        return json.dumps(found, indent=2) + "\n"


def check_recipe(path: Path) -> None:
    """Raise UsageError if the name of a recipe ends neither in `.py` nor in `.json`."""
    if path.suffix not in (".py", ".json"):
        raise UsageError(f"{path} is no .py or .json file", "a recipe is a program, or arguments of other tools")


def number(value: float) -> float | str | None:
    """Return a number in a form that JSON can hold: an infinity is a string, NaN is None."""
    return None if math.isnan(value) else finite(value)


def _evaluation(each: Evaluation) -> Mapping[str, Any]:
    """Return what the report says of one evaluation."""
    verdict = each.verdict
    return {
        "bytes": each.size,
        "seconds": each.seconds and number(each.seconds),
        "value": number(verdict.value),
        "noise": number(verdict.noise),
        "met": each.met,
        "precisions": each.precisions,
    } | ({"problem": verdict.problem} if verdict.problem else {})
