"""The entry point: it finds the command, imports only that one, and shows every error as one line."""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from mxtools import __version__
from mxtools.errors import CheckError, MxError, speaking, suggestion
from mxtools.files import limits
from mxtools.files.regular import one_command

from .common import say
from .foreign import as_mx_error
from .help import COMMANDS, GROUPS
from .options import OurCommand, prepared
from .page import ABOUT, EPILOG
from .terminal import (
    BROKEN_PIPE,
    INTERRUPTED,
    drop_output,
    end_at_once,
    interrupt_cleanly,
    is_broken_pipe,
    prepare_streams,
    was_interrupted,
)
from .words import WORDS

RUNNING_MODELS = ("trace", "export", "auto", "recommend", "bench", "wrap", "tune", "batch")
"""Commands that run a PyTorch model or another tool."""
FAULT = 70
"""As EX_SOFTWARE of sysexits.h; not 1, because that is an answer."""


class Commands(TyperGroup):
    """A group that knows its commands by name, and imports a command only to run it or to show its own help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return prepared(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's own signature
        """Return the names in the order of work."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a command that has only its first line of help, for lists."""
        if cmd_name not in COMMANDS:
            return None
        group = next(group for group, commands in GROUPS.items() if cmd_name in commands)
        return TyperCommand(name=cmd_name, help=COMMANDS[cmd_name], rich_help_panel=group)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command, which imports its file."""
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        if args and not args[0].startswith("-"):
            near = "write mx COMMAND --help" if args[0] == "help" else suggestion(args[0], COMMANDS)
            ctx.fail(f"there is no command {args[0]!r}: {near}")
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """Import a command's file and return the click command of its function `command`."""
    module = import_module(f".commands.{name.replace('-', '_')}", __package__)
    app = typer.Typer(add_completion=False)
    text = "\n\n".join([COMMANDS[name], *(" ".join(part.split()) for part in module.command.__doc__.split("\n\n"))])
    app.command(name, cls=getattr(module, "Command", OurCommand), help=text)(_guarded(name, module.command))
    return typer.main.get_command(app)


app = typer.Typer(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mx {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback(epilog=EPILOG, help=ABOUT)
def mx(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Read the options of `mx` itself."""


def main() -> None:
    """Run `mx`."""
    end_at_once()
    prepare_streams()
    try:
        status = _run()
        sys.stdout.flush()
    except BaseException as error:  # whatever ends the program: no traceback, and a meaningful status
        status = _ended_by(error)
    sys.exit(status)


def _run() -> int:
    if _command_named() in RUNNING_MODELS:
        _same_order_of_sets()
    else:
        gc.disable()  # a graph is millions of small objects that live as long as the process
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads start slowly, and nothing here needs them
    arguments = _without_general_options(sys.argv[1:])
    status = typer.main.get_command(app)(arguments, prog_name="mx", standalone_mode=False)
    return status if isinstance(status, int) else 0


def _without_general_options(arguments: list[str]) -> list[str]:
    """Return the arguments without the options of all commands, which go into the environment."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    left: list[str] = []
    given = iter(arguments[:end])
    for argument in given:
        if argument == "--debug":
            os.environ["MX_DEBUG"] = "1"
        elif argument.partition("=")[0] == "--limits":
            os.environ[limits.VARIABLE] = argument.partition("=")[2] or next(given, "nothing")
            _check_limits()
        else:
            left.append(argument)
    return left + arguments[end:]


def _check_limits() -> None:
    """End with a message if the limits cannot be raised because the factor is not a number."""
    with speaking(WORDS):
        try:
            limits.factor()
        except MxError as error:
            _say_error("mx", error.status, error.problem, error.remedy)
            raise typer.Exit(error.status) from None


_OURS = Path(limits.__file__).parents[1]
"""The folder of the library."""
_OF_PYDANTIC = "Value error, "
"""What typer's own parser puts before the reason."""


def _ended_by(error: BaseException) -> int:
    """Say in one line why the program ends outside of a command; return the exit status."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort) or was_interrupted():
        return INTERRUPTED
    if is_broken_pipe(error) or (isinstance(error, SystemExit) and is_broken_pipe(error.__context__)):
        drop_output()
        return BROKEN_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if hasattr(error, "format_message"):
        path = _path_of(error)
        text = " ".join(error.format_message().replace(_OF_PYDANTIC, "").split()).rstrip(".")
        if text:  # help that was shown without being asked for has none
            if text in ("No such option: -o", "No such option: --output"):
                text += ": what it writes goes to stdout, as in > FILE"
            _say_error(path, 2, text, f"see `{path} --help`", f"{text} (see `{path} --help`)")
        return 2
    return _failed("mx", error)


def _path_of(error: BaseException) -> str:
    """Return the command whose arguments are wrong; the last option without its value does not know its command."""
    if context := getattr(error, "ctx", None):
        return str(context.command_path)
    return f"mx {_command_named()}" if _command_named() in COMMANDS else "mx"


def _failed(command: str, error: BaseException) -> int:
    """Say what went wrong in a library, in the system or in mxtools itself; return the exit status."""
    found = as_mx_error(error) if isinstance(error, Exception) else None
    if isinstance(error, OSError) or found is None:
        drop_output()
    if os.environ.get("MX_DEBUG"):
        traceback.print_exception(error)
    if found:
        with speaking(WORDS):
            _say_error(command, found.status, found.problem, found.remedy)
        return found.status
    message = " ".join(f"{type(error).__name__}: {error}".split())
    _say_error(command, FAULT, f"unexpected {message[:300]}", "report it with what --debug shows")
    return FAULT


def _say_error(command: str, status: int, problem: str, remedy: str, text: str = "") -> None:
    """Say on stderr why a command ends: in one line, or with --json as an object in one line.

    The object goes to stderr too: stdout has the report, even if the answer is no (status 1), and so a single JSON
    document.
    """
    if wants_json(sys.argv[1:]):
        name = command.removeprefix("mx").strip()
        say(json.dumps({"error": {"command": name, "status": status, "problem": problem, "remedy": remedy}}))
    else:
        say(f"{command}: {text or (f'{problem}: {remedy}' if remedy else problem)}")


def wants_json(arguments: Sequence[str]) -> bool:
    """Return whether arguments, up to another tool's command, ask for JSON."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else len(arguments)]


def _command_named() -> str:
    """Return the command on the command line, which may come after options of all commands; empty without one."""
    return next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")


def _same_order_of_sets() -> None:
    """Start the process again with fixed string hashing: models and tools iterate over sets of strings.

    Otherwise, the trace and the export of a model would differ in the order of calls, and two exports in their bytes.
    """
    if "PYTHONHASHSEED" in os.environ:
        return
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    if os.name == "nt":  # there, a process that executes another one ends at once for the waiting shell
        import subprocess

        sys.exit(subprocess.run([sys.executable, *sys.orig_argv[1:]], env=environment, check=False).returncode)
    os.execve(sys.executable, sys.orig_argv, environment)


def _guarded(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that turns errors into one line and an exit status."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        interrupt_cleanly()
        with speaking(WORDS), _errors_in_one_line(name), _warnings_in_one_line(name), one_command():
            command(*args, **kwargs)
            sys.stdout.flush()

    return guarded


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    """Turn anything that the block raises into a line on stderr and an exit status; `name` is the command's."""
    try:
        yield
    except MxError as error:
        if os.environ.get("MX_DEBUG"):
            traceback.print_exc()
        _say_error(f"mx {name}", error.status, f"{_failed_pass(error)}{error.problem}", error.remedy)
        raise typer.Exit(error.status) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        drop_output()
        raise typer.Exit(BROKEN_PIPE) from None
    except Exception as error:
        if was_interrupted():
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(_failed(f"mx {name}", error)) from None


@contextmanager
def _warnings_in_one_line(name: str) -> Iterator[None]:
    """Show warnings of mxtools as messages of the command `name` when it has ended; an error is the only line."""
    before, told = warnings.showwarning, list[str]()

    def shown(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if Path(filename).is_relative_to(_OURS):
            told.append(str(message))
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = shown
    try:
        yield
    except MxError as error:
        if error.status != CheckError.status:
            told.clear()
        raise
    finally:
        warnings.showwarning = before
        for message in told:
            say(f"mx {name}: {message}")


def _failed_pass(error: MxError) -> str:
    """Return the pass of a user's pipeline that failed, as the beginning of a line; empty for single commands."""
    notes = getattr(error, "__notes__", ())
    return f"{notes[0]}: " if notes and _command_named() == "run" else ""
