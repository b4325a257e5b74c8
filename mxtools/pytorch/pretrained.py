"""Loading Hugging Face models; apart from the rest because it imports transformers."""

from __future__ import annotations

import transformers
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.pipelines import SUPPORTED_TASKS

from mxtools.errors import UsageError


def load(spec: str, task: str | None, trust_remote_code: bool) -> nn.Module:
    """Load a model from a folder or the hub in evaluation mode: of the task's class, else of the config's architecture."""
    config = AutoConfig.from_pretrained(spec, trust_remote_code=trust_remote_code)
    classes = [AutoModel]
    if task:
        classes = list(_task(task))
    elif named := [getattr(transformers, name, None) for name in config.architectures or ()][:1]:
        classes = [*filter(None, named), AutoModel]
    model = classes[0].from_pretrained(spec, config=config, trust_remote_code=trust_remote_code)
    return model.eval()


def _task(task: str) -> tuple[type, ...]:
    if task not in SUPPORTED_TASKS:
        raise UsageError(f"there is no task {task!r}: there are {', '.join(sorted(SUPPORTED_TASKS))}")
    return tuple(SUPPORTED_TASKS[task]["pt"])
