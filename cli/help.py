"""The commands in groups, as help lists them."""

from __future__ import annotations

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
        "split": "Split an ONNX graph into models: by modules, by a budget, or by a placement.",
        "run-parts": "Run the parts of a split one after the other, each in memory only while it runs.",
        "join": "Join models into one: the parts of a split, or models end to end or side by side.",
        "graft": "Put a changed part back in its place in an ONNX graph.",
        "select": "Write the nodes of modules for tools that know only node names.",
    },
    "Check": {
        "verify": "Compare what each module of an ONNX graph returns with PyTorch, or with another graph.",
        "run-values": "Run an ONNX graph and keep what its modules return, to compare them elsewhere.",
        "compare": "Compare two ONNX graphs module by module.",
        "validate": "Check an ONNX graph, its tags and its sidecar; repair what can be repaired.",
    },
    "Change": {
        "fold": "Fold modules of an ONNX graph into functions, one for all equal ones.",
        "unfold": "Put the nodes of functions in the place of their calls.",
        "wrap": "Run another tool on an ONNX graph, and carry the tags over to its result.",
        "tune": "Find which modules may be in which precision, to meet a target with few bytes or in little time.",
        "run": "Run a pipeline of passes over an ONNX graph.",
    },
    "Many models": {
        "batch": "Run commands for many models in one process, and leave a report of each job.",
        "report": "Show what the jobs of many models came to, and what changed since another run.",
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
