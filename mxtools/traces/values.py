"""Values of tensors by name, from a file: those that a trace recorded, or inputs that a user gives.

A trace records its inputs under their names, and the tensors of its calls under their ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import onnx
from onnx import TensorProto

from mxtools.errors import InputError, UsageError
from mxtools.files.atomic import atomic_output
from mxtools.files.json_text import decoded
from mxtools.files.limits import MEMBER
from mxtools.files.regular import FileBytes, open_regular, read_regular
from mxtools.graph.index import graph_inputs
from mxtools.graph.shapes import Array
from mxtools.graph.types import plain

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from mxtools.traces.sidecar import Sidecar, TracedTensor

_NARROW = {
    "BF16": TensorProto.BFLOAT16,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "F8_E5M2": TensorProto.FLOAT8E5M2,
}
"""Types of numbers in .safetensors files that numpy lacks, by ONNX's names."""
_OWN = {
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "C64": "<c8",
}
"""Types of numbers in .safetensors files that numpy has, by numpy's names."""
KEPT = 16
"""How many arrays stay in memory after they were read."""


class Values:
    """Arrays by name, each read when it is asked for: `names` are all names, `get(name)` returns an array or None."""

    def __init__(self, names: Collection[str], read: Callable[[str], Any], where: str = "the values") -> None:
        """Take the names and a function that reads one; it raises TypeError for an element type unknown to numpy.

        `where` is what messages call the values.
        """
        self.names, self._read, self.where = names, read, where
        self.get = lru_cache(KEPT)(self._get)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the values be pickled, as process pools do: all of them, read from their file."""
        return _in_memory, ({name: self.get(name) for name in sorted(self.names)}, self.where)

    def _get(self, name: str) -> Any:  # noqa: ANN401 - an array, or of a sequence in memory a list
        """Return the array of a name, None if there is none or numpy does not know its element type."""
        if name not in self.names:
            return None
        try:
            return self._read(name)
        except TypeError:
            return None
        except InputError:
            raise
        except Exception as error:  # numpy, zipfile, zlib and safetensors have no exception class in common
            text = " ".join(str(error).split())
            raise InputError(f"{name!r} of {self.where} cannot be read ({text})", "record or save it again") from None

    @classmethod
    def open(cls, file: Path) -> Values:
        """Return the values in a `.safetensors`, `.npz` or `.json` file; raises what `open_arrays` raises."""
        names, read = open_arrays(file)
        return cls(set(names), read, str(file))


def _in_memory(arrays: dict[str, Any], where: str) -> Values:
    return Values(arrays.keys(), arrays.__getitem__, where)


def open_arrays(file: Path, framework: str = "numpy") -> tuple[list[str], Callable[[str], Any]]:
    """Return the names in a `.safetensors`, `.npz` or `.json` file, and a function that reads the array of one.

    With the framework `pt`, the arrays of a `.safetensors` file are tensors of torch, because numpy lacks some element
    types. Raises InputError if there is no such file, or it cannot be read as arrays, UsageError if it is of another
    kind.
    """
    from safetensors import SafetensorError, safe_open

    if file.is_dir():
        raise InputError(f"{file} is a folder", "give a .safetensors, .npz or .json file")
    if not file.exists():
        raise InputError(f"there is no file {file}", "give a .safetensors, .npz or .json file")
    try:
        if file.suffix == ".safetensors":
            data = FileBytes(open_regular(file), file.name)
            opened: Any = safe_open(file, framework=framework)
            read = opened.get_tensor if framework == "pt" else _reader(data)
            return list(opened.keys()), read
        if file.suffix == ".npz":
            return _members(file)
        if file.suffix == ".json":
            content = decoded(read_regular(file))
            if not isinstance(content, dict):
                raise TypeError(f"it holds a {type(content).__name__}, without names")
            listed = {name: _array(value) for name, value in content.items()}
            return list(listed), listed.__getitem__
    except (OSError, EOFError, ValueError, TypeError, AttributeError, BadZipFile, SafetensorError) as error:
        raise InputError(f"{file} cannot be read as arrays by name ({error})", "record or save it again") from None
    raise UsageError(f"{file} is not a .safetensors, .npz or .json file", "give one of these")


def _reader(data: FileBytes) -> Callable[[str], Array]:
    """Return a function that reads a tensor of a .safetensors file; types that numpy lacks become types of numpy.

    The file begins with the length of its header in 8 bytes; then come the header, in JSON, and the data. The library
    would map the file, which would end the process if another process made the file shorter in the meantime.
    """
    import numpy as np

    size = int.from_bytes(data[:8], "little")
    header = decoded(data[8 : 8 + size])

    def read(name: str) -> Array:
        """Read one tensor; TypeError if numpy knows no such type."""
        entry = header[name]
        first, end = (8 + size + offset for offset in entry["data_offsets"])
        raw, dtype = data[first:end], entry["dtype"]
        if dtype in _NARROW:
            return plain(
                onnx.numpy_helper.to_array(TensorProto(data_type=_NARROW[dtype], dims=entry["shape"], raw_data=raw))
            )
        if dtype not in _OWN:
            raise TypeError(dtype)
        return np.frombuffer(bytearray(raw), _OWN[dtype]).reshape(entry["shape"])

    return read


def _members(file: Path) -> tuple[list[str], Callable[[str], Any]]:
    """Return the names in a .npz file, and a function that reads one; InputError if one would be too large."""
    import numpy as np

    arrays = np.load(open_regular(file), allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        raise TypeError("it holds one array, without a name")
    sizes = {member.filename.removesuffix(".npy"): member for member in arrays.zip.infolist()}

    def read(name: str) -> Array:
        """Read one array; its header is checked first, because numpy makes room for any shape that it claims."""
        member = sizes[name]
        MEMBER.check(member.file_size, f"{name!r} of {file}", member.compress_size)
        with arrays.zip.open(member) as opened:
            shape, dtype = _npy_header(opened)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise InputError(f"{name!r} of {file} has fewer elements than its shape {shape} needs", "save it again")
        return np.asarray(arrays[name])

    return list(arrays.files), read


def _npy_header(opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the element type in the header of a .npy file."""
    import numpy as np

    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    return shape, dtype


def _array(numbers: object) -> Array:
    """Return nested lists of numbers as an array, floats as float32, as models expect; ValueError for anything else."""
    import numpy as np

    array = np.asarray(numbers)
    if array.dtype.kind not in "biufcUS":
        raise ValueError("a value is neither a list of numbers nor a list of such lists")
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def recorded(sidecar: Sidecar, folder: Path) -> Values | None:
    """Return the values beside a sidecar, None if it has none; InputError if their file cannot be read.

    The name must be a plain file name: a sidecar from elsewhere must not make us read any other file.
    """
    if not sidecar.record:
        return None
    if Path(sidecar.record).name != sidecar.record:
        raise InputError(
            f"the sidecar's record {sidecar.record!r} is not a file name", "the file must be beside the sidecar"
        )
    return Values.open(folder / sidecar.record)


def files_of(inputs: Path) -> list[Path]:
    """Return the files of inputs, one for each set: a file itself, or those in a folder; UsageError if it has none."""
    if not inputs.is_dir():
        return [inputs]
    found = sorted(path for path in inputs.iterdir() if path.suffix in (".npz", ".safetensors", ".json"))
    if not found:
        raise UsageError(f"the folder {inputs} has no .npz, .safetensors or .json file", "give another folder")
    return found


def check_values_file(file: Path) -> None:
    """Raise UsageError if values cannot be written to a file of this name, before any work."""
    if file.suffix not in (".npz", ".safetensors"):
        raise UsageError(f"{file} is no .npz or .safetensors file", "give another ⟨output⟩")


def write_values(file: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name to a `.npz` or `.safetensors` file; raises OutputError if it cannot be written."""
    import numpy as np

    check_values_file(file)
    with atomic_output(file) as output:
        if file.suffix == ".npz":
            # as `numpy.savez`, which takes some names for parameters of its own
            with ZipFile(output, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        else:
            from safetensors.numpy import save

            output.write(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def require_known(values: Values, proto: ModelProto, sidecar: Sidecar | None, where: str) -> None:
    """Raise UsageError if a user gives a value whose name is no input of the graph or of the trace.

    `where` is what the message calls the values. Values that a trace recorded of its calls have numbers as names, and
    may be among them.
    """
    names = [value.name for value in graph_inputs(proto)]
    known = {*names, *(tensor.name for tensor in sidecar.model.inputs)} if sidecar else {*names}
    unknown = sorted(name for name in values.names if not (_input_of(name) in known or name in known))
    unknown = [name for name in unknown if not name.isdecimal()]
    if unknown:
        raise UsageError(
            f"{where} has {unknown[0]!r}, which is not an input of the graph", f"there are {', '.join(names)}"
        )


def _input_of(name: str) -> str:
    """Return the name of the input that a value belongs to: `past` for `past.0`, the first item of a sequence."""
    sequence, _, item = name.rpartition(".")
    return sequence if item.isdecimal() else name


def feeds(sidecar: Sidecar | None, values: Values, names: list[str]) -> dict[str, Array]:
    """Return the recorded or given values of a graph's inputs, by name.

    If the graph has other names than the trace, its inputs are assumed to be in the same order. But if some names are
    in both, and all together are the arguments of a call inside the model, the values are what that call was given: an
    exported decoder takes what the whole model gives to it.
    """
    by_name = {name: array for name in names if (array := values.get(name)) is not None}
    if not sidecar:
        return by_name
    traced = {t.name: array for t in sidecar.model.inputs if (array := _traced_input(sidecar, values, t)) is not None}
    if traced.keys() >= set(names):
        return {name: traced[name] for name in names}
    if len(by_name) == len(names):
        return by_name
    if not (inner := inner_inputs(sidecar, names)):
        return dict(zip(names, traced.values(), strict=True)) if len(traced) == len(names) else by_name
    return {name: array for name in names if (array := values.get(str(inner[name]))) is not None}


def _traced_input(sidecar: Sidecar, values: Values, tensor: TracedTensor) -> Array | None:
    """Return the value of a traced input; an input of a part is recorded as an argument of the part's call."""
    recorded: Array | None = values.get(str(tensor.id)) if sidecar.model.part else None
    named: Array | None = values.get(tensor.name) if recorded is None else recorded
    return named


def inner_inputs(sidecar: Sidecar, names: Sequence[str]) -> dict[str, int]:
    """Return the ids of the tensors that are a graph's inputs, if these are not the inputs of the traced model.

    They are the arguments of the outermost call whose arguments have all these names. Returns nothing if there is none,
    or if the inputs are the model's: all of them by name, or equally many with no name in common.
    """
    own = [tensor.name for tensor in sidecar.model.inputs]
    if set(own) >= set(names) or (len(own) == len(names) and not set(own) & set(names)):
        return {}
    given = ({tensor.name: tensor.id for tensor in call.inputs} for call in sidecar.calls)
    found = next((ids for ids in given if ids.keys() >= set(names)), {})
    return {name: found[name] for name in names if found}
