"""A split model in memory: its parts as models, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mxtools.cut.cut import extracted
from mxtools.errors import MOST_SHOWN, listed
from mxtools.pipeline.working_model import WorkingModel
from mxtools.split.genai import read_config
from mxtools.split.manifest import write
from mxtools.split.parts import Part
from mxtools.split.records import Manifest

M = TypeVar("M", bound=WorkingModel)


@dataclass(frozen=True, repr=False)
class Split(Generic[M]):
    """The parts of a model.

    If they run in order, each with the results of those before it, they give the outputs of the model.

    >>> parts = model.split("encoder.layer.*")
    >>> parts
    <Split of bert.tagged.onnx: the rest, encoder.layer.0, encoder.layer.1, the rest>
    >>> parts.scopes
    [None, 'encoder.layer.0', 'encoder.layer.1', None]
    >>> [part.file for part in parts.save("parts").parts][1]
    '01-encoder.layer.0.onnx'
    """

    _whole: M
    _parts: Sequence[Part]
    _manifest: Manifest

    @property
    def manifest(self) -> Manifest:
        """The order of the parts, what each reads and returns, and what it comes to."""
        return self._manifest

    @property
    def scopes(self) -> list[str | None]:
        """The scope of each part; None for parts of the rest."""
        return [part.scope for part in self._parts]

    def __repr__(self) -> str:
        """Return the model and the scopes of the parts in one line."""
        return f"<Split of {self._whole.name}: {listed([scope or 'the rest' for scope in self.scopes], MOST_SHOWN)}>"

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self._parts)

    def __iter__(self) -> Iterator[M]:
        """Yield the parts as models, each made when it is its turn."""
        protos = extracted(self._whole.proto, [part.cut for part in self._parts], self._whole.weights)
        for part, proto in zip(self._parts, protos, strict=True):
            model = self._whole.with_proto(proto, part.scope or "the rest")
            model.values = None  # they are the whole model's inputs
            yield model

    def save(
        self, folder: str | Path, verify: bool = False, genai: str | Path | Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the parts and their manifest to a folder, replacing an earlier split; return the manifest.

        With `verify`, the parts are run; if they compute something else than the whole model, CheckError is raised and
        nothing is written. With `genai`, the folder of a Hugging Face decoder or what its configuration says, the
        configuration for onnxruntime-genai is written too; UsageError if that library cannot run the parts. Raises
        OutputError if the folder cannot be written.
        """
        config = read_config(Path(genai)) if isinstance(genai, str | Path) else genai
        return write(self._whole, self._parts, Path(folder), verify, self._manifest, config)
