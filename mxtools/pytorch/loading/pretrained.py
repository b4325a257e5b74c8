"""Load Hugging Face models; this is a file of its own because it imports transformers."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import transformers
from huggingface_hub import constants, is_offline_mode
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.pipelines import SUPPORTED_TASKS

from mxtools.errors import InputError, UsageError
from mxtools.pytorch.loading.claims import bytes_of_weights, check_counts, counted

SECONDS = 5
"""How long the hub may take to answer."""


Loaded = tuple[nn.Module, list[str]]
"""A model, and the names of the parameters that its files lack and that are therefore random."""


def load(spec: str, task: str | None, trust_remote_code: bool) -> Loaded:
    """Load a model in evaluation mode, of the task's class or, without a task, of the config's architecture.

    Raises InputError if the hub is needed and cannot be reached.
    """
    is_cut_off = not Path(spec).is_dir() and not _is_hub_reachable()
    try:
        return _loaded(spec, task, trust_remote_code=trust_remote_code, local_files_only=is_cut_off)
    except OSError:
        if not is_cut_off:
            raise
        raise InputError(
            f"the hub cannot be reached, and {spec} is not in its cache", "check the network, or give a folder"
        ) from None


def _is_hub_reachable() -> bool:
    """Return whether the hub answers; the library itself would try for half a minute."""
    if is_offline_mode():
        return False
    if urllib.request.getproxies():  # a proxy reaches what this process does not
        return True
    hub = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), SECONDS).close()
    except OSError:
        return False
    return True


def _loaded(spec: str, task: str | None, **options: bool) -> Loaded:
    folder = Path(spec)
    if not folder.is_dir():
        return _built(spec, task, **options)
    size = bytes_of_weights(folder)
    check_counts(PreTrainedConfig.get_config_dict(spec, **options)[0], size)
    with counted(folder, size):
        return _built(spec, task, **options)


def _built(spec: str, task: str | None, **options: bool) -> Loaded:
    config = AutoConfig.from_pretrained(spec, **options)
    classes: list[Any] = [AutoModel]
    if task:
        classes = list(_task(task))
    elif named := [getattr(transformers, name, None) for name in config.architectures or ()][:1]:
        classes = [*filter(None, named), AutoModel]
    model, found = classes[0].from_pretrained(spec, config=config, output_loading_info=True, **options)
    assert isinstance(model, nn.Module)
    return model.eval(), sorted(found["missing_keys"])


def _task(task: str) -> tuple[Any, ...]:
    if task not in SUPPORTED_TASKS:
        raise UsageError(f"there is no task {task!r}", f"there are {', '.join(sorted(SUPPORTED_TASKS))}")
    entry: Any = SUPPORTED_TASKS[task]
    return tuple(entry["pt"])
