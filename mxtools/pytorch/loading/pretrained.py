"""Load Hugging Face models; a file of its own because it imports transformers."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.pipelines import SUPPORTED_TASKS

from mxtools.errors import UsageError


def load(spec: str, task: str | None, trust_remote_code: bool) -> nn.Module:
    """Return a model in evaluation mode, of the task's class or, without a task, of the config's architecture."""
    config = AutoConfig.from_pretrained(spec, trust_remote_code=trust_remote_code)
    classes: list[Any] = [AutoModel]
    if task:
        classes = list(_task(task))
    elif named := [getattr(transformers, name, None) for name in config.architectures or ()][:1]:
        classes = [*filter(None, named), AutoModel]
    model = classes[0].from_pretrained(spec, config=config, trust_remote_code=trust_remote_code)
    assert isinstance(model, nn.Module)
    return model.eval()


def _task(task: str) -> tuple[Any, ...]:
    if task not in SUPPORTED_TASKS:
        raise UsageError(f"there is no task {task!r}", f"there are {', '.join(sorted(SUPPORTED_TASKS))}")
    entry: Any = SUPPORTED_TASKS[task]
    return tuple(entry["pt"])
