"""The code blocks of the docs."""

from __future__ import annotations

import re
import textwrap

from tests.support.paths import ROOT


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def script(page: str) -> str:
    """Return all shell and Python blocks of a page as one shell script, in their order."""
    found = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    steps = [(language, textwrap.dedent(code)) for language, code in found]
    lines = [code if language == "sh" else f"python - <<'END'\n{code}\nEND" for language, code in steps]
    return "\n".join(["set -eu", *lines])
