"""A step of a decoder with its past in a key-value cache; a run of what came before makes the cache."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from mxtools.errors import UsageError
from mxtools.pytorch.eval_mode import copied
from mxtools.pytorch.loading.caches import is_cache, opened
from mxtools.pytorch.loading.interfaces import DECODER, ENCODED, ENCODER, PAST, CallInterface, StepInterface
from mxtools.pytorch.loading.running import run
from mxtools.pytorch.nested import tensors
from mxtools.pytorch.subject import Subject, forward_parameters

STEP = 2
"""Tokens of the step: for a single token, models take paths that are not right for more."""
_BATCH, _LENGTH, _PAST_LENGTH = "batch", "sequence", "past_sequence"


def with_past(subject: Subject) -> Subject:
    """Return a decoder's next step after the subject's inputs; what these left in the cache are further inputs.

    The names are those of Optimum. Raises UsageError if the model takes no cache, or leaves nothing in one.
    """
    model, name = subject.model, type(subject.model).__name__
    taken = forward_parameters(model)
    if PAST not in taken or "use_cache" not in taken:
        raise UsageError(f"forward of {name} takes no cache ({PAST})", "give a decoder, or leave out ⟨with-past⟩")
    result = run(model, {**copied(subject.inputs), "use_cache": True})
    cache = getattr(result, PAST, None)
    layers = opened(cache) if is_cache(cache) else []
    if not any(tensors(layers)):
        raise UsageError(
            f"{name} does not return a cache of keys and values", "give a decoder, or leave out ⟨with-past⟩"
        )
    step = _encoded_step if DECODER in layers[0] else _step
    return step(subject, result, copy.copy(cache), copied(layers))


def _step(subject: Subject, result: Any, cache: Any, layers: list[Any]) -> Subject:  # noqa: ANN401, ARG001
    """Return the step of a decoder alone."""
    ids = subject.inputs["input_ids"]
    past = _length_of(layers)
    inputs: dict[str, Any] = {"input_ids": _next(ids)}
    axes = {"input_ids": {0: _BATCH, 1: _LENGTH}}
    if "attention_mask" in forward_parameters(subject.model):
        inputs["attention_mask"] = torch.ones((ids.shape[0], past + STEP), dtype=torch.int64)
        axes["attention_mask"] = {0: _BATCH, 1: f"{_PAST_LENGTH} + {_LENGTH}"}
    if "position_ids" in forward_parameters(subject.model):
        inputs["position_ids"] = torch.arange(past, past + STEP).expand(ids.shape[0], STEP).clone()
        axes["position_ids"] = {0: _BATCH, 1: _LENGTH}
    axes |= {name: {0: _BATCH, 2: _PAST_LENGTH} for name, t in tensors(layers, PAST) if t.dim() == 4}
    interface = CallInterface({"use_cache": True}, {PAST: cache}, lambda: axes, _LENGTH)
    return Subject(subject.model, {**inputs, PAST: layers}, subject.spec, interface)


def _encoded_step(subject: Subject, result: Any, cache: Any, layers: list[Any]) -> Subject:  # noqa: ANN401
    """Return the step of a decoder after its encoder has run."""
    length, of_encoder = f"{DECODER}_{_LENGTH}", {0: _BATCH, 1: _LENGTH}
    inputs: dict[str, Any] = {"input_ids": _next(subject.inputs[f"{DECODER}_input_ids"])}
    axes: dict[str, dict[int, str]] = {"input_ids": {0: _BATCH, 1: length}}
    if "attention_mask" in subject.inputs:
        inputs[f"{ENCODER}_attention_mask"] = subject.inputs["attention_mask"]
        axes[f"{ENCODER}_attention_mask"] = of_encoder
    inputs[ENCODED] = result.encoder_last_hidden_state
    axes[ENCODED] = of_encoder
    for name, tensor in tensors(layers, PAST):
        if tensor.dim() == 4:
            axes[name] = {0: _BATCH, 2: _PAST_LENGTH if f".{DECODER}." in name else _LENGTH}
    interface = StepInterface({"use_cache": True}, {PAST: cache}, lambda: axes, length)
    return Subject(subject.model, {**inputs, PAST: layers}, subject.spec, interface)


def _next(ids: Tensor) -> Tensor:
    """Return the tokens of the step: some of those that came before."""
    return ids[:, : min(STEP, ids.shape[1])].repeat(1, STEP)[:, :STEP].clone()


def _length_of(layers: list[Any]) -> int:
    """Return how many tokens a cache has: the most in any layer, since some layers keep only the last ones."""
    return max((t.shape[2] for _, t in tensors(layers) if t.dim() == 4), default=0)
