#!/usr/bin/env python3
"""Makes the network of the built-in model voc from Google's MobileNetV2 for VOC, without training.

python scripts/voc_network.py deeplabv3_mnv2_pascal_quant.tflite --out voc.safetensors

The network runs at output stride 8 instead of 16, has a decoder that starts as a smoothing, and its
image pooling averages the positions of stride 16 (`atrous.weights.edit_classes.graft`). At these
positions the encoder's output equals Google's; the positions between them hold real features where
Google's file interpolates logits. docs/results.md says what training on top of this gave.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import atrous
from atrous.architecture import Architecture, Training
from atrous.weights.edit_classes import graft


def main() -> None:
    """Writes the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.manual_seed(0)  # of the low-level path, which counts nothing before training
    source = atrous.load(asked.source)
    model, new = graft(
        source,
        Architecture("mobilenet_v2", num_classes=21, output_stride=8, atrous_rates=()),
    )
    print(f"{len(new)} tensors start anew: {', '.join(new)}")
    origin = source.provenance
    model.provenance = replace(
        model.provenance,
        training=Training(
            recipe="scripts/voc_network.py: not trained further",
            data="none",
            initial_weights=f"{asked.source.name} (SHA-256 {origin.sha256})",
        ),
    )
    atrous.save(model, asked.out)


if __name__ == "__main__":
    main()
