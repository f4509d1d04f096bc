"""Scores of a run in Weights & Biases (python examples/track_wandb.py)."""

import os
from dataclasses import asdict

import wandb

import atrous

config = atrous.recipes.scenes().changed(steps=int(os.environ.get("ATROUS_STEPS", "1150")))
with wandb.init(project="atrous", config=asdict(config)) as run:
    atrous.train(config, "runs/scenes", on_evaluation=lambda row: run.log(row, step=row["step"]))
