"""Prints tables of the documents from the committed results.

    python benchmarks/tables.py            # prints the tables
    python benchmarks/tables.py --write    # puts them into docs/

Speed claims stand side by side for all processors: every result lies in
results/NAME.PROCESSOR.json, and whoever runs the benchmarks on another processor adds a column.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import voc_subset
from measuring import RESULTS

DOCUMENTS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- table: python benchmarks/tables.py -->", "<!-- end of table -->"

Value = Callable[[dict[str, Any]], str]


def times(value: float) -> str:
    """Writes a ratio."""
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def ratio(*keys: str) -> Value:
    """Reads a ratio of a result."""

    def read(result: dict[str, Any]) -> str:
        for key in keys:
            result = result[key]
        return times(float(result))  # type: ignore[arg-type]

    return read


def per_multiply_add(what: str) -> Value:
    """Reads a ratio of engines.py, with the raw one in brackets."""

    def read(result: dict[str, Any]) -> str:
        found = result["ratios"][what]
        return f"{times(found['per multiply-add'])} ({times(found['raw'])})"

    return read


def training(backbone: str, crop: int, contender: str) -> Value:
    """Reads how many times as long an update of a contender takes."""

    def read(result: dict[str, Any]) -> str:
        (row,) = (r for r in result["rows"] if (r["backbone"], r["crop"]) == (backbone, crop))
        return times(row["ratio_of_seconds"][contender])

    return read


FP32, INT8 = "fp32 against the peer's best fp32", "int8 against the peer's best int8"
NETWORKS = {"mobilenet_v2": "MobileNetV2", "xception65": "Xception-65", "resnet101": "ResNet-101"}

# claim, script, result, how to read it
CLAIMS: list[tuple[str, str, str, Value]] = [
    *(
        (f"{name}, {what}", "engines.py", f"engines_{network}", per_multiply_add(what))
        for what in (FP32, INT8)
        for network, name in NETWORKS.items()
        if (network, what) != ("resnet101", INT8)
    ),
    ("MobileNetV2, int8 against eager PyTorch", "engines.py", "engines_mobilenet_v2",
     per_multiply_add("int8 against eager")),
    ("MobileNetV2, both in OpenVINO's default precision", "engines.py", "engines_mobilenet_v2",
     per_multiply_add("OpenVINO's default precision, both")),
    ("labels from logits, against interpolate + argmax", "labels.py", "labels",
     ratio("ratios", "torch interpolate + argmax")),
    ("a photograph to files, cold process: time", "cold.py", "cold", ratio("ratios", "seconds")),
    ("the same: memory", "cold.py", "cold", ratio("ratios", "peak_megabytes")),
    ("an update of training, MobileNetV2 at 513, against the peer", "training.py", "training",
     training("mobilenet_v2", 513, "smp")),
    ("an update of training, ResNet-101 at 513, against the peer", "training.py", "training",
     training("resnet101", 513, "smp")),
    ("`atrous train scenes`", "scenes.py", "scenes", lambda r: f"{r['seconds']:.0f} s"),
    ("loading training pictures, against torchvision", "data.py", "data",
     ratio("median_of_ratios", "atrous / torchvision")),
    ("confusion matrix, against torchmetrics", "metrics.py", "metrics",
     ratio("results", "piecewise constant", "torchmetrics", "atrous_is_faster_by")),
]  # fmt: skip


def claims() -> str:
    """Returns the speed claims as Markdown; what was not measured is "not run"."""
    names = {name for _, _, name, _ in CLAIMS}
    results: dict[str, dict[str, dict[str, Any]]] = {}  # by processor and name
    for path in sorted(RESULTS.glob("*.json")):
        name, _, processor = path.stem.partition(".")
        if name in names and processor:
            results.setdefault(processor, {})[name] = json.loads(path.read_text())
    lines = [
        f"| claim | script | {' | '.join(results)} |",
        f"|---|---|{'---|' * len(results)}",
    ]
    for claim, script, name, read in CLAIMS:
        cells = [read(found[name]) if name in found else "not run" for found in results.values()]
        lines.append(f"| {claim} | `{script}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def updates() -> str:
    """Returns the updates of training as Markdown: how many times as long the others take."""
    head = (
        "network | batch, crop | default | channels_last | and memory kept | same network | memory"
    )
    lines = [f"| {head} |", f"|{'---|' * (head.count('|') + 1)}"]
    for row in json.loads((RESULTS / "training.amd-epyc.json").read_text())["rows"]:
        ratios, memory = row["ratio_of_seconds"], row["memory_mb"]
        cells = [NETWORKS[row["backbone"]], f"{row['batch']}, {row['crop']}"]
        for contender in ("smp", "smp_cl", "smp_kept", "stock"):
            value = times(ratios[contender])
            cells.append(value if ratios[contender] >= 1 else f"**{value}**")
        megabytes = memory["atrous"], min(memory["smp"], memory["smp_cl"]), memory["stock"]
        lines.append(f"| {' | '.join(cells)} | {' / '.join(map(str, megabytes))} |")
    return "\n".join(lines)


def subset() -> str:
    """Returns the scores of Google's network on a part of VOC as Markdown."""
    names = ("padded", "native", "flip", "ms_flip", "stride8")
    return voc_subset.table(
        [json.loads((RESULTS / f"voc_subset_{name}.json").read_text()) for name in names]
    )


TABLES = {"performance.md": claims, "train.md": updates, "results.md": subset}


def main() -> None:
    """Prints the tables, or writes them into the documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update the documents")
    write = parser.parse_args().write
    for name, table in TABLES.items():
        if write:
            before, rest = (DOCUMENTS / name).read_text().split(BEGIN)
            _, after = rest.split(END)
            (DOCUMENTS / name).write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
        else:
            print(f"{name}\n\n{table()}\n")


if __name__ == "__main__":
    main()
