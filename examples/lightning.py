"""`atrous.create_model` in a LightningModule, as a user of Lightning would write it. Not run.

pip install lightning && python examples/lightning.py
"""

import lightning
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import atrous


class Segmenter(lightning.LightningModule):
    """A DeepLabv3+ that Lightning trains."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = atrous.create_model("mobilenet_v2", num_classes=num_classes)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Returns the loss of a batch of images (N, H, W, 3) and targets (N, H, W)."""
        images, targets = batch
        logits = self.model(images.permute(0, 3, 1, 2))
        return F.cross_entropy(logits, targets.long(), ignore_index=255)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimiser."""
        return torch.optim.AdamW(self.parameters(), lr=0.002)


pictures = atrous.data.scenes(0, 64)
loader = DataLoader(pictures, batch_size=8, shuffle=True, drop_last=True)
segmenter = Segmenter(len(pictures.classes))
lightning.Trainer(max_steps=400).fit(segmenter, loader)
atrous.save(segmenter.model, "model.safetensors")
