"""What other programs make of a model: quantisers, and any tool that has a command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from mxtools.files.temporary import Scratch
from mxtools.model.given import PathText, path_of, selection_of, texts
from mxtools.model.looking import LookingModel
from mxtools.scopes.selection import Selection

if TYPE_CHECKING:
    from mxtools.graph.shapes import Array
    from mxtools.tuning.results import Tuned


class RebuiltModel(LookingModel):
    """The part of the public model that gives it to other programs, and carries its tags over to what they make."""

    def tune(
        self,
        inputs: PathText | Sequence[Mapping[str, Array]],
        target: str,
        to: str | Sequence[str] = ("int8",),
        function: Callable[..., float] | None = None,
        held: PathText | Sequence[Mapping[str, Array]] | None = None,
        budget: int = 20,
        state: PathText | None = None,
        minimise: Literal["bytes", "time"] = "bytes",
        scopes: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        reduce_range: bool = False,
    ) -> Tuned[Self]:
        """Find the smallest model that meets a target, or the fastest; return it with all that was tried.

        `inputs` are sets of inputs: a file, a folder, or mappings; every third is held back from the search, unless
        `held` has others. `target` is as of `mx tune`: "sqnr>=30", or of a `function`, which takes a session of ONNX
        Runtime and the sets, ">=0.99*base". `to` are the precisions that a module may get: "int8", "qdq", "int4",
        "int8-weights", "float16", "bfloat16", and those of other libraries that `mx tune` names. At most `budget`
        models are made; `state` is a file to go on from. Only modules of `scopes`, without those to `exclude`, get
        another precision. `reduce_range` makes weights of 7 bits, for processors without VNNI. Raises UsageError where
        the target or a precision makes no sense, InputError where the model does not run or has no scopes.

        >>> sets = [model.inputs() for _ in range(3)]
        >>> found = model.tune(sets, "sqnr>=20")
        >>> found.met, found.chosen.size < found.size
        (True, True)
        >>> found.model.is_tagged
        True
        """
        from mxtools.tuning.quantisers import Options
        from mxtools.tuning.samples import samples
        from mxtools.tuning.tuning import Request, tune

        self.write_annotations()
        sets = samples(self.proto, path_of(inputs), path_of(held), more=function is not None)
        wanted = selection_of(scopes, (), (), exclude)
        asked = Request(
            target,
            texts(to),
            Options(reduce_range=reduce_range),
            function,
            budget=budget,
            selection=None if wanted == Selection() else wanted,
            state=path_of(state),
            minimise=minimise,
        )
        return tune(self, sets, asked)

    def wrap(self, command: Sequence[str]) -> Self:
        """Run another tool on the tagged model; return its result with the tags carried over.

        `command` runs without a shell; `{in}` and `{out}` in its arguments stand for the files that it reads and
        writes. Its output goes to stderr. Raises UsageError if it cannot be run, InputError if it fails.

        >>> model.wrap(["cp", "{in}", "{out}"]).is_tagged
        True
        """
        from mxtools.strategies.wrap import wrap
        from mxtools.tools.external import check_command

        check_command(command)
        self.require_tagged()
        self.write_annotations()
        scratch = Scratch()
        made, _ = wrap(self, command, scratch.folder, sys.stderr.buffer)
        made.weights.kept.append(scratch)
        made.name = self.name
        return made
