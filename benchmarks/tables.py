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
from throughput import GOALS

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
        rows = (r for r in result["rows"] if (r["backbone"], r["crop"]) == (backbone, crop))
        row = next(rows, None)
        return times(row["ratio_of_seconds"][contender]) if row else "not run"

    return read


def bf16_training(crop: int, contender: str) -> Value:
    """Reads how many times as long as an update in bf16 that of a contender takes."""

    def read(result: dict[str, Any]) -> str:
        rows = (r["ratio_of_seconds"] for r in result["rows"] if r["crop"] == crop)
        ratios = next(rows, {})  # MobileNetV2's are the first
        return times(ratios[contender] / ratios["bf16"]) if "bf16" in ratios else "not run"

    return read


def bf16_gain(result: dict[str, Any]) -> str:
    """Reads how many times as fast as in fp32 our network is in bf16."""
    fp32, bf16 = (
        result["times"][f"ours, {precision}"]["median_ms"]
        for precision in ("fp32", "OpenVINO's default precision")
    )
    return times(fp32 / bf16)


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
    ("MobileNetV2, bf16 (`--precision auto`) against our fp32", "engines.py",
     "engines_mobilenet_v2", bf16_gain),
    ("labels from logits, against interpolate + argmax", "labels.py", "labels",
     ratio("ratios", "torch interpolate + argmax")),
    ("a photograph to files, cold process: time", "cold.py", "cold", ratio("ratios", "seconds")),
    ("the same: memory", "cold.py", "cold", ratio("ratios", "peak_megabytes")),
    ("an update of training, MobileNetV2 at 513, against the peer", "training.py", "training",
     training("mobilenet_v2", 513, "smp")),
    ("an update of training, ResNet-101 at 513, against the peer", "training.py", "training",
     training("resnet101", 513, "smp")),
    *(
        (f"an update in bf16, MobileNetV2 at 321, against {what}", "training.py", "training",
         bf16_training(321, contender))
        for what, contender in (
            ("fp32", "atrous"), ("torch's backward", "bf16_torch"), ("the peer", "bf16_smp")
        )
    ),
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


def voc() -> str:
    """Returns the scores of scripts/voc_scores.py as Markdown."""
    lines = [
        "| set | pictures | mean IoU | difference | boundary F | difference |",
        "|---|---|---|---|---|---|",
    ]
    rows = json.loads((RESULTS / "voc_scores.json").read_text())["rows"]
    for model, bits in (("voc.onnx", "16"), ("voc.int8.onnx", "8")):
        for row in rows:
            if row["model"] != model or (bits == "8" and row["half"] != "all"):
                continue
            cells = [
                f"{row['set']}, {row['half']}" + (", 8 bits" if bits == "8" else ""),
                str(row["pictures"]),
            ]
            for name in ("mean_iou", "boundary_f"):
                gain, low, high = row[f"{name}_difference"]
                cells += [f"{row[name]:.4f}", f"{gain:+.4f} ({low:+.4f} to {high:+.4f})"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def street() -> str:
    """Returns the scores of scripts/street_scores.py as Markdown: a column for each model."""
    models = json.loads((RESULTS / "street_scores.json").read_text())
    last = list(models.values())[-1]
    sets = {
        "cityscapes, 19 classes": "Cityscapes {}, 19 classes",
        "cityscapes, 11 classes": "Cityscapes {}, 11 merged classes",
        "camvid, 11 classes": "CamVid {}, 11 merged classes",
    }
    lines = [
        f"| mean IoU | pictures | {' | '.join(models)} | interval of the last |",
        f"|---|---|{'---|' * (len(models) + 1)}",
    ]
    for split in ("val", "test"):
        for key, title in sets.items():
            found = [model[split].get(key) for model in models.values()]
            cells = [f"{scores['mean_iou']:.4f}" if scores else "n/a" for scores in found]
            low, high = last[split][key]["interval"]
            cells = [title.format(split), str(last[split][key]["pictures"]), *cells]
            lines.append(f"| {' | '.join(cells)} | {low:.3f} to {high:.3f} |")
    lines += ["", "The weakest classes of the last model on test:", ""]
    for key in ("cityscapes, 19 classes", "camvid, 11 classes"):
        scores = sorted(last["test"][key]["class_iou"].items(), key=lambda item: item[1])[:6]
        listed = ", ".join(f"{name} {score:.3f}" for name, score in scores)
        lines.append(f"- {sets[key].format('test')}: {listed}")
    return "\n".join(lines)


def metrics() -> str:
    """Returns the times of benchmarks/metrics.py as Markdown."""
    results = json.loads((RESULTS / "metrics.amd-epyc.json").read_text())["results"]
    heads = [f"{kind}, ms | atrous faster by" for kind in results]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * (2 * len(heads))}"]
    for name in next(iter(results.values())):
        cells = [
            f"{result[name]['median_ms']} | {result[name]['atrous_is_faster_by']}"
            for result in results.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def throughput() -> str:
    """Returns pictures a second from disk to disk, and how fast the network alone would be."""
    paths = sorted(RESULTS.glob("throughput.*.json"))
    return "\n\n".join(throughput_of(path.suffixes[0][1:], path) for path in paths)


def throughput_of(processor: str, path: Path) -> str:
    """Returns the same for one processor."""
    result = json.loads(path.read_text())
    rates, alone = result["pictures_a_second"], result.get("network_alone_pictures_a_second", {})
    precisions = ("fp32", "bf16", "int8")

    def row(name: str, kind: str, found: dict[str, float]) -> str:
        cells = [f"{found[f'{kind}, {p}']:.1f}" if f"{kind}, {p}" in found else "not run"
                 for p in precisions]  # fmt: skip
        return f"| {name} | {' | '.join(cells)} |"

    shares = {key: 100 * rates[key] / rate for key, rate in alone.items()}
    lines = [
        f"| pictures a second, `{processor}` | {' | '.join(precisions)} |",
        "|---|---|---|---|",
        row("atrous, from disk to disk", "ours", rates),
        row("atrous at ecb34ed, one picture after the other", "before", rates),
        row("the peer's best script; in bf16 its whole network", "peer", rates),
        row("eager PyTorch, one picture after the other", "eager", rates),
        row("atrous, network alone", "ours", alone),
        row("the peer, network alone", "peer", alone),
        row("share of atrous's time that the network takes, %", "ours", shares),
        row("the same of the peer's script, %", "peer", shares),
        "",
        f"| atrous in fp32 against, `{processor}` | wanted | measured "
        "| if all but the network took no time |",
        "|---|---|---|---|",
    ]
    names = {"before": "the older loop", "peer": "the peer's script", "eager": "eager PyTorch"}
    for kind, name in names.items():
        key = f"{kind}, fp32"
        cells = [times(found["ours, fp32"] / rates[key]) if found and key in rates else "not run"
                 for found in (rates, alone)]  # fmt: skip
        lines.append(f"| {name} | {times(GOALS[key])} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, tuple[Callable[[], str], ...]] = {  # in the order of the document
    "performance.md": (claims, throughput),
    "train.md": (updates,),
    "results.md": (voc, street, subset, metrics),
}


def write(document: str, tables: tuple[Callable[[], str], ...]) -> str:
    """Returns a document with its tables made anew."""
    text, *rest = document.split(BEGIN)
    for table, part in zip(tables, rest, strict=True):
        text += f"{BEGIN}\n{table()}\n{END}{part.partition(END)[2]}"
    return text


def main() -> None:
    """Prints the tables, or writes them into the documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update the documents")
    asked = parser.parse_args()
    for name, tables in TABLES.items():
        if asked.write:
            path = DOCUMENTS / name
            path.write_text(write(path.read_text(), tables))
        else:
            print(f"{name}\n\n" + "\n\n".join(table() for table in tables) + "\n")


if __name__ == "__main__":
    main()
