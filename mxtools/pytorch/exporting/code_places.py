"""Who wrote the code of a file, and from which line of the user's code an error comes."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

_INNER = (f"{Path(torch.__file__).parent}/", f"{Path(__file__).parents[2]}/")
_LIBRARIES = tuple(f"{sysconfig.get_paths()[name]}/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_inner(file: str) -> bool:
    """Return whether code is torch's or ours, and so says nothing about the model."""
    return file.startswith((*_INNER, "<")) or f"{Path('site-packages', 'torch')}/" in file


def is_library(file: str) -> bool:
    """Return whether code was installed, and so is not the user's own."""
    return file.startswith(_LIBRARIES) or "site-packages/" in file or "dist-packages/" in file


def chained(error: BaseException) -> list[BaseException]:
    """Return an error and those behind it; the first cause comes last."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    return chain


def where_in_model(error: BaseException, caller: str) -> str:
    """Return file and line of the model's code that an error came from: the user's own, else a library's; or ''.

    `caller` is the file that calls the model. Errors of exporters are chained; the first cause is looked at first.
    """
    for problem in reversed(chained(error)):
        places = list(_frames(problem))
        begin = max((i for i, (file, _) in enumerate(places) if file == caller), default=len(places))
        places = [place for place in places[begin + 1 :] if not is_inner(place[0])]
        own = [place for place in places if not is_library(place[0])] or places
        if own:
            return f"{Path(own[-1][0]).name}:{own[-1][1]}"
    return ""


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    """Yield file and line of the frames that an error passed through, the outermost first."""
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame.f_code.co_filename, step.tb_lineno
        step = step.tb_next
