"""Tables of docs/results.md from the JSON that `atrous evaluate --json` prints.

atrous evaluate MODEL --data VOC2012 --pad-to 513 --json > a.json
python benchmarks/voc_subset.py a.json b.json ...
"""

import json
import sys
from pathlib import Path
from typing import Any


def title(protocol: dict[str, Any]) -> str:
    scales = protocol["scales"]
    padded = " x ".join(map(str, protocol["pad_to"])) if protocol["pad_to"] else ""
    return ", ".join(
        part
        for part in (
            f"padded to {padded}" if padded else "native size",
            "" if scales == [1.0] else f"{len(scales)} scales",
            "flip" if protocol["flip"] else "",
            "" if protocol["output_stride"] == 16 else f"stride {protocol['output_stride']}",
        )
        if part
    )


def cell(value: Any) -> str:
    if value is None:
        return "not run"
    return f"{value:.4f}" if isinstance(value, float) else " to ".join(f"{x:.4f}" for x in value)


def table(results: list[dict[str, Any]]) -> str:
    """Returns the table as Markdown."""
    names = results[0]["protocol"]["mean_over"]
    rows = {name: [r["class_iou"][name] for r in results] for name in names}
    rows["**mean IoU**"] = [r["mean_iou"] for r in results]
    rows["95 % interval"] = [r["mean_iou_interval"] for r in results]
    rows["pixel accuracy"] = [r["pixel_accuracy"] for r in results]
    rows["boundary IoU"] = [r.get("mean_boundary_iou") for r in results]
    rows["boundary F-score"] = [r.get("mean_boundary_f") for r in results]
    rows["calibration error"] = [r["expected_calibration_error"] for r in results]
    for width in (1, 2, 5, 10, 20, 40):
        rows[f"trimap, {width} px"] = [(r.get("trimap") or {}).get(str(width)) for r in results]
    lines = [
        f"| | {' | '.join(title(result['protocol']) for result in results)} |",
        f"|---|{'---|' * len(results)}",
    ]
    lines += [f"| {name} | {' | '.join(map(cell, values))} |" for name, values in rows.items()]
    return "\n".join(lines)


def main() -> None:
    results = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    print(table(results))
    print()
    for result in results:
        p = result["protocol"]
        seconds = result["seconds"]
        share = seconds["metrics"] / sum(seconds.values())
        print(
            f"- {title(p)}: output stride {p['output_stride']}, "
            f"{p['engine']}, {p['precision']}; model {p['model_fingerprint'][:12]}, data "
            f"{(p['data_fingerprint'] or 'part of it')[:12]}; "
            f"metrics took {share:.2%} of the time, boundary measures "
            f"{seconds['boundaries'] / sum(seconds.values()):.1%}."
        )


if __name__ == "__main__":
    main()
