"""How to call models whose arguments are more than tensors: settings and caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mxtools.pytorch.exporting.exporters import Axes
from mxtools.pytorch.loading.caches import closed, is_cache, opened
from mxtools.pytorch.subject import Interface

PAST, PRESENT = "past_key_values", "present"
"""The name of a cache that goes in, and of one that comes out."""
ENCODED = "encoder_hidden_states"
ENCODER, DECODER = "encoder", "decoder"


class CallInterface(Interface):
    """Caches in the arguments of `forward` are inputs, those in its result are outputs; settings stay as they are.

    `fixed` are the arguments that are not inputs; `caches` are caches of the right kind, by argument.
    """

    def __init__(
        self,
        fixed: Mapping[str, Any],
        caches: Mapping[str, Any],
        find_axes: Callable[[], Axes],
        step: str = "",
    ) -> None:
        """Also take what finds the inputs' dynamic axes, and the symbol of a step's length (maybe one token)."""
        self.fixed, self.caches = fixed, caches
        self._find_axes = find_axes
        self.steps = {step: 1} if step else {}

    def axes(self) -> Axes:
        """Return the symbols of the inputs' dynamic axes."""
        return self._find_axes()

    def arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of `forward` for inputs."""
        given = {k: closed(self.caches[k], value) if k in self.caches else value for k, value in inputs.items()}
        return {**given, **self.fixed}

    def hidden(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the tensors of caches."""
        return {name: inputs[name] for name in self.caches}

    def results(self, result: Any) -> Any:  # noqa: ANN401 - any nesting
        """Return the results with the tensors of caches in the place of the caches."""
        return _with_caches_opened(result)


class StepInterface(CallInterface):
    """A step of a decoder after its encoder has run; names of the encoder's inputs begin with `encoder_`."""

    def arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of `forward` for inputs."""
        from transformers.modeling_outputs import BaseModelOutput

        given = super().arguments(inputs)
        encoded = BaseModelOutput(last_hidden_state=given.pop(ENCODED))
        of_decoder = {f"{DECODER}_input_ids": given.pop("input_ids"), "encoder_outputs": encoded}
        return of_decoder | {name.removeprefix(f"{ENCODER}_"): value for name, value in given.items()}

    def results(self, result: Any) -> Any:  # noqa: ANN401 - any nesting
        """Return the results without what the encoder made, which has not changed."""
        found = {k: v for k, v in super().results(result).items() if not k.startswith(f"{ENCODER}_")}
        if PRESENT in found:
            found[PRESENT] = [{DECODER: layer[DECODER]} for layer in found[PRESENT]]
        return found


def _with_caches_opened(result: Any) -> Any:  # noqa: ANN401 - any nesting
    if is_cache(result):
        return opened(result)
    if isinstance(result, Mapping):
        return {PRESENT if is_cache(v) and k == PAST else k: _with_caches_opened(v) for k, v in result.items()}
    if isinstance(result, (list, tuple)) and not hasattr(result, "_fields"):
        return type(result)(map(_with_caches_opened, result))
    return result
