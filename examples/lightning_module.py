"""A network of atrous in Lightning: nothing of `atrous.train` is needed.

python examples/lightning_module.py
"""

import os

import lightning
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import atrous


class Segmenter(lightning.LightningModule):
    """DeepLabv3+ with the loss, the optimiser and the schedule of your choice."""

    def __init__(self, classes: int, steps: int) -> None:
        super().__init__()
        self.model = atrous.create_model("mobilenet_v2", num_classes=classes)
        self.steps = steps

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Takes uint8 pictures (N, H, W, 3) and targets (N, H, W)."""
        images, targets = batch
        logits = self.model(images.permute(0, 3, 1, 2))  # (N, K, H, W)
        return F.cross_entropy(logits, targets.long(), ignore_index=255)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate."""
        return torch.optim.AdamW(self.parameters(), lr=0.002)


steps = int(os.environ.get("ATROUS_STEPS", "400"))
pictures = atrous.data.scenes(0, 64)
loader = DataLoader(pictures, batch_size=8, shuffle=True, drop_last=True)
segmenter = Segmenter(len(pictures.classes), steps)
trainer = lightning.Trainer(
    max_steps=steps, accelerator="auto", logger=False, enable_checkpointing=False
)
trainer.fit(segmenter, loader)
atrous.save(segmenter.model.eval(), "segmenter.safetensors")
