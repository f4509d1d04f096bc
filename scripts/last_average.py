#!/usr/bin/env python3
"""Writes the moving average of a run's newest checkpoint as a model.

python scripts/last_average.py RUN model.safetensors

A run keeps its best model, which is the start where no evaluation was better. A stage at a constant
learning rate is often not better before the next stage lowers the rate: that stage goes on from
this average.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file

import atrous


def main() -> None:
    """Writes the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    checkpoints = asked.run / "checkpoints"
    newest = checkpoints / (checkpoints / "last").read_text().strip()
    model = atrous.load(asked.run)
    model.load_state_dict(load_file(newest / "average.safetensors"))
    atrous.save(model, asked.out)
    print(f"{asked.out}: the average at {newest.name}")


if __name__ == "__main__":
    main()
