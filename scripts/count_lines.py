#!/usr/bin/env python3
"""Counts lines of code of the package, by folder: without docstrings, comments and blank lines.

python scripts/count_lines.py
python scripts/count_lines.py --since 319da30

Files that git tracks are read, so that the figure is that of a commit. With --since, the lines of
an earlier commit stand beside those of now, and what each commit since then added: those of
`FEATURES` one by one, all others as a sum, which is the change for the same features.
"""

import argparse
import ast
import io
import subprocess
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


# Commits after 319da30, the commit of the twelve folders, that brought a feature or the handling of
# a fault. All others changed how the same things are done.
FEATURES = """
    65f8d33 1c3505b 41dcab3 23b8427 c01e3eb 348ae5e fbc9def 1c8a80e d06fd94 fe9c635
    48172f0 852a970 c098cd2 fe791c9 b92fcad c1df697 58cf4d9 78c341b 74a5fad 8394a4a
    40faf19 702fa4e 9084fa9 3e7c157 b7311ff 8cee748 d3e64a5 692c6ab 1014281 e88de1c
    66aa567 b0921fc f1ef23c 4ee7d6f 5fdebbf cfd176a b0f080b 3b5868c 5e5425b
"""


def main() -> None:
    """Prints lines of code and of comments and docstrings for each folder, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--since", metavar="COMMIT", help="compare with an earlier commit")
    since = parser.parse_args().since
    code, words = Counter[str](), Counter[str]()
    now = {name: (ROOT / name).read_text() for name in _git("ls-files", "atrous/*.py")}
    for name, text in now.items():
        lines = code_lines(text)
        code[_folder(name)] += len(lines)
        filled = {number for number, line in enumerate(text.splitlines(), 1) if line.strip()}
        words[_folder(name)] += len(filled - lines)
    for folder in sorted(code):
        print(f"{folder:12} {code[folder]:6} code {words[folder]:6} comments and docstrings")
    print(f"{'all':12} {code.total():6} code {words.total():6} comments and docstrings")
    if since:
        _compare(since, {name: len(code_lines(text)) for name, text in now.items()})


def _compare(commit: str, now: dict[str, int]) -> None:
    names = [n for n in _git("ls-tree", "-r", "--name-only", commit, "atrous") if n.endswith(".py")]
    then = {name: len(code_lines("\n".join(_git("show", f"{commit}:{name}")))) for name in names}
    before, after = Counter[str](), Counter[str]()
    for counts, lines in ((before, then), (after, now)):
        for name, number in lines.items():
            counts[_folder(name)] += number
    print(f"\n{'folder':12} {commit:>9} {'now':>6}")
    for folder in sorted({*before, *after}):
        print(f"{folder:12} {before[folder]:9} {after[folder]:6}")
    print(f"{'all':12} {before.total():9} {after.total():6}")
    print("\ncommits that brought a feature or the handling of a fault")
    features, rest = FEATURES.split(), []
    for line in _git("log", "--no-merges", "--reverse", "--format=%h %s", f"{commit}.."):
        hash_, _, subject = line.partition(" ")
        added = _added(hash_)
        if any(hash_.startswith(feature) for feature in features):
            print(f"{added:+6} {hash_} {subject[:80]}")
        elif added:
            rest.append(added)
    print(f"{sum(rest):+6} all {len(rest)} other commits that changed the number of lines")


def _added(commit: str) -> int:
    """Returns how many lines of code a commit added to the package."""
    lines = 0
    for row in _git("diff-tree", "-r", "--no-commit-id", "--abbrev=40", commit, "--", "atrous"):
        facts, name = row.split("\t")
        if name.endswith(".py"):
            before, after = facts.split()[2:4]
            lines += _lines_of(after) - _lines_of(before)
    return lines


@cache
def _lines_of(blob: str) -> int:
    return 0 if set(blob) == {"0"} else len(code_lines("\n".join(_git("cat-file", "-p", blob))))


def _folder(name: str) -> str:
    parts = name.split("/")
    return parts[1] if len(parts) > 2 else "(top)"


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def code_lines(text: str) -> set[int]:
    """Returns the numbers of the lines that hold code."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


if __name__ == "__main__":
    main()
