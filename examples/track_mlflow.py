"""Scores of a run in MLflow (python examples/track_mlflow.py)."""

import os

import mlflow

import atrous

config = atrous.recipes.scenes().changed(steps=int(os.environ.get("ATROUS_STEPS", "1150")))
with mlflow.start_run():
    mlflow.log_params({"recipe": config.recipe, "steps": config.steps, "base_lr": config.base_lr})
    atrous.train(
        config,
        "runs/scenes",
        on_evaluation=lambda row: mlflow.log_metrics(
            {name: row[name] for name in ("loss", "mean_iou", "pixel_accuracy")}, step=row["step"]
        ),
    )
