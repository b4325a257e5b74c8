"""Work that several calls did and an exporter computed once, as seen from the calls that are cut out.

    a ─ Gemm ─p─ Where ─w─┬─ MatMul     block 0 has Gemm, Where and the first MatMul
                          └─ MatMul     block 1 has the second

    PyTorch ran: block 0 returned p; block 1 was given p, and ran the same Where on it

A cut that looks only at the readers of each value would let block 0 return `w`, which it never returned, instead of
`p`. But what is cut out for block 1 has its own copy of the Where. So block 1 needs `p` from block 0, and nothing needs
`w`.

Two transpositions in a row are also computed once: block 0 returns a transposed tensor, block 1 transposes it again.
The exporter makes one transposition of both, which reads what the first one reads. Block 0 never returned that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mxtools.scopes.annotations import Annotations


class EqualWork:
    """Tells which readers take the results of nodes in some calls, and which calls have copies of the nodes."""

    def __init__(self, annotations: Annotations, calls: Collection[int]) -> None:
        """Take the calls that are cut out; without any, there are no copies."""
        self._annotations, self._calls = annotations, calls

    def is_copied(self, node: int) -> bool:
        """Return whether a call elsewhere has its own copy of a node in the calls."""
        return any(True for _ in self._copies(node))

    def takes(self, reader: int, node: int) -> bool:
        """Return whether a reader elsewhere, or a copy of it, takes the result of a node in the calls.

        It does not if an equal call that is nearer to it has this result too. Calls that are equally near count all:
        what is cut out for one of them may return more than the module did, but not less. Nor does it if it transposes
        what the calls return transposed: exporters make one transposition of two in a row.
        """
        call = self._annotations.call[node]
        if call is None or not self._calls:
            return True
        if self._transposes_again(reader):
            return False
        own = self._annotations.call[reader]
        places = [*self._copies(reader), *([] if own in self._calls else [own])]
        serving = self._annotations.all_serving
        return any(at is None or any(c in self._calls for c in serving(node, call, at)) for at in places)

    def _transposes_again(self, reader: int) -> bool:
        """Return whether a reader does the last transposition of one of the calls, which also has its own."""
        done = self._annotations.merged.get(reader, ())
        ending = self._annotations.ending_in(reader) if done else done
        return any(call in self._calls and call not in ending for call in done)

    def _copies(self, node: int) -> Iterator[int]:
        return (c for c in self._annotations.equal_at.get(node, ()) if self._calls and c not in self._calls)
