"""Example inputs: the user's, or made from a model's configuration and `forward`'s signature, the same in each run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from inspect import get_annotations
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, is_typeddict

import torch
from torch import nn

from mxtools.errors import InputError, UsageError
from mxtools.pytorch.loading.parts import part_of
from mxtools.pytorch.loading.past import with_past
from mxtools.pytorch.loading.specs import load_model
from mxtools.pytorch.subject import Subject, by_name, forward_parameters, forward_signature
from mxtools.runtime.quiet import error_line
from mxtools.traces.values import open_arrays

SEED = 20
TEXT_LENGTH = 16
IMAGE_SIZE = 224
WAVE_LENGTH = 16_000
FRAMES = 128

_GIVEN = re.compile(r"(?P<name>[^=:]+)=(?P<shape>[0-9]*(?:[x,][0-9]+)*)(?::(?P<dtype>\w+))?")


def load_subject(
    spec: str,
    given: Sequence[str] = (),
    file: Path | None = None,
    task: str | None = None,
    trust_remote_code: bool = False,
    module: str = "",
    past: bool = False,
) -> Subject:
    """Return the model that a spec names, with inputs from a file, from given shapes, from the spec's code, or made.

    Given shapes replace inputs of the same names in any of these. With `past`, the inputs are those of a decoder's next
    step, with a cache; with `module`, only that part of the model is returned, with the arguments that the whole model
    gives it. Raises InputError if the model or a file cannot be loaded, UsageError if an input is missing or `forward`
    does not take it.
    """
    subject = _whole(spec, given, file, task, trust_remote_code)
    subject = with_past(subject) if past else subject
    return part_of(subject, module) if module else subject


def _whole(spec: str, given: Sequence[str], file: Path | None, task: str | None, trust_remote_code: bool) -> Subject:
    model, own = load_model(spec, task, trust_remote_code)
    inputs = dict(own) if own is not None and file is None else {}
    inputs.update(_read(file) if file else {})
    shapes = dict(map(_parse, given))
    _check_names(model, [*inputs, *shapes])
    if own is None and file is None:
        inputs.update(_made(model, shapes))
    generator = _generator()
    for name, (shape, dtype) in shapes.items():
        like = inputs.get(name)
        inputs[name] = _tensor(
            shape, dtype or (like.dtype if isinstance(like, torch.Tensor) else torch.float32), generator, model, like
        )
    missing = [n for n in _required(model) if n not in inputs]
    if missing:
        raise UsageError(
            f"forward of {type(model).__name__} needs {missing[0]!r}", f"give ⟨input-shape⟩ {missing[0]}=1,3,224,224"
        )
    return Subject(model, by_name(model, inputs), spec)


def _parse(text: str) -> tuple[str, tuple[tuple[int, ...], torch.dtype | None]]:
    found = _GIVEN.fullmatch(text)
    dtype = getattr(torch, found["dtype"], None) if found and found["dtype"] else None
    if not found or (found["dtype"] and not isinstance(dtype, torch.dtype)):
        raise UsageError(f"⟨input-shape⟩ {text!r} is not NAME=SHAPE[:DTYPE]", "write x=1,3,224,224 or ids=1x16:int64")
    shape = tuple(int(n) for n in re.split("[x,]", found["shape"]) if n)
    return found["name"], (shape, dtype)


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a `.npz`, `.safetensors` or `.json` file, by name; raises what `open_arrays` raises."""
    names, read = open_arrays(file, framework="pt")
    try:
        return {name: torch.as_tensor(read(name)) for name in names}
    except Exception as error:  # for anything that cannot be an array of numbers
        raise InputError(f"{file} cannot be read as inputs ({error_line(error)})", "give names with tensors") from error


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Raise UsageError for an input that `forward` takes neither by name nor by a `**kwargs` of any names."""
    taken = forward_parameters(model)
    parameters = forward_signature(model).parameters.values()
    others = next((_names_of(p.annotation) for p in parameters if p.kind is p.VAR_KEYWORD), ())
    unknown = [name for name in names if name not in taken and others is not None and name not in others]
    if unknown:
        raise UsageError(
            f"forward of {type(model).__name__} has no parameter {unknown[0]!r}", f"it takes {', '.join(taken)}"
        )


def _names_of(annotation: Any) -> Collection[str] | None:  # noqa: ANN401 - any annotation
    """Return the names that a `**kwargs: Unpack[SomeTypedDict]` takes; None if the annotation names none."""
    arguments = get_args(annotation) if get_origin(annotation) is Unpack else ()
    return get_annotations(arguments[0]) if arguments and is_typeddict(arguments[0]) else None


def _required(model: nn.Module) -> list[str]:
    parameters = forward_signature(model).parameters.values()
    return [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _tensor(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, model: nn.Module, like: object
) -> torch.Tensor:
    """Return random values: normal ones, or whole numbers that can be token ids; a mask of ones stays all ones."""
    if isinstance(like, torch.Tensor) and not like.is_floating_point() and bool((like == 1).all()):
        return torch.ones(shape, dtype=dtype)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if not dtype.is_floating_point:
        return torch.randint(0, _vocabulary(model), shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator).to(dtype)


def _vocabulary(model: nn.Module) -> int:
    """Return the number of tokens: from the configuration, else from the smallest embedding, else 2."""
    size = _field(getattr(model, "config", None), "vocab_size")
    return size or min((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=2)


def _field(config: Any, *names: str) -> Any:  # noqa: ANN401
    """Return the value of the first of some fields that a configuration, or one nested in it, has; otherwise None."""
    if config is None:
        return None
    nested = [v for v in vars(config).values() if hasattr(v, "model_type")]
    for name in names:
        for place in (config, *nested):
            value = getattr(place, name, None)
            if value is not None:
                return value
    return None


def _made(model: nn.Module, shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return inputs for a model with a Hugging Face configuration: the main input, and the masks that go with it."""
    config = getattr(model, "config", None)
    if config is None:
        return {}
    takes = forward_parameters(model)
    main = getattr(model, "main_input_name", "input_ids")
    wanted = {main, *_required(model)} | {
        n for n in ("input_ids", "pixel_values") if n in takes and _is_multimodal(config, takes)
    }
    if getattr(config, "is_encoder_decoder", False):
        wanted.add("decoder_input_ids")
    makers = {name: maker for name, maker in _MAKERS.items() if name in takes and name in wanted and name not in shapes}
    generator = _generator()
    made = {name: maker(config, generator) for name, maker in makers.items()}
    if "input_ids" in made or "input_ids" in shapes:
        shape = shapes["input_ids"][0] if "input_ids" in shapes else made["input_ids"].shape
        made.update({n: torch.ones(shape, dtype=torch.int64) for n in ("attention_mask",) if n in takes})
        made.update(
            {
                n: torch.zeros(shape, dtype=torch.int64)
                for n in ("token_type_ids",)
                if n in takes and _field(config, "type_vocab_size")
            }
        )
    for name in set(shapes) & set(_MAKERS):
        made[name] = _MAKERS[name](config, generator)
    return made


def _is_multimodal(config: Any, takes: list[str]) -> bool:  # noqa: ANN401
    return {"input_ids", "pixel_values"} <= set(takes) and hasattr(config, "vision_config")


def _token_ids(config: Any, generator: torch.Generator) -> torch.Tensor:  # noqa: ANN401
    size = int(_field(config, "vocab_size") or 2)
    special = {getattr(config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    low = max([i for i in special if isinstance(i, int) and i < min(8, size // 2)], default=-1) + 1
    length = min(TEXT_LENGTH, int(_field(config, "max_position_embeddings", "n_positions") or TEXT_LENGTH) - 2)
    return torch.randint(low, size, (1, max(length, 1)), generator=generator)


def _pixels(config: Any, generator: torch.Generator) -> torch.Tensor:  # noqa: ANN401
    size = _field(config, "image_size") or IMAGE_SIZE
    height, width = (size if isinstance(size, (list, tuple)) else (size, size))[:2]
    return torch.randn((1, int(_field(config, "num_channels") or 3), height, width), generator=generator)


def _wave(config: Any, generator: torch.Generator) -> torch.Tensor:  # noqa: ANN401, ARG001
    return torch.randn((1, WAVE_LENGTH), generator=generator)


def _spectrum(config: Any, generator: torch.Generator) -> torch.Tensor:  # noqa: ANN401
    bins = int(_field(config, "num_mel_bins", "input_feat_per_channel", "feature_size") or 80)
    positions = _field(config, "max_source_positions")
    return torch.randn(
        (1, bins, 2 * positions) if positions and hasattr(config, "num_mel_bins") else (1, FRAMES, bins),
        generator=generator,
    )


def _values(config: Any, generator: torch.Generator) -> torch.Tensor:  # noqa: ANN401
    """Return a wave, or a spectrum of frames by bins if the configuration has bins."""
    bins, length = _field(config, "num_mel_bins"), _field(config, "max_length")
    return torch.randn((1, length, bins), generator=generator) if bins and length else _wave(config, generator)


_MAKERS: dict[str, Callable[[Any, torch.Generator], torch.Tensor]] = {
    "input_ids": _token_ids,
    "decoder_input_ids": _token_ids,
    "pixel_values": _pixels,
    "input_values": _values,
    "input_features": _spectrum,
}
