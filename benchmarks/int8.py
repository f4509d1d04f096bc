"""What 8 bits cost a trained model: labels and scores of its int8 export against its float one.

python benchmarks/int8.py VOC_FOLDER MODEL [--calibration N] [--pictures N]

MODEL is quantised with N pictures of the training split and their labels, half of them for the
ranges and half for the budget, and both exports label the pictures of the val split at their own
size. Scores are of the classes that occur in at least a tenth of these pictures: the others are
too few to say anything.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measuring import machine, save
from PIL import Image

from atrous.engines.openvino import ExportedEngine
from atrous.export.export import export
from atrous.export.int8 import class_iou, quantize
from atrous.loading import load
from atrous.predict.upsample import labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("voc", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--pictures", type=int)
    arguments = parser.parse_args()
    model = load(arguments.model)
    training = names(arguments.voc, "train")
    chosen = training[:: max(1, len(training) // arguments.calibration)][: arguments.calibration]
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{kind}.onnx" for kind in ("float32", "int8")}
        export(model, files["float32"])
        report = quantize(
            model,
            files["int8"],
            [picture(arguments.voc, name) for name in chosen],
            targets=[target(arguments.voc, name) for name in chosen],
            budget=0.005,
        )
        megabytes = {kind: round(path.stat().st_size / 1e6, 2) for kind, path in files.items()}
        engines = {kind: ExportedEngine(path, keep_compiled=False) for kind, path in files.items()}
        found: dict[str, list[np.ndarray]] = {kind: [] for kind in engines}
        truth = []
        for name in names(arguments.voc, "val")[: arguments.pictures]:
            truth.append(target(arguments.voc, name))
            for kind, engine in engines.items():
                coarse = engine.coarse_logits(picture(arguments.voc, name))
                found[kind].append(labels(coarse, engine.logits_stride, truth[-1].shape))
    pairs = zip(found["float32"], found["int8"], strict=True)
    equal = sum(int((one == other).sum()) for one, other in pairs)
    iou = {kind: class_iou(found[kind], truth, len(model.classes)) for kind in found}
    common = [
        index
        for index in range(len(model.classes))
        if 10 * sum((index == labels).any() for labels in truth) >= len(truth)
    ]
    mean = {kind: float(np.mean(values[common])) for kind, values in iou.items()}
    save(
        "int8",
        {
            "what": f"{arguments.model.name}: int8 against float32, pictures at their own size",
            "pictures": len(truth),
            "calibration_pictures": len(chosen),
            "layers": report.layers,
            "kept_float": report.kept_float,
            "label_agreement": round(equal / sum(each.size for each in truth), 5),
            "mean_iou": {kind: round(value, 4) for kind, value in mean.items()},
            "points_lost": round(100 * (mean["float32"] - mean["int8"]), 2),
            "class_iou": {
                model.classes[index]: {k: round(float(v[index]), 4) for k, v in iou.items()}
                for index in common
            },
            "megabytes": megabytes,
            "machine": machine("openvino", "onnxruntime", "torch"),
        },
    )


def names(voc: Path, split: str) -> list[str]:
    return next(voc.rglob(f"Segmentation/{split}.txt")).read_text().split()


def picture(voc: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(next(voc.rglob(f"JPEGImages/{name}.jpg"))).convert("RGB"))


def target(voc: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(next(voc.rglob(f"SegmentationClass/{name}.png"))))


if __name__ == "__main__":
    main()
