"""Check the ONNX models of a Git repository, compare those that changed with a base, and write a comment in Markdown.

    python action/check.py [--base REF] [--comment FILE] [--fail-on errors|changes|never] [PATTERN…]

The steps of `action.yml`; it runs anywhere in the same way, in a folder of the repository, with the `python` for which
mxtools is installed. Without `--base` all models are checked, otherwise those that changed since HEAD left it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path, PurePosixPath

import mxtools
from mxtools.errors import MxError, printable
from mxtools.files.outputs import named_in

MARK = "<!-- mxtools: models -->"
"""By its first line a comment is found again, and replaced."""
LONGEST = 60_000
"""Characters of a comment: GitHub takes 65 536."""
SHOWN = 20
"""Findings of a model that the comment lists."""
ERROR, CHANGE = "error", "change"
"""What the check can fail on."""
NO_CHANGE = "no difference"


@dataclass(frozen=True)
class Row:
    """What is said of one model: a cell each on whether it is valid and what changed, and details below the table."""

    model: str
    valid: str = ""
    change: str = ""
    details: str = ""
    kinds: frozenset[str] = frozenset()


def main() -> int:
    """Check, write the comment, and return the exit status."""
    options = _options()
    base = _base(options.base) if options.base else ""
    patterns = [f":(glob){pattern}" for pattern in options.patterns or ["**/*.onnx"]]
    rows = list(_rows(patterns, base))
    text = comment(rows, options.base)
    if options.comment:
        options.comment.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    failing = {"errors": {ERROR}, "changes": {ERROR, CHANGE}, "never": set[str]()}[options.fail_on]
    return int(any(row.kinds & failing for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check ONNX models, and compare those that changed with a base.")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="models; by default **/*.onnx")
    parser.add_argument("--base", default="", metavar="REF", help="branch or commit to compare with")
    parser.add_argument("--comment", type=Path, metavar="FILE", help="file to write; by default stdout")
    parser.add_argument("--fail-on", default="errors", choices=("errors", "changes", "never"))
    return parser.parse_args()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], stdout=subprocess.PIPE, check=True).stdout


def _names(*arguments: str) -> list[str]:
    return [name.decode("utf-8", "surrogateescape") for name in _git(*arguments).split(b"\0") if name]


def _base(ref: str) -> str:
    """Return the commit where HEAD left a branch; in a clone without so much history the branch itself."""
    found = subprocess.run(["git", "merge-base", ref, "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or _git("rev-parse", "--verify", f"{ref}^{{commit}}").decode().strip()


def _rows(patterns: list[str], base: str) -> Iterator[Row]:
    """Yield a row for each model to speak of, in the order of names."""
    models = _names("ls-files", "-z", "--", *patterns)
    if not base:
        yield from map(_validated, models)
        return
    changed = set(_names("diff", "--name-only", "--no-renames", "--relative", "-z", base, "--"))
    removed = _names(
        "diff", "--name-only", "--no-renames", "--relative", "--diff-filter=D", "-z", base, "--", *patterns
    )
    for model in sorted({*models, *removed}):
        if model in removed:
            yield Row(model, change="removed", kinds=frozenset({CHANGE}))
        elif changed.intersection({model, *_data(Path(model), model)}):
            yield _compared(model, base)


def _data(file: Path, model: str) -> set[str]:
    """Return the files of external data that a model names, as names in the repository."""
    return {str(PurePosixPath(model).parent / location) for location in named_in(file)}


def _compared(model: str, base: str) -> Row:
    """Return the row of a model that is new or changed."""
    row = _validated(model)
    if ERROR in row.kinds and not row.details:
        return replace(row, kinds=row.kinds | {CHANGE})  # it cannot be read
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        is_new = not _restored(model, base, old)
        change, table = ("new", "") if is_new else _difference(old / model, Path(model), Path(folder))
    kinds = row.kinds if change == NO_CHANGE else row.kinds | {CHANGE}
    return replace(row, change=change, details=row.details + table, kinds=kinds)


def _restored(model: str, base: str, folder: Path) -> bool:
    """Write a model of an earlier commit, and its external data, into a folder; tell whether there was one.

    Filters run, so that what Git LFS keeps elsewhere is fetched.
    """

    def written(name: str) -> bool:
        line = ["git", "cat-file", "--filters", f"{base}:./{name}"]
        found = subprocess.run(line, capture_output=True, check=False)
        if not found.returncode:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(found.stdout)
        return not found.returncode

    if not written(model):
        return False
    for name in _data(folder / model, model):
        if ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute():
            written(name)
    return True


def _difference(old: Path, new: Path, folder: Path) -> tuple[str, str]:
    """Return how two models differ, in a line and as a table in Markdown; what has no tags is tagged first."""
    try:
        before = old if _is_tagged(old) else _tagged(old, folder / "before.onnx")
        after = new if _is_tagged(new) else _tagged(new, folder / "after.onnx", "--from", str(before))
    except MxError as error:
        return f"cannot be compared: {printable(str(error))}", ""
    done = _mx("compare", before, after, "--markdown")
    said = done.stderr.strip().removeprefix("mx compare: ").removesuffix(": see the table")
    if done.returncode > 1:
        return f"cannot be compared: {said}", ""
    return said if done.returncode else NO_CHANGE, f"\n{done.stdout}"


def _is_tagged(file: Path) -> bool:
    return mxtools.load(file).is_tagged


def _tagged(file: Path, target: Path, *options: str) -> Path:
    done = _mx("tag", file, "-o", target, *options)
    if done.returncode:
        raise mxtools.InputError(done.stderr.strip())
    return target


def _validated(model: str) -> Row:
    """Return what `mx validate` says of a model; that a whole model has no tags is no fault of it."""
    done = _mx("validate", model, "--json")
    if done.returncode > 1:
        return Row(model, _reason(done.stderr), kinds=frozenset({ERROR}))
    findings = json.loads(done.stdout)["findings"]
    findings = [finding for finding in findings if finding["rule"] != "untagged" or "node" in finding]
    counts = Counter(finding["severity"] for finding in findings)
    counted = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())
    lines = [_line(finding) for finding in findings[:SHOWN]]
    lines += [f"and {len(findings) - SHOWN} more"] if len(findings) > SHOWN else []
    details = "".join(f"<li>{escape(line)}</li>\n" for line in lines)
    kinds = frozenset({ERROR}) if counts[ERROR] else frozenset[str]()
    return Row(model, counted or "yes", details=f"<ul>\n{details}</ul>\n" if lines else "", kinds=kinds)


def _reason(said: str) -> str:
    """Return why a command with `--json` failed; its last line says it, unless the command crashed."""
    last = (said.strip().splitlines() or ["no reason is known"])[-1]
    try:
        error = json.loads(last)["error"]
    except (ValueError, TypeError, KeyError):
        return last.removeprefix("mx validate: ")
    return ": ".join(filter(None, (error["problem"], error.get("remedy"))))


def _line(finding: dict[str, str]) -> str:
    place = " in ".join(part for part in (finding.get("node"), finding.get("scope")) if part)
    parts = finding["severity"], finding["rule"], place, finding["reason"], finding["remedy"]
    return printable(": ".join(part for part in parts if part))


def _mx(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mxtools_cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, encoding="utf-8", check=False)


def comment(rows: Iterable[Row], base: str) -> str:
    """Return the comment: a table with a line for each model, and details to open, as long as they fit."""
    rows = list(rows)
    versus = f"compared with {_code(base)}" if base else ""
    if not rows:
        return f"{MARK}\n### ONNX models\n\nNo model {'changed' if base else 'found'}.\n"
    lines = [MARK, "### ONNX models", "", f"| model | valid | {versus} |", "|---|---|---|"]
    lines += [f"| {_code(row.model)} | {_cell(row.valid)} | {_cell(row.change)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    for row in rows:
        if row.details:
            part = f"\n<details><summary>{_code(row.model)}</summary>\n\n{row.details}\n</details>\n"
            if len(text) + len(part) > LONGEST:
                return (
                    f"{text}\nThe other details are too long for a comment: `mx compare` and `mx validate` show them.\n"
                )
            text += part
    return text


def _code(text: str) -> str:
    return f"<code>{_cell(text)}</code>"


def _cell(text: str) -> str:
    """Return text that means nothing in a table in Markdown, nor in HTML."""
    safe = escape(printable(text))
    return "".join(f"&#{ord(letter)};" if letter in "|`*_[]\\~@#" else letter for letter in safe)


if __name__ == "__main__":
    sys.exit(main())
