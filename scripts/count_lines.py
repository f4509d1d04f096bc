#!/usr/bin/env python3
"""Counts lines of code of the package, by folder: without docstrings, comments and blank lines.

Files that git tracks are read, so that the figure is that of a commit.
"""

import ast
import io
import subprocess
import tokenize
from collections import Counter
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


def main() -> None:
    """Prints lines of code and of comments and docstrings for each folder, and the sum."""
    listed = subprocess.run(
        ["git", "ls-files", "atrous/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, words = Counter[str](), Counter[str]()
    for name in listed.stdout.splitlines():
        text = (ROOT / name).read_text()
        parts = name.split("/")
        folder = parts[1] if len(parts) > 2 else "(top)"
        lines = code_lines(text)
        code[folder] += len(lines)
        filled = {number for number, line in enumerate(text.splitlines(), 1) if line.strip()}
        words[folder] += len(filled - lines)
    for folder in sorted(code):
        print(f"{folder:12} {code[folder]:6} code {words[folder]:6} comments and docstrings")
    print(f"{'all':12} {code.total():6} code {words.total():6} comments and docstrings")


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
