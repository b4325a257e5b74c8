"""A subject's trace and raw exports, from which everything else is made; each is made once and kept in a folder.

PyTorch is imported only if something has to be made; what a cache has is available at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from mxtools.files.atomic import as_output_error, write_text
from mxtools.files.json_text import decoded
from mxtools.files.regular import read_regular
from mxtools.files.temporary import Scratch, sync_files, sync_folder, temporary_folder
from mxtools.pytorch.exporting.exporters import ExportAttempt, ExportError, Options, in_turn
from mxtools.strategies.cache import Cache
from mxtools.strategies.metrics import Meter
from mxtools.traces import sidecar
from mxtools.traces.trace import values_beside, write_trace
from mxtools.traces.values import Values, recorded

if TYPE_CHECKING:
    import torch

    from mxtools.pytorch.subject import Subject
    from mxtools.traces.sidecar import Sidecar

_MODEL = "model.onnx"
_NOTE = "note.json"


class Sources:
    """A subject's trace and raw exports. What its folder has already is not made again."""

    def __init__(
        self,
        load: Callable[[], Subject],
        folder: Path,
        options: Options | None = None,
        meter: Meter | None = None,
        stays: bool = False,
    ) -> None:
        """Take a function that loads the subject, the folder, and a meter of the stages `trace` and `export`.

        `stays` is true for a folder that others will use, so its files must be flushed to disk.
        """
        self.folder = folder
        self._stays = stays
        self._load = load
        self._options = options or Options()
        self._meter = meter
        self._failed: dict[Path, ExportAttempt] = {}

    @cached_property
    def subject(self) -> Subject:
        """The subject, loaded when it is first needed."""
        return self._load()

    def trace(self, values: bool = False, meter: Meter | None = None) -> tuple[Sidecar, Values | None]:
        """Return the trace, and the recorded values or None; InputError if the forward pass raises.

        `meter` measures the stage instead of the sources' own: a trace that only checks a model did not make it.
        """
        file = self.folder / "trace.json"
        known = sidecar.loads(read_regular(file, noted=False), str(file)) if file.is_file() else None
        killed = known is not None and known.record not in (None, values_beside(file).name)
        if known is None or killed or (values and not known.record):
            known = self._traced(file, values or killed, meter or self._meter)
        if not values:
            return known.model_copy(update={"record": None}), None
        return known, recorded(known, self.folder)

    def _traced(self, file: Path, values: bool, meter: Meter | None) -> Sidecar:
        from safetensors.torch import save

        from mxtools.pytorch.tracing import trace

        arrays: dict[str, torch.Tensor] | None = {} if values else None
        subject = self.subject
        with _stage(meter, "trace"):
            traced = trace(subject, arrays)
            if arrays is not None:
                recorded_values = save(arrays)
                write_trace(traced, file, lambda out: out.write(recorded_values))
                return sidecar.loads(read_regular(file, noted=False), str(file))
            write_trace(traced, file)
        return traced

    def export(self, choice: str = "auto", keep_modules: bool = False) -> list[ExportAttempt]:
        """Let exporters try in turn; return the attempts, the last of which succeeded.

        `choice` is dynamo, torchscript, auto or cheapest. If `keep_modules` is set here or in the options, nothing is
        folded across modules. Raises ExportError, with the attempts, if no exporter succeeds.
        """
        options = replace(self._options, keep_modules=keep_modules or self._options.keep_modules)
        attempts = []
        for name in in_turn(choice):
            attempts.append(self._attempt(name, options))
            if attempts[-1].error is None:
                return attempts
        raise ExportError(type(self.subject.model).__name__, attempts)

    def _attempt(self, exporter: str, options: Options) -> ExportAttempt:
        kind = "-" + blake2b(repr(options).encode(), digest_size=6).hexdigest() if options != Options() else ""
        path = self.folder / f"{exporter}{kind}" / _MODEL
        if path.is_file():
            return replace(_remembered(path.with_name(_NOTE)), exporter=exporter, path=path)
        if path not in self._failed:
            attempt = self._exported(exporter, path.parent, options)
            if attempt.error is None:
                return replace(attempt, path=path)
            self._failed[path] = attempt
        return self._failed[path]

    def _exported(self, exporter: str, folder: Path, options: Options) -> ExportAttempt:
        """Let an exporter write to a scratch folder, which is moved to `folder` when it is complete."""
        from mxtools.pytorch.exporting.varying import export_varying

        subject = self.subject
        with _stage(self._meter, "export"), self._written(folder), temporary_folder(folder) as scratch:
            unfinished = scratch / exporter
            unfinished.mkdir()
            attempt = export_varying(subject, unfinished / _MODEL, exporter, options)
            if attempt.error is None:
                note = {"fixed": attempt.fixed, "kept": attempt.kept, "static": attempt.static}
                write_text(json.dumps(note) + "\n", unfinished / _NOTE)
                self._keep(unfinished, folder)
        return attempt

    def _written(self, folder: Path) -> AbstractContextManager[None]:
        return as_output_error(folder, "give another ⟨cache⟩" if self._stays else "set TMPDIR to another folder")

    def _keep(self, unfinished: Path, folder: Path) -> None:
        if self._stays:
            sync_files(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
        if self._stays:
            sync_folder(folder.parent)


def _stage(meter: Meter | None, name: str) -> AbstractContextManager[None]:
    return meter.stage(name) if meter else nullcontext()


def _remembered(note: Path) -> ExportAttempt:
    """Return an attempt as it was noted when it was made."""
    known = decoded(read_regular(note, noted=False)) if note.is_file() else {}
    fixed, kept = (tuple(known.get(key, ())) for key in ("fixed", "kept"))
    return ExportAttempt("", note, fixed=fixed, kept=kept, static=known.get("static", ""))


@contextmanager
def sources_of(
    load: Callable[[], Subject],
    options: Options | None = None,
    cache: Cache | None = None,
    meter: Meter | None = None,
    key: str | None = None,
) -> Iterator[Sources]:
    """Yield a subject's sources; they are kept in a cache, if one is given, else in a temporary folder.

    `key` stands for everything on which `load` depends. If the cache knows it, the subject's folder is found without
    loading the subject.
    """
    if not cache:
        with Scratch() as scratch:
            yield Sources(load, scratch, options, meter)
        return
    folder = cache.find(key) if key else None
    if folder is None:
        from mxtools.pytorch.digest import digest

        subject = load()
        folder = cache.folder(digest(subject), subject.spec, key)
        yield Sources(lambda: subject, folder, options, meter, stays=True)
    else:
        yield Sources(load, folder, options, meter, stays=True)
