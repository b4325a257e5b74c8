"""What everything else is made from: a subject's trace and its raw exports, each made once and kept in a folder."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors.torch import save

from mxtools import sidecar
from mxtools.metrics import Meter
from mxtools.model import modelio
from mxtools.pytorch.export import Attempt, ExportError, Options, export, exporters
from mxtools.pytorch.subject import Subject
from mxtools.pytorch.trace import trace
from mxtools.record import Values, recorded
from mxtools.sidecar import Sidecar

_MODEL = "model.onnx"


class Sources:
    """A subject's trace and raw exports. Those that its folder has from earlier are taken as they are."""

    def __init__(
        self, subject: Subject, folder: Path, options: Options | None = None, meter: Meter | None = None
    ) -> None:
        """Take the folder to keep them in, and what measures the making, as stages `trace` and `export`."""
        self.subject, self.folder = subject, folder
        self.options = options or Options()
        self._meter = meter
        self._failed: dict[str, Attempt] = {}

    def trace(self, values: bool = False) -> tuple[Sidecar, Values | None]:
        """Give the trace, with the recorded values where they are wanted; InputError where the forward pass raises."""
        file = self.folder / "trace.json"
        known = sidecar.loads(file.read_bytes(), str(file)) if file.is_file() else None
        if known is None or (values and not known.record):
            with self._stage("trace"):
                known = self._traced(file, values)
        if not values:
            return known.model_copy(update={"record": None}), None
        return known, recorded(known, self.folder)

    def _traced(self, file: Path, values: bool) -> Sidecar:
        arrays: dict[str, torch.Tensor] | None = {} if values else None
        traced = trace(self.subject, arrays)
        if arrays is not None:
            beside = file.with_suffix(".safetensors")
            with modelio.atomic_output(beside) as out:
                out.write(save(arrays))
            traced = traced.model_copy(update={"record": beside.name})
        modelio.write_text(sidecar.dumps(traced), str(file))
        return traced

    def export(self, choice: str = "auto") -> list[Attempt]:
        """Let exporters try in turn; give the attempts, the last of which succeeded: `path` has what it made.

        `choice` is dynamo, torchscript or auto. Raises ExportError, with the attempts, when none can.
        """
        attempts = []
        for name in exporters(choice):
            attempts.append(self._attempt(name))
            if attempts[-1].error is None:
                return attempts
        raise ExportError(self.subject, attempts)

    def path(self, exporter: str) -> Path:
        """Give the file of an export."""
        default = self.options == Options()
        kind = "" if default else "-" + blake2b(repr(self.options).encode(), digest_size=6).hexdigest()
        return self.folder / f"{exporter}{kind}" / _MODEL

    def _attempt(self, exporter: str) -> Attempt:
        path = self.path(exporter)
        if path.is_file():
            return Attempt(exporter, None, "")
        if exporter not in self._failed:
            with self._stage("export"), tempfile.TemporaryDirectory(prefix=".export-", dir=self.folder) as scratch:
                made = Path(scratch) / exporter / _MODEL
                made.parent.mkdir()
                attempt = export(self.subject, made, exporter, self.options)
                if attempt.error is None:
                    with suppress(OSError):  # another process was faster
                        made.parent.rename(path.parent)
                    return attempt
            self._failed[exporter] = attempt
        return self._failed[exporter]

    def _stage(self, name: str) -> AbstractContextManager[None]:
        return self._meter.stage(name) if self._meter else nullcontext()
