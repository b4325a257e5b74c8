"""What help shows: the commands in groups, and their options."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperCommand

GROUPS = {
    "Make": {
        "demo": "Make a small PyTorch model to try things out on.",
        "trace": "Run a model once and write down its modules, in a sidecar.",
        "export": "Export a model to ONNX, with nothing added.",
        "tag": "Write onto every node of an ONNX graph which module it belongs to.",
        "auto": "Export and tag a model in one step, by the strategy that suits it.",
    },
    "Look": {
        "tree": "Show the modules of an ONNX graph as a tree.",
        "view": "Show an ONNX graph as a page to browse, or write it for other viewers.",
        "text": "Write an ONNX graph as text, module by module, for `git diff`.",
        "profile": "Show which modules take the time.",
    },
    "Cut": {
        "filter": "Cut modules out of an ONNX graph, as a model that runs.",
        "split": "Split an ONNX graph into one model for each selected module, and the rest.",
        "graft": "Put a changed part back in its place in an ONNX graph.",
        "select": "Write the nodes of modules for tools that know only node names.",
    },
    "Check": {
        "verify": "Compare what each module of an ONNX graph returns with what PyTorch's returned.",
        "compare": "Compare two ONNX graphs module by module.",
        "validate": "Check an ONNX graph, its tags and its sidecar; repair what can be repaired.",
    },
    "Change": {
        "wrap": "Run another tool on an ONNX graph, and carry the tags over to its result.",
        "run": "Run a pipeline of passes over an ONNX graph.",
    },
    "Set up": {
        "recommend": "Recommend a strategy for a model.",
        "bench": "Compare strategies on models: time, memory, quality.",
        "strategies": "List the strategies.",
        "passes": "List the passes and their options.",
        "cache": "Show or prune what --cache keeps.",
        "mcp": "Serve the commands to agents, as tools of the Model Context Protocol.",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


class Command(TyperCommand):
    """A command in whose help flags have no type, as they take no value."""

    rest: ClassVar[str] = ""
    """What the words after `--` are, where a command takes some."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return without_types_of_flags(super().get_params(ctx))


def without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """Return parameters after taking from those that are flags the type that help would show."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
