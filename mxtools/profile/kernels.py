"""Kernels and their times, in the forms in which runtimes write them.

ONNX Runtime: the JSON trace of `enable_profiling`. TensorRT: `trtexec --exportProfile`, and `--exportLayerInfo` (with
`--profilingVerbosity=detailed`), which says in `Metadata` of which ONNX nodes a layer consists. OpenVINO: the counters
of `benchmark_app -report_type detailed_counters` or `average_counters`, as CSV or JSON.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from mxtools.errors import InputError
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular

ONNX_RUNTIME = "ONNX Runtime"

_KNOWN = "give ONNX Runtime's JSON, TensorRT's --exportProfile (and --exportLayerInfo), or OpenVINO's counters"
_KERNEL = "_kernel_time"
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Kernel:
    """What a runtime ran under one name: the operator, who ran it, and its microseconds in each run."""

    name: str
    operator: str
    provider: str
    times: tuple[float, ...]
    nodes: tuple[str, ...] = ()
    """The ONNX nodes of which it consists, if the runtime says so."""

    def __post_init__(self) -> None:
        """Raise TypeError for anything that a file has in the place of texts."""
        if not all(isinstance(text, str) for text in (self.name, self.operator, self.provider, *self.nodes)):
            raise TypeError(f"the name of a kernel is not a text: {self}")

    @property
    def time(self) -> float:
        """The median of its times, in microseconds."""
        return median(self.times)


@dataclass(frozen=True)
class Profile:
    """The kernels of a profile, and the microseconds of each whole run, if they are known."""

    runtime: str
    kernels: tuple[Kernel, ...]
    runs: tuple[float, ...] = ()


def read_profile(files: Sequence[Path]) -> Profile:
    """Read a profile; TensorRT's can have its layer information in another file.

    Raises InputError if the kind of a file is unknown, or if the files do not contain exactly one profile.
    """
    profiles, layers = list[Profile](), dict[str, dict[str, Any]]()
    for file in files:
        try:
            found = _read(file)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror})", _KNOWN) from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise InputError(f"{file} is not a profile of a known kind", _KNOWN) from None
        if isinstance(found, Profile):
            profiles.append(found)
        else:
            layers |= found
    if len(profiles) != 1 or not profiles[0].kernels:
        raise InputError(f"{' and '.join(map(str, files))} have no times of kernels, or times of several runs", _KNOWN)
    return replace(profiles[0], kernels=tuple(_detailed(kernel, layers) for kernel in profiles[0].kernels))


def _read(file: Path) -> Profile | dict[str, dict[str, Any]]:
    """Read a profile, or TensorRT's layers by name."""
    text = read_regular(file).decode()
    if not text.lstrip().startswith(("[", "{")):
        return _openvino(_sections(text))
    data = decoded(text)
    if isinstance(data, list):
        return _onnx_runtime(data) if any("cat" in event for event in data) else _tensorrt(data)
    if "Layers" in data:
        return {layer["Name"]: layer for layer in data["Layers"] if isinstance(layer, dict)}
    reports = data["detailed_performance"] if "detailed_performance" in data else [data["avg_performance"]]
    return _openvino([[(n["name"], n["node_type"], n["real_time"]) for n in report["nodes"]] for report in reports])


def _detailed(kernel: Kernel, layers: Mapping[str, dict[str, Any]]) -> Kernel:
    """Add what TensorRT's layer information says about a kernel."""
    layer = layers.get(kernel.name, {})
    nodes = tuple(_ONNX_LAYER.findall(str(layer.get("Metadata", ""))))
    return replace(kernel, operator=str(layer.get("LayerType", kernel.operator)), nodes=nodes)


def _onnx_runtime(events: Sequence[dict[str, Any]]) -> Profile:
    """Return the kernels of ONNX Runtime's trace; the work inside a node's body is not counted twice."""
    runs = sorted((e["ts"], e["dur"]) for e in events if e["cat"] == "Session" and e["name"] == "model_run")
    starts = [start for start, _ in runs] or [0]
    times: dict[tuple[str, str, str], list[float]] = {}
    kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith(_KERNEL)]
    for event, own in _own_times(kernels):
        args = event["args"]
        key = event["name"].removesuffix(_KERNEL), args.get("op_name", ""), args.get("provider", "")
        found = times.setdefault(key, [0.0] * len(starts))
        found[max(0, bisect_right(starts, event["ts"]) - 1)] += own
    kernels_ = (Kernel(*key, tuple(found)) for key, found in times.items())
    return Profile(ONNX_RUNTIME, tuple(kernels_), tuple(float(duration) for _, duration in runs))


def _own_times(events: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield events with their durations, less those of the events inside them, in the same thread."""
    open_: list[tuple[dict[str, Any], float]] = []
    for event in sorted(events, key=lambda e: (e["pid"], e["tid"], e["ts"], -e["dur"])):
        while open_ and not _holds(open_[-1][0], event):
            yield open_.pop()
        if open_:
            holder, own = open_[-1]
            open_[-1] = holder, own - event["dur"]
        open_.append((event, float(event["dur"])))
    yield from open_


def _holds(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    same = (outer["pid"], outer["tid"]) == (inner["pid"], inner["tid"])
    return bool(same and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"])


def _tensorrt(rows: Sequence[dict[str, Any]]) -> Profile:
    """Return the layers of TensorRT's profile; the first row is not a layer, but counts the runs."""
    layers = [row for row in rows if "name" in row]
    times = (row["medianMs"] if "medianMs" in row else row["averageMs"] for row in layers)
    kernels = (
        Kernel(row["name"], "", "TensorRT", (1000 * float(time),)) for row, time in zip(layers, times, strict=True)
    )
    return Profile("TensorRT", tuple(kernels))


def _sections(text: str) -> list[list[tuple[str, str, str]]]:
    """Return the counters of each request in OpenVINO's CSV, which follow a head: name, operator, milliseconds."""
    lines = text.splitlines()
    sections: list[list[tuple[str, str, str]]] = []
    head: list[str] = []
    for row in csv.reader(lines, delimiter=";" if ";" in lines[0] else ","):
        if row and row[0] == "layerName":
            head = row
            sections.append([])
        elif head and len(row) >= len(head) - 1 and row[0] != "Total":
            found = dict(zip(head, row, strict=False))
            sections[-1].append((found["layerName"], found["layerType"], found["realTime (ms)"]))
    if not sections:
        raise ValueError("no counters")
    return sections


def _openvino(requests: Sequence[Iterable[tuple[str, str, str]]]) -> Profile:
    """Return the kernels of OpenVINO's counters by request, without those that did not run."""
    times: dict[tuple[str, str], list[float]] = {}
    for at, request in enumerate(requests):
        for name, operator, milliseconds in request:
            times.setdefault((name, operator), [0.0] * len(requests))[at] += 1000 * float(milliseconds)
    kernels = (Kernel(name, op, "OpenVINO", tuple(found)) for (name, op), found in times.items() if any(found))
    return Profile("OpenVINO", tuple(kernels))
