"""What learns: network, optimiser, average and loss of a run, and one update of them."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

from atrous.errors import AtrousError
from atrous.model import Model
from atrous.training import loss as losses
from atrous.training.batch_norm import set_momentum, statistics_untouched, synchronize
from atrous.training.config import TrainConfig, parse_losses
from atrous.training.cpu.install import install
from atrous.training.cpu.recompute import nothing_made_again
from atrous.training.distributed import Processes
from atrous.training.optim import (
    MovingAverage,
    create_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)

logger = logging.getLogger(__name__)

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Update:
    """What one update did."""

    loss: float  # mean over the pictures of all processes
    gradient_norm: float
    lr: float
    labelled: int  # pixels
    applied: bool  # False: not finite, so weights and statistics are as before
    scale: float  # of the fp16 loss scaler, 1 otherwise


class Learner:
    """Network, optimiser, scaler and average of a run on one process.

    Args:
        model: The network; it is moved to the device, in channels_last memory.
        config: The run.
        processes: Those that learn together.
    """

    def __init__(self, model: Model, config: TrainConfig, processes: Processes) -> None:
        self.config = config
        self.processes = processes
        device = processes.device
        self.model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        _set_up(model, config, processes)
        groups = parameter_groups(
            model,
            weight_decay=config.weight_decay,
            head_multiplier=config.head_multiplier,
            bias_multiplier=config.bias_multiplier,
        )
        self.optimizer = create_optimizer(
            groups,
            optimizer=config.optimizer,
            momentum=config.momentum,
            nesterov=config.nesterov,
        )
        self.average = MovingAverage(model, config.average_decay) if config.average_decay else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.network: nn.Module = _Coarse(model)
        if processes.world_size > 1:
            # Each process's own statistics stay its own, as in the authors' clones.
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)
        if config.compile:
            self.network.compile()
        weights = torch.tensor(config.class_weights, device=device)
        if len(weights) not in (0, len(model.classes)):
            raise AtrousError(
                "E-CONFIG", f"{len(weights)} class_weights for {len(model.classes)} classes"
            )
        self.class_weights = weights if len(weights) else None
        self.ignore_index = 255 if len(model.classes) <= 255 else 65535

    def update(self, images: Tensor, targets: Tensor, step: int) -> Update:
        """Learns from one batch: this process's share of it.

        The parts of an accumulated batch and the shares of several processes weigh as the labelled
        pixels they hold, so that the gradient of cross-entropy is that of the whole batch at once.
        """
        config, device = self.config, self.processes.device
        lr = self.learning_rate(step)
        set_learning_rate(self.optimizer, lr)
        images = images.to(device, memory_format=torch.channels_last)
        targets = targets.to(device).long()
        labelled = self.processes.sum((targets != self.ignore_index).sum())
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad()
        total = torch.zeros((), device=device)
        parts = list(
            zip(images.chunk(config.accumulation), targets.chunk(config.accumulation), strict=True)
        )
        for index, (part, truth) in enumerate(parts):
            with self._communicating(index == len(parts) - 1):
                with torch.autocast(
                    device.type, _AUTOCAST.get(config.precision), config.precision != "fp32"
                ):
                    logits = self.network(part)  # coarse
                loss = self.loss(logits, truth, step, labelled)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / self.processes.world_size
        loss_value = self.processes.sum(total).item()
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # it has all that is used
        norm = self._clip()
        finite = math.isfinite(loss_value) and math.isfinite(norm)
        if finite:
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            if self.average is not None:
                self.average.update(self.model)
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        self.scaler.update()
        return Update(loss_value, norm, lr, int(labelled), finite, self.scaler.get_scale())

    def _clip(self) -> float:
        """Returns the norm of the gradient, which is scaled down to the limit if there is one."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        return norm.item()

    def learning_rate(self, step: int) -> float:
        """Returns the rate of a step."""
        config = self.config
        return learning_rate(
            step,
            base_lr=config.base_lr,
            steps=config.steps,
            schedule=config.schedule,
            power=config.power,
            decay_rate=config.decay_rate,
            decay_steps=config.decay_steps,
            slow_start_steps=config.slow_start_steps,
            slow_start_lr=config.slow_start_lr,
        )

    def loss(self, coarse_logits: Tensor, targets: Tensor, step: int, labelled: Tensor) -> Tensor:
        """Returns what this part adds to the mean gradient of all processes.

        Cross-entropy and focal loss are sums over pixels divided by the labelled pixels of the
        whole batch. The others are means by themselves, and averaged over parts and processes
        (so are the authors' clones).
        """
        config, ignore = self.config, self.ignore_index
        parts = config.accumulation
        share = self.processes.world_size / labelled.clamp(min=1)
        upsample = partial(self.model.upsample, size=(targets.shape[-2], targets.shape[-1]))
        pixel_losses = partial(
            losses.pixel_losses, class_weights=self.class_weights, ignore_index=ignore
        )

        def total_of(coarse: Tensor, truth: Tensor, focal_gamma: float = 0.0) -> Tensor:
            return pixel_losses(upsample(coarse), truth, focal_gamma=focal_gamma).sum()

        def mean(name: str) -> Tensor:
            logits = upsample(coarse_logits)
            if name == "dice":
                return losses.dice_loss(logits, targets, ignore_index=ignore)
            if name == "lovasz":
                return losses.lovasz_loss(logits, targets, ignore_index=ignore)
            per_pixel = pixel_losses(logits, targets)
            if name == "ohem":
                return losses.ohem(
                    per_pixel, logits, targets, threshold=config.ohem_threshold,
                    ignore_index=ignore,
                )  # fmt: skip
            fraction = losses.mining_fraction(
                step, top_k=config.top_k, mining_steps=config.mining_steps
            )
            return losses.hardest_pixels(per_pixel, fraction)

        total = coarse_logits.new_zeros(
            (), dtype=torch.promote_types(coarse_logits.dtype, torch.float32)
        )
        for name, factor in parse_losses(config.losses).items():
            if name == "focal" or (name == "cross_entropy" and config.top_k == 1):
                of_picture = partial(
                    total_of, focal_gamma=config.focal_gamma if name == "focal" else 0.0
                )
                value = losses.sum_over_pictures(coarse_logits, targets, of_picture) * share
            else:
                value = mean(name) / parts
            total = total + factor * value
        return total

    @contextmanager
    def _communicating(self, wanted: bool) -> Iterator[None]:
        network = self.network
        quiet = isinstance(network, DistributedDataParallel) and not wanted
        with network.no_sync() if quiet else nullcontext():  # type: ignore[operator]
            yield

    @contextmanager
    def evaluated(self) -> Iterator[Model]:
        """Lends the network as it is evaluated and kept: the average where there is one.

        Processes need not do this together.
        """
        with self.average.swapped_in(self.model) if self.average else nullcontext():
            try:
                yield self.model.eval()
            finally:
                self.model.train()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Returns every tensor the run goes on from, by file."""
        files = {"model": dict(self.model.state_dict())}
        files["optimizer"] = self.optimizer.tensors()
        if self.average is not None:
            files["average"] = self.average.tensors
        return files

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        """Takes over what `tensors` returned, and the scaler's state."""
        self.model.load_state_dict(dict(tensors["model"]))
        self.optimizer.restore(tensors["optimizer"])
        if self.average is not None:
            for name, value in tensors["average"].items():
                self.average.tensors[name].copy_(value)
        self.scaler.load_state_dict(state)


class _Coarse(nn.Module):
    """The network up to its coarse logits, as DistributedDataParallel wants to call it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.coarse_logits(images)


def _set_up(model: Model, config: TrainConfig, processes: Processes) -> None:
    """Freezes, synchronises and recomputes what the config says."""
    if processes.device.type == "cpu":
        install(model)
    if config.freeze_backbone:
        model.freeze_backbone()
    if config.batch_norm == "frozen":
        model.freeze_batch_norm()
    elif config.batch_norm == "sync" and processes.world_size > 1:
        synchronize(model)
    if config.batch_norm_momentum is not None:
        set_momentum(model, config.batch_norm_momentum)
    if config.gradient_checkpointing:
        recompute_blocks(model)


def recompute_blocks(model: Model) -> None:
    """Lets the backbone's blocks forget their insides and compute them again when needed.

    The second computation leaves batch norm's running statistics alone.
    """
    for container in model.encoder.backbone.modules():
        if isinstance(container, (nn.ModuleList, nn.Sequential)):
            for block in container:
                if any(True for _ in block.children()) and not isinstance(
                    block, (nn.ModuleList, nn.Sequential)
                ):
                    contexts = partial(_contexts, block)
                    block.forward = partial(
                        recomputed, block.forward, use_reentrant=False, context_fn=contexts
                    )


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nothing_made_again(), _made_again(block)


@contextmanager
def _made_again(block: nn.Module) -> Iterator[None]:
    with nothing_made_again(), statistics_untouched(block):
        yield
