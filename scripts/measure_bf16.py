#!/usr/bin/env python3
"""Measures what bf16 costs an exported file, and writes the agreement of its labels into it.

python scripts/measure_bf16.py atrous/trained/voc.onnx VOC2012:val \
    --classes background,cat,cow,dog,horse,person,sheep

Prints the share of pixels with equal labels and the mean IoU in fp32 and bf16. `--write` puts the
share into the file's header, where `--precision auto` looks. The hash of the graph stays. The
processor must have bf16 units.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper

import atrous
from atrous.data.opening import open_dataset
from atrous.engines.exported_file import read_header
from atrous.engines.openvino import ExportedEngine
from atrous.export.agreement import bf16_agreement


def main() -> None:
    """Measures the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("data", metavar="DATA:SPLIT")
    parser.add_argument("--classes", help="names: the mean IoU is over these")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    path, _, split = asked.data.rpartition(":")
    data = open_dataset(path, split)
    pictures = [data[index].image for index in range(len(data))]
    agreement, means = bf16_agreement(atrous.load(asked.file), asked.file, pictures)
    print(f"{100 * agreement:.3f} % of the labels are equal: {means} of {Path(path).name} {split}")
    if asked.write:
        proto = onnx.load(asked.file)
        header = replace(read_header(asked.file), bf16_agreement=agreement, bf16_measured=means)
        helper.set_model_props(proto, header.properties())
        onnx.save(proto, asked.file)
    classes = asked.classes and tuple(asked.classes.split(","))
    for precision in ("fp32", "bf16"):
        engine = ExportedEngine(asked.file, precision=precision)
        scores = atrous.evaluate(engine, data, classes=classes)
        print(f"{precision}: mean IoU {100 * scores.mean_iou:.2f}")


if __name__ == "__main__":
    main()
