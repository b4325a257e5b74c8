"""Probe a model for the facts that decide which strategy suits it; each fact is found when it is first asked for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mxtools.errors import MxError, OutputError
from mxtools.pytorch.exporting.check import agreement
from mxtools.pytorch.sources import Sources
from mxtools.pytorch.strategy.attempt import Demands, accepted, tagged_by
from mxtools.strategies.metrics import TRACE_CASES, Meter

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Sidecar

LIMIT = 600.0
"""Seconds that probing one model may take."""

_CAUSES = {
    "an operator that the exporter does not know": ("Unsupported", "No ONNX function found", "not supported"),
    "control flow that depends on data": ("data-dependent", "DataDependent", "GuardOn"),
}
"""Words in an exporter's message, by the kind of failure that they show."""


class TimeOverError(BaseException):
    """Probing has no time left. Like KeyboardInterrupt it is no Exception, because exporters catch every Exception."""


class Probe:
    """Facts about a subject. `sources` keeps the traces and exports that probing makes, so nothing is made twice.

    Facts: `traces`, the forward pass runs; `dynamo` and `torchscript`, the export of that exporter runs in ONNX Runtime
    and returns what PyTorch returns; `dynamo-is-truest`, the round trip of dynamo's export is at least as good as that
    of torchscript's, or torchscript fails.
    """

    def __init__(self, sources: Sources, limit: float = LIMIT) -> None:
        """Take the sources, and the seconds that all probing may take."""
        self.sources = sources
        self.failures: dict[str, str] = {}
        self._end = perf_counter() + limit
        self._known: dict[str, bool] = {}
        self._facts: dict[str, Callable[[], bool]] = {
            "traces": lambda: bool(self.sidecar.calls),
            "dynamo": lambda: self._exports("dynamo"),
            "torchscript": lambda: self._exports("torchscript"),
            "dynamo-is-truest": self._is_truest,
        }

    @property
    def known(self) -> dict[str, bool]:
        """The facts that were asked for so far."""
        return dict(self._known)

    def holds(self, fact: str) -> bool:
        """Return whether a fact holds; it does not if this cannot be found out, or not in time."""
        if fact not in self._known:
            try:
                with within(self._end - perf_counter()):
                    self._known[fact] = self._facts[fact]()
            except OutputError:
                raise
            except (MxError, TimeOverError) as error:
                self._known[fact] = False
                self.failures[fact] = str(error)
        return self._known[fact]

    @cached_property
    def sidecar(self) -> Sidecar:
        """The trace; InputError if the forward pass raises."""
        return self.sources.trace()[0]

    def properties(self) -> dict[str, Any]:
        """Return edge cases and figures of the trace, and why facts do not hold, for the report."""
        calls = self.sidecar.calls
        owners = {module.path for module in self.sidecar.modules if module.weights}
        return {
            "calls": len(calls),
            "calls_with_parameters": sum(call.module in owners for call in calls) / max(len(calls), 1),
            "edge_cases": [name for name, met in TRACE_CASES.items() if met(self.sidecar)],
            "failures": {fact: _explained(text) for fact, text in self.failures.items()},
        }

    def _exports(self, exporter: str) -> bool:
        attempt = self.sources.export(exporter)[-1]
        wrong = agreement(self.sources.subject, attempt.read()).wrong
        if wrong:
            self.failures[exporter] = "; ".join((wrong, *attempt.fixed))
        return not wrong

    def _is_truest(self) -> bool:
        if not self.holds("torchscript"):
            return True
        rates = [self._rate(name) for name in ("fx", "htp")]
        return rates[0] >= rates[1]

    def _rate(self, strategy: str) -> float:
        tagged = tagged_by(strategy, self.sources, Meter())
        return accepted(tagged, self.sources, Demands(verify=True), Meter()).quality


def _explained(text: str) -> str:
    """Return a failure's message, with its kind before it if the message shows one."""
    kind = next((kind for kind, signs in _CAUSES.items() if any(sign in text for sign in signs)), None)
    return f"{kind}: {text}" if kind else text


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeOverError in a block after some seconds, or before it if no time is left.

    A signal interrupts the block, so this works only in the main thread of a system that has signals, and native code
    runs to its end first.
    """
    if seconds <= 0:
        raise TimeOverError("there was no time left to test it")

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - a signal handler's
        """Raise TimeOverError."""
        raise TimeOverError("the test took too long")

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
