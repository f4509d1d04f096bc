#!/usr/bin/env python3
"""Counts lines of code of the package, by folder: without docstrings, comments and blank lines.

python scripts/count_lines.py
python scripts/count_lines.py --since 319da30

Files that git tracks are read, so that the figure is that of a commit. With --since, the lines of
an earlier commit stand beside those of now, and the files of `FEATURES`, which did not exist then,
are counted apart. The rest is the price of the earlier features, and of additions to their files
since then: no script can tell these two apart.
"""

import argparse
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


# Features that came after 319da30, the commit of the twelve folders, with the files they brought.
FEATURES = {
    "the service and its page": ("atrous/serve/", "atrous/cli/serve.py", "atrous/cli/page.py"),
    "video": ("atrous/predict/video", "atrous/images/video"),
    "annotations for labelling tools": (
        "atrous/predict/annotate.py", "atrous/predict/pre_annotations.py",
    ),
    "the pictures most worth labelling": ("atrous/predict/next.py",),
    "bulk prediction in processes": (
        "atrous/predict/jobs.py", "atrous/predict/many.py", "atrous/predict/on_ray",
        "atrous/predict/index.py",
    ),
    "networks read back from exported files": ("atrous/weights/exported.py",),
    "training on own data": (
        "atrous/training/finetune.py", "atrous/training/renamed.py", "atrous/data/splitting.py",
        "atrous/data/formats/mask_classes.py", "atrous/training/first_fit.py",
    ),
    "pictures of more than 8 bits": ("atrous/images/rgb.py",),
    "pictures of any channels, on the map": (
        "atrous/data/doctor/channels.py", "atrous/data/normalisation.py", "atrous/images/bands.py",
        "atrous/images/labels_tiff.py", "atrous/images/raster.py", "atrous/predict/polygons.py",
    ),
    "pictures from addresses and object stores": (
        "atrous/images/stores.py", "atrous/images/web.py",
    ),
    "pages of TIFF stacks, names of other kinds": (
        "atrous/images/pages.py", "atrous/images/kinds.py",
    ),
    "several pictures at a time in one process": ("atrous/engines/requests.py",),
    "labels inside exported files": ("atrous/export/labels.py",),
    "bf16 measured to agree": ("atrous/export/agreement.py",),
    "calibrated probabilities": ("atrous/evaluation/calibration.py",),
}  # fmt: skip


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
    print("\nin files that did not exist then, by feature")
    left = dict(now)
    for feature, starts in FEATURES.items():
        new = {name for name in left if name.startswith(starts) and name not in then}
        if new:
            print(f"{sum(left.pop(name) for name in new):6} {feature}")
    print(f"{sum(left.values()):6} all other files, {sum(then.values())} then")
    others = {name: number for name, number in left.items() if name not in then}
    print(f"{sum(others.values()):6} of these in other new files, mostly split off old ones:")
    for name, number in sorted(others.items()):
        print(f"       {number:6} {name}")


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
