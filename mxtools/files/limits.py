"""What a file may expand to: limits for everything that grows while it is read, and the one way to raise them.

A file of some kilobytes can unpack to gigabytes, or describe them. If something grows beyond what real files ever need,
it is refused. The message says how far the limits would have to be raised: `--limits 20`, or `with mxtools.limits(20)`,
makes all of them twenty times as large. Docs: docs/limits.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mxtools.errors import InputError, UsageError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MIB = 1 << 20

_DATA = 5
"""The place in Linux' `statm` of the number of pages that a process can write to."""

VARIABLE = "MX_LIMITS"
"""The environment variable with the factor by which limits are raised, unless a block gives another one."""


class LimitError(InputError):
    """Something would expand to more than the limits allow."""


@dataclass(frozen=True)
class Limit:
    """How much of something may be there: at least `least`, and more if the file is large.

    `ratio` times the size of the file in bytes is allowed too; it is 0 if the size does not matter.
    """

    unit: str
    least: int
    ratio: float = 0
    scale: int = 1
    """How many of what is counted make one unit in messages."""

    def check(self, amount: int, what: str, size: int = 0) -> None:
        """Raise LimitError if `amount` is more than allowed for `size` bytes; messages call it `what`."""
        allowed = self.allowed(size)
        if amount > allowed:
            needed = max(-(-amount * factor() // allowed), 2 * factor())  # rounded up
            raise _beyond(f"{what} would be larger than the limit of {self.text(allowed)}", needed)

    def allowed(self, size: int = 0) -> int:
        """Return how much is allowed."""
        return int(max(self.least, self.ratio * size) * factor())

    @contextmanager
    def of_memory(self, what: str, size: int) -> Iterator[None]:
        """Raise LimitError if a library takes more memory inside the block than is allowed for `size` bytes.

        This works on Linux only. The limit is one of the whole process: it is added to what the process has already.
        """
        allowed = self.allowed(size)
        before = _limit_memory(allowed)
        try:
            yield
        except MemoryError:
            problem = f"{what} would need more memory than the limit of {self.text(allowed)}"
            raise _beyond(problem, 10 * factor()) from None
        finally:
            if before:
                resource.setrlimit(resource.RLIMIT_DATA, before)

    def text(self, amount: int) -> str:
        """Return an amount for people."""
        return f"{amount / self.scale:,.0f} {self.unit}"


def _beyond(problem: str, needed: float) -> LimitError:
    """Return the error for something that would be allowed if the limits were raised by `needed`."""
    return LimitError(problem, f"if the file is yours, raise all limits: ⟨limits⟩ {needed:.0f}")


def _limit_memory(allowed: int) -> tuple[int, int] | None:
    """Limit the memory that the process may take from now on; return the old limits, None if the system has none."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[_DATA]
        soft, hard = before = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(pages) * resource.getpagesize() + allowed
        known = [limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    except (AttributeError, OSError, ValueError):  # no such module, file or limit
        return None
    return before


UNPACKED = Limit("MiB", 32 * MIB, ratio=64, scale=MIB)
"""Compressed metadata. Traces shrink to a tenth or twentieth; nothing real shrinks a thousandfold."""
MEMBER = Limit("MiB", 256 * MIB, ratio=100, scale=MIB)
"""An array in a .npz file; a mask of ones shrinks a thousandfold, so the first 256 MiB are free."""
JSON_ITEMS = Limit("items", 5_000_000)
"""Values in a JSON text, at 100 to 300 bytes each in memory. The trace of a model with 1000 calls has 100 000."""
EXPANDED_NODES = Limit("nodes", 1_000_000)
"""Nodes for which the calls of functions stand: twenty functions that each call the next one twice are a million."""
MADE_INPUT = Limit("MiB", 1024 * MIB, scale=MIB)
"""An input that is made up because none is given; the file only claims its dimensions."""
DENSE = Limit("MiB", 1024 * MIB, scale=MIB)
"""A sparse tensor that becomes a dense one; the file only claims its dimensions."""
MODULES = Limit("modules", 10_000, ratio=0.001)
"""Modules of a Hugging Face model, whose configuration only claims its layers. 600 layers are within the limit."""
PARAMETERS = Limit("MiB", 512 * MIB, ratio=16, scale=MIB)
"""Parameters and buffers of a Hugging Face model, which its configuration claims, against the files of its weights;
weights of 4 bits grow eightfold."""
INFERENCE = Limit("MiB", 512 * MIB, ratio=64, scale=MIB)
"""Memory to infer types and shapes: a file can claim any length for a shape, which is the rank of an Expand."""
SESSION = Limit("MiB", 1024 * MIB, ratio=16, scale=MIB)
"""Memory in which ONNX Runtime loads a model; it also infers shapes and computes constants then."""
ALL = {
    "compressed metadata of a model, such as its trace": UNPACKED,
    "an array in a `.npz` file": MEMBER,
    "a JSON text: sidecars, manifests, metadata, reports": JSON_ITEMS,
    "functions that call functions, expanded": EXPANDED_NODES,
    "an input that mxtools makes because none is given": MADE_INPUT,
    "a sparse tensor that is made dense, for tools without sparse tensors": DENSE,
    "the memory in which types and shapes of a model are inferred": INFERENCE,
    "the memory in which ONNX Runtime loads a model": SESSION,
    "the modules of a Hugging Face folder": MODULES,
    "the parameters of a Hugging Face folder": PARAMETERS,
}

_factor: ContextVar[float | None] = ContextVar("limits", default=None)


def factor() -> float:
    """Return the factor by which the limits are raised; UsageError if the environment's is not a number."""
    given = _factor.get()
    return _parsed(os.environ[VARIABLE]) if given is None and os.environ.get(VARIABLE) else given or 1.0


@contextmanager
def limits(raised: float) -> Iterator[None]:
    """Inside the block, multiply all limits on what files may expand to by `raised`.

    >>> with mxtools.limits(20):
    ...     model = mxtools.load("bert.onnx")
    """
    token = _factor.set(_parsed(raised))
    try:
        yield
    finally:
        _factor.reset(token)


def _parsed(given: float | str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"⟨limits⟩ {given!r} is not a number above 0", "give 10 for ten times the usual")
    return number
