"""Your own PyTorch loop around `atrous.create_model`: nothing of `atrous.train` is needed.

python examples/plain_loop.py
"""

import os

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import atrous
from atrous.classes import ClassTable

steps = int(os.environ.get("ATROUS_STEPS", "400"))
pictures, held_out = atrous.data.scenes(0, 64), atrous.data.scenes(1, 8)
model = atrous.create_model("mobilenet_v2", num_classes=len(pictures.classes)).train()
model.name_classes(ClassTable("scenes", pictures.classes, pictures.palette))
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = 0.03  # the paper's 0.0003 is for runs of ten thousand steps
optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
loader = DataLoader(pictures, batch_size=8, shuffle=True, drop_last=True)  # (image, target) pairs

step = 0
while step < steps:
    for images, targets in loader:
        logits = model(images.permute(0, 3, 1, 2))  # (N, K, H, W) from uint8 RGB
        loss = F.cross_entropy(logits, targets.long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        step += 1
        if step % 50 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}")
        if step == steps:
            break
print(f"mean IoU {atrous.evaluate(model.eval(), held_out, trimap=None).mean_iou:.3f}")
