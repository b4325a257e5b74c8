"""A trace as one object: the sidecar, and the values that were recorded with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mxtools.files.atomic import atomic_output, write_pair
from mxtools.files.regular import read_bytes
from mxtools.traces import sidecar as sidecars
from mxtools.traces.values import Values, recorded

if TYPE_CHECKING:
    from mxtools.traces.sidecar import Call, Sidecar


def values_beside(file: Path) -> Path:
    """Return the file that a sidecar's values are written to."""
    return file.with_suffix(".safetensors")


def write_trace(sidecar: Sidecar, file: Path, write_values: Callable[[BinaryIO], object] | None = None) -> None:
    """Write a sidecar, and the values beside it if they were recorded; both or none. OutputError if that fails."""
    beside = values_beside(file).name

    def write(out: BinaryIO, record: str | None) -> None:
        """Write the sidecar, with the name of the values."""
        out.write(sidecars.dumps(sidecar.model_copy(update={"record": record})).encode())

    if write_values is not None:
        write_pair(file, beside, write, write_values, ours=False)
        return
    with atomic_output(file, beside) as out:
        write(out, None)


@dataclass(frozen=True, repr=False)
class Trace:
    """One traced forward pass of a PyTorch model.

    Attributes: `sidecar`, the trace as it is in the file; `values`, the recorded inputs and outputs of the calls, or
    None if they were not recorded.

    >>> trace = mxtools.load_trace("bert.trace.json")
    >>> trace
    Trace(BertModel: 45 calls of 48 modules, with values)
    >>> trace.calls[1].scope, trace.calls[1].outputs[0].shape
    ('embeddings', (1, 12, 32))
    """

    sidecar: Sidecar
    values: Values | None = None

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Trace:
        """Read a trace, and the recorded values beside it, if there are any; InputError if it is not a trace."""
        file = Path(path)
        found = sidecars.loads(read_bytes(file), str(file))
        return cls(found, recorded(found, file.parent))

    @property
    def class_name(self) -> str:
        """The class of the traced model."""
        return self.sidecar.model.class_name

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of its modules, in the order of execution; the first is the model itself."""
        return self.sidecar.calls

    @property
    def scopes(self) -> list[str]:
        """The scope of each call."""
        return [call.scope for call in self.calls]

    def save(self, path: str | PathLike[str]) -> None:
        """Write the sidecar, and the values to a `.safetensors` file beside it; OutputError if that fails."""
        if self.values is None:
            write_trace(self.sidecar, Path(path))
            return
        from safetensors.numpy import save

        arrays = {name: array for name in sorted(self.values.names) if (array := self.values.get(name)) is not None}
        write_trace(self.sidecar, Path(path), lambda out: out.write(save(arrays)))

    def __repr__(self) -> str:
        """Return class, calls and modules in one line."""
        modules, values = len(self.sidecar.modules), "with" if self.values else "without"
        return f"Trace({self.class_name}: {len(self.calls)} calls of {modules} modules, {values} values)"
