"""The records of the manifest of a split model, `manifest.json`.

The pydantic models below are the schema; `docs/split.schema.json` is generated from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from mxtools.split.parts_folder import PASSING

MODEL = "model"
_OPTIONAL = ("place", "figures", "plan", "sizes", "genai")
"""Keys that are left out where there is nothing to say."""


class _ManifestRecord(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True, frozen=True)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the record as it is written."""
        return {key: value for key, value in handler(self).items() if value is not None or key not in _OPTIONAL}


class Link(_ManifestRecord):
    """A tensor that a part reads or that the whole model returns, and where it comes from."""

    name: Annotated[str, Field(description="its name, the same in every part and in the whole model")]
    source: Annotated[
        str, Field(description="file of the part that computes it; 'model' if it is an input of the model")
    ]


class Figures(_ManifestRecord):
    """What a part comes to."""

    modules: Annotated[tuple[str, ...], Field(description="the outermost scopes that are in it as a whole")] = ()
    nodes: Annotated[int, Field(description="nodes, copies of constants and shapes included")]
    bytes: Annotated[int, Field(description="bytes of its weights and other constants")]
    multiply_adds: Annotated[int, Field(description="multiply-adds of convolutions and matrix products")]
    uncounted: Annotated[int, Field(description="products that are not in these, as their shapes are not known")]
    activations: Annotated[int, Field(description="bytes of all values that its nodes make")]
    peak: Annotated[int, Field(description="the most bytes of values that are live at once, inputs included")]
    unsized: Annotated[int, Field(description="values that are not in the peak, as their sizes are not known")]
    tensors_in: Annotated[int, Field(description="tensors that it reads from other parts")]
    bytes_in: Annotated[int, Field(description="their bytes")]


class Plan(_ManifestRecord):
    """How the model was divided by a budget."""

    measure: Annotated[str, Field(description="what parts are compared by: bytes, multiply-adds, time or activations")]
    largest: Annotated[int, Field(description="what the largest part comes to")]
    mean: Annotated[float, Field(description="what a part comes to in the mean")]
    bound: Annotated[
        int, Field(description="what the largest of so many parts comes to at least, however it is divided")
    ]


class PartFile(_ManifestRecord):
    """One part."""

    file: Annotated[
        str, Field(pattern=rf"^({PASSING}/)?\d+-[A-Za-z0-9_.@-]+\.onnx$", description="file name, beside the manifest")
    ]
    scope: Annotated[str | None, Field(description="scope of its call, null for the rest")]
    inputs: tuple[Link, ...]
    outputs: tuple[str, ...]
    place: Annotated[str | None, Field(description="where it is to run; only if it was split by a placement")] = None
    figures: Annotated[Figures | None, Field(description="only if it was split by a budget, or nothing is written")] = (
        None
    )


class Manifest(_ManifestRecord):
    """A model in parts. Run in their order, each on the tensors that it lists, they compute the model's outputs."""

    schema_: Annotated[Literal["mxtools.split/1"], Field(alias="schema")] = "mxtools.split/1"
    inputs: Annotated[tuple[str, ...], Field(description="the model's inputs")]
    outputs: Annotated[tuple[Link, ...], Field(description="the model's outputs, in its order")]
    parts: Annotated[tuple[PartFile, ...], Field(description="each after the parts whose outputs it reads")]
    data: Annotated[
        str | None,
        Field(pattern=rf"^({PASSING}/)?weights\.data$", description="file of the weights, null if there is none"),
    ] = None
    plan: Annotated[Plan | None, Field(description="only if it was split by a budget")] = None
    sizes: Annotated[
        dict[str, int] | None, Field(description="the sizes of symbolic dimensions that the figures hold for")
    ] = None
    genai: Annotated[
        str | None,
        Field(
            pattern=rf"^({PASSING}/)?genai_config\.json$", description="configuration of onnxruntime-genai, if wanted"
        ),
    ] = None


class PassingManifest(Manifest):
    """A manifest while its files are moved to their places, where those of an earlier split still are."""

    replaced: tuple[
        Annotated[
            str, Field(pattern=r"^(\d+-[A-Za-z0-9_.@-]+\.onnx|manifest\.json|weights\.data|genai_config\.json)$")
        ],
        ...,
    ] = ()
