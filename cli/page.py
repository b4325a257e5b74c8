"""Help as text without colours, for files and pipes: in typer's layout, without the libraries that typer needs.

Importing rich takes longer than everything else that help does. If there are colours, typer shows the help; tests
compare both.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from .help import COMMANDS, GROUPS

ASKS = (["--help"], ["-h"])
"""The arguments that ask for the front page."""
USAGE = "Usage: mx [OPTIONS] COMMAND [ARGS]..."
ABOUT = """Give ONNX graphs their PyTorch module hierarchy back.

mx trace MODEL -o model.trace.json

mx export MODEL | mx tag --trace model.trace.json | mx filter --scope 'encoder.layer.0' > layer0.onnx"""
EPILOG = (
    "Every command takes --debug, which shows the traceback of an error, and --limits N, which lets files "
    "expand N times as far as usual before they are refused."
)
_SHOWING = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "TTY_COMPATIBLE", "TYPER_USE_RICH")
"""Variables that change the output of rich or typer."""
_WORD = re.compile(r"\s*\S+\s*")
_USUAL_WIDTH = 80


class Parameter(NamedTuple):
    """A line of a table of parameters.

    Attributes: `cells`, an asterisk if it is required, its long and its short names, those of its opposite, and its
    type; `help`, its text and what follows in brackets behind or below it.
    """

    cells: tuple[str, str, str, str, str, str]
    help: tuple[str, ...]


OPTIONS = (
    Parameter(("", "--version", "", "", "", ""), ("Show the version.",)),
    Parameter(("", "--install-completion", "", "", "", ""), ("Install completion for the current shell.",)),
    Parameter(
        ("", "--show-completion", "", "", "", ""),
        ("Show completion for the current shell, to copy it or customize the installation.",),
    ),
    Parameter(("", "--help", "-h", "", "", ""), ("Show this message and exit.",)),
)
"""What typer offers on the front page."""


def plain_width() -> int | None:
    """Return how many characters a line of help has; None if help may have colours, or lacks characters."""
    encoding = getattr(sys.stdout, "encoding", None) or ""
    if any(name in os.environ for name in _SHOWING) or sys.stdout.isatty() or not encoding.lower().startswith("utf"):
        return None
    if (columns := os.environ.get("COLUMNS", "")).isdigit():
        return int(columns)
    for stream in (0, 1, 2):  # as in rich: any of them may be the terminal of a pipe
        try:
            return os.get_terminal_size(stream).columns or _USUAL_WIDTH
        except OSError:
            continue
    return _USUAL_WIDTH


def front_page(width: int) -> str | None:
    """Return the help of `mx`; None if lines are too short for its tables."""
    options = parameters("Options", OPTIONS, width)
    if options is None:
        return None
    groups = [panel(group, commands(listed, width), width) for group, listed in GROUPS.items()]
    return page(USAGE, ABOUT, [options, *groups], EPILOG, width)


def command_page(command: Any, context: Any, width: int) -> str | None:
    """Return the help of one of typer's commands; None if lines are too short for its tables."""
    shown = [parameter for parameter in command.get_params(context) if not parameter.hidden]
    panels = []
    for title, is_argument in (("Arguments", True), ("Options", False)):
        rows = [_row(each, context) for each in shown if (each.param_type_name == "argument") is is_argument]
        if rows:
            made = parameters(title, rows, width)
            if made is None:
                return None
            panels.append(made)
    return page(command.get_usage(context), command.help or "", panels, command.epilog or "", width)


def _row(parameter: Any, context: Any) -> Parameter:
    """Return one of typer's parameters as a line of a table."""
    is_argument = parameter.param_type_name == "argument"
    label = parameter.display_name_raw if is_argument else ""
    if is_argument and parameter.metavar is None and parameter.nargs != 1:
        label += "..."
    names = [
        ",".join((name if is_long else label or name) for name in given if ("--" in name) is is_long)
        for given in (parameter.opts, parameter.secondary_opts)
        for is_long in (True, False)
    ]
    limits = parameter._get_number_range_help_str()
    kind = (parameter.display_type_rich(ctx=context) or "") + (f" [{limits}]" if limits else "")
    text = [parameter.help] if parameter.help else []
    if parameter.envvar and parameter.show_envvar:
        text.append(f"[env var: {parameter.envvar}]")
    text += _default(parameter, context)
    if parameter.required:
        text.append("[required]")
    return Parameter(("*" if parameter.required else "", names[0], names[1], names[2], names[3], kind), tuple(text))


def _default(parameter: Any, context: Any) -> list[str]:
    """Return the default of one of typer's parameters, in brackets, if it is shown."""
    value, is_text = parameter._extract_default_help_str(ctx=context), isinstance(parameter.show_default, str)
    if not is_text and (value is None or not (parameter.show_default or context.show_default)):
        return []
    text = parameter._get_default_string(ctx=context, show_default_is_str=is_text, default_value=value)
    return [f"[default: {text}]"] if text else []


def page(usage: str, about: str, panels: Iterable[list[str]], epilog: str, width: int) -> str:
    """Return a page of usage, paragraphs, panels and a last paragraph."""
    lines = ["", *wrapped(usage, width - 2), "", *wrapped(about, width - 2), ""]
    end = ["", *wrapped(epilog, width - 2), ""] if epilog else []
    framed = [line for each in panels for line in each]
    padded = [[f" {line:{width - 2}} " for line in part] for part in (lines, end)]
    return "\n".join([*padded[0], *framed, *padded[1], "", ""])


def panel(title: str, lines: Iterable[str], width: int) -> list[str]:
    """Return lines in a frame with a title."""
    top = f"╭─ {title} ".ljust(width - 1, "─") + "╮"
    return [top, *(f"│ {line:{width - 4}} │" for line in lines), f"╰{'─' * (width - 2)}╯"]


def commands(listed: dict[str, str], width: int) -> list[str]:
    """Return a table of commands and what they do."""
    room = max(map(len, COMMANDS)) + 2
    return [
        f"{start:{room}}{line}"
        for name, text in listed.items()
        for start, line in zip_longest([name], wrapped(text, width - 4 - room), fillvalue="")
    ]


def parameters(title: str, rows: Sequence[Parameter], width: int) -> list[str] | None:
    """Return a table of parameters in a frame; None if a text has less room than another column, or a long word."""
    columns = list(zip(*(row.cells for row in rows), strict=True))
    if not any(columns[0]):
        del columns[0]
    # rich leaves a space on both sides of each column, but none at the edges
    widths = [max(map(len, column)) + (1 if place == 0 else 2) for place, column in enumerate(columns)]
    left = width - 4 - sum(widths)
    if left < max(*widths, *(len(word) + 1 for row in rows for text in row.help for word in text.split())):
        return None
    lines = []
    for row in rows:
        cells = row.cells[-len(columns) :]
        head = "".join(
            f"{'' if place == 0 else ' '}{cell}".ljust(room)
            for place, (cell, room) in enumerate(zip(cells, widths, strict=True))
        )
        texts = side_by_side(row.help, left - 1) or [""]
        lines += [f"{start:{sum(widths)}} {text}" for start, text in zip_longest([head], texts, fillvalue="")]
    return panel(title, lines, width)


def side_by_side(texts: Sequence[str], width: int) -> list[str]:
    """Return texts in lines: in columns, as many beside each other as there is room for."""
    count = len(texts)
    while count > 1:
        rooms = [max(map(len, texts[place::count])) for place in range(count)]
        fitting = next((n for n in range(1, count + 1) if sum(rooms[:n]) + n - 1 > width), None)
        if fitting is None:
            break
        count = fitting - 1
    if count < 2:
        return [line for text in texts for line in wrapped(text, width)]
    rows = [texts[start : start + count] for start in range(0, len(texts), count)]
    return [" ".join(f"{text:{room}}" for text, room in zip(row, rooms, strict=False)) for row in rows]


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of limited length, broken between words; each line of the text begins a new line."""
    return [line for given in text.split("\n") for line in _wrapped(given, width)]


def _wrapped(text: str, width: int) -> list[str]:
    lines, used = [""], 0
    for word in _WORD.findall(text):
        bare = word.rstrip()
        if used + len(bare) > width and used:
            lines.append("")
            used = 0
        while len(word.rstrip()) > width:
            lines[-1] += word[:width]
            word = word[width:]
            lines.append("")
        lines[-1] += word
        used = len(lines[-1])
    return [line.rstrip() for line in lines]
