"""`mx wrap`."""

from __future__ import annotations

import sys
from typing import Any

from typer import Context as Invocation

from ..common import changed, check_json, emit, read_model, say, size_of, tagged
from ..options import DataDir, Inputs, Json, OurCommand, Output, Source, Trace
from ..streams import check_output, is_pipe, write_model


class Command(OurCommand):
    """A command that does not parse the words after `--`, but gives them to its function as `context.obj`."""

    rest = "COMMAND {in} {out}"

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line."""
        return [*super().collect_usage_pieces(ctx), f"-- {self.rest}"]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments before `--`, and keep those after it as `ctx.obj`."""
        end = args.index("--") if "--" in args else len(args)
        if end == len(args) and not {"--help", "-h"}.intersection(args):
            ctx.fail("there is no -- with a command after it: write mx wrap [ONNX] -- COMMAND {in} {out}")
        ctx.obj = args[end + 1 :]
        return super().parse_args(ctx, args[:end])


def command(
    context: Invocation,
    source: Source = "-",
    output: Output = "-",
    trace: Trace = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Runs COMMAND with file names in place of {in} and {out}, and carries the tags over as `mx tag --from` does.

    No shell is used. What the tool prints goes to stderr. With --inputs, values are used as evidence too. Files that
    the tool writes besides {out} and its external data are removed.

    Example: mx wrap bert.tagged.onnx -o bert.slim.onnx -- onnxslim {in} {out}
    """
    from mxtools.files.temporary import Scratch
    from mxtools.strategies.wrap import wrap
    from mxtools.tools.external import check_command

    tool: list[str] = context.obj
    check_json(json, output)
    check_command(tool)
    check_output(output, replacing=source)
    model = read_model(source, data_dir, trace, inputs)
    model.require_tagged("the earlier model")
    before = size_of(model)
    with Scratch() as scratch:
        made, steps = wrap(model, tool, scratch, sys.stderr.buffer, inline=is_pipe(output))
        write_model(made, output, data_dir)
    data, words = tagged(steps)
    if json:
        emit(data)
    else:
        say(f"mx wrap: {words}; {changed(before, size_of(made))}")
