"""Runs the code blocks of a document, in one folder and in their order.

`atrous` in a block is a process forked from one that has imported torch: an import costs seconds,
and a document has up to seven commands. `tests/cli` starts real processes.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE_RUNTIME = ROOT / "atrous" / "serve" / "page" / "onnxruntime"
SHORT = "--steps 2 --evaluate-every 2"
FETCHES = ("npm install", "pip install")  # blocks that ask a registry


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    code: str
    skipped: str  # the reason, or empty
    line: int


def blocks(text: str) -> list[Block]:
    found = []
    pattern = r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)```"
    for match in re.finditer(pattern, text, re.DOTALL):
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["language"], match["code"], (match["why"] or "").strip(), line))
    return found


def shortened(code: str) -> str:
    """Code whose training takes two steps instead of those printed, and loops first and last."""
    code = re.sub(r"(?m)^(for \w+ in \S+)(?: \S+)*( \S+; do)$", r"\1\2", code)
    code = re.sub(r" --(minutes|epochs|steps) \S+", "", code)
    code = re.sub(
        r"(atrous train (?!--resume)\w+[^\n#]*?)(\s*(?:#.*)?)$", rf"\1 {SHORT}\2", code,
        flags=re.MULTILINE,
    )  # fmt: skip
    return re.sub(r"\b(minutes|epochs)=\d+", "steps=2", code)


def check(
    document: str, folder: Path, programs: Path, *, short: bool = True, after: str = ""
) -> None:
    """Runs a document's blocks, then the code `after` among the names of its Python blocks.

    Args:
        document: Path below the repository.
        folder: Where they run.
        programs: Folder with the command `atrous`: see `commands`.
        short: Whether training takes two steps, and nothing is fetched.
        after: More Python.
    """
    with Interpreter(folder, environment(programs)) as interpreter:
        for block in blocks((ROOT / document).read_text()):
            code = shortened(block.code) if short else block.code
            if block.skipped or (short and any(word in code for word in FETCHES)):
                continue
            failure = run(block.language, code, folder, interpreter)
            assert not failure, f"{document}:{block.line}\n{code}\n{failure[-2000:]}"
        assert not after or not (failure := interpreter.run(after)), failure


def run(language: str, code: str, folder: Path, interpreter: "Interpreter") -> str:
    """Runs a block, or writes the file that its first line names; returns what went wrong."""
    if named := re.match(r"// (\S+\.\w+)\n", code):
        (folder / named[1]).write_text(code)
    elif language == "python":
        return interpreter.run(code)
    elif language == "bash" and not lacking(code):
        done = subprocess.run(
            ["bash", "-euo", "pipefail"], input=code, cwd=folder, env=interpreter.environment,
            text=True, capture_output=True,
        )  # fmt: skip
        return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stderr}"
    return ""


def lacking(code: str) -> list[str]:
    """Returns the programs of other languages that a block calls and this machine lacks."""
    return [
        name
        for name in ("g++", "node", "npm")
        if re.search(rf"^{re.escape(name)} ", code, re.MULTILINE) and not shutil.which(name)
    ]


def environment(programs: Path) -> dict[str, str]:
    folders = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(folders),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


class Interpreter:
    """A Python process that runs one block after the other, started with the first."""

    LOOP = (
        "import json, sys, traceback\n"
        "names, answers = {'__name__': '__main__'}, sys.stdout\n"
        "sys.stdout = sys.stderr\n"
        "for line in sys.stdin:\n"
        "    try: exec(json.loads(line), names); failure = ''\n"
        "    except BaseException: failure = traceback.format_exc()\n"
        "    print(json.dumps(failure), file=answers, flush=True)\n"
    )

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.process: subprocess.Popen[str] | None = None

    def run(self, code: str) -> str:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.LOOP], cwd=self.folder, env=self.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else "the process ended"

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait(60)


# Runs `atrous` with the arguments, folder and streams of whoever connects.
SERVER = """
import json, os, signal, socket, sys
import torch, atrous.cli
signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, os.WNOHANG))
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    os.write(1, b"ready\\n")
    while True:
        client, _ = listener.accept()
        with client:
            if os.fork():
                continue
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            message, streams, *_ = socket.recv_fds(client, 1 << 16, 3)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            sys.stdin, sys.stdout, sys.stderr = map(open, (0, 1, 2), "rww")
            folder, arguments = json.loads(message)
            os.chdir(folder)
            code = 0
            try:
                atrous.cli.main(arguments)
            except SystemExit as end:
                code = end.code or 0
            sys.stdout.flush()
            client.send(bytes([code]))
            os._exit(code)
"""
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([os.getcwd(), sys.argv[1:]]).encode()], [0, 1, 2])
    sys.exit((server.recv(1) or b"\\x01")[0])
"""


@contextlib.contextmanager
def commands() -> Iterator[Path]:
    """Yields a folder with the command `atrous`."""
    with tempfile.TemporaryDirectory(prefix="atrous") as folder:
        address = f"{folder}/socket"
        command = Path(folder, "atrous")
        command.write_text(CLIENT.format(python=sys.executable, address=address))
        command.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, address],
            env=environment(Path(folder)),
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout.readline() == b"ready\n"
            yield Path(folder)
        finally:
            server.stdout.close()
            server.kill()
            server.wait()


def runtime_of_the_page(folder: Path) -> None:
    """Writes `onnxruntime-node` with the same interface: ONNX Runtime Web, which the page has."""
    package = folder / "node_modules" / "onnxruntime-node"
    package.mkdir(parents=True)
    (package / "index.js").write_text(
        f"""
const {{ readFileSync }} = require("node:fs"), {{ gunzipSync }} = require("node:zlib");
const files = {json.dumps(str(PAGE_RUNTIME))};
const runtime = import(files + "/ort.wasm.bundle.min.mjs").then((ort) => {{
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = gunzipSync(readFileSync(files + "/ort-wasm-simd-threaded.wasm.gz"));
  exports.Tensor = ort.Tensor;
  return ort;
}});
exports.InferenceSession = {{
  create: async (file) => (await runtime).InferenceSession.create(readFileSync(file)),
}};
"""
    )
