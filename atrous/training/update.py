"""The learner of a run, which is network, optimiser, average and loss, and one update of it."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

from atrous.classes import unlabelled
from atrous.errors import AtrousError
from atrous.model import Model
from atrous.training import loss as losses
from atrous.training.batch_norm import (
    batch_norms,
    set_momentum,
    statistics_untouched,
    synchronize,
)
from atrous.training.config import TrainConfig, parse_losses
from atrous.training.cpu.install import install
from atrous.training.cpu.recompute import nothing_made_again
from atrous.training.distributed import Processes
from atrous.training.optim import (
    MovingAverage,
    Optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)

logger = logging.getLogger(__name__)

OwnLoss = Callable[[Tensor, Tensor], Tensor]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Update:
    """The result of one update."""

    loss: float  # mean over the pictures of all processes
    gradient_norm: float
    lr: float
    labelled: int  # pixels
    applied: bool  # False: not finite, so weights and statistics are as before
    scale: float  # of the fp16 loss scaler, 1 otherwise


class Learner:
    """Network, optimiser, scaler and average of a run on one process.

    All processes start with the tensors of the leading one, and their states stay equal.

    Args:
        model: The network; it is moved to the device, in channels_last memory.
        config: The run.
        processes: The processes that train together.
        own_loss: Replaces `config.losses`: logits (N, K, H, W) in float32 and targets (N, H, W) in
            int64 to a scalar, the mean over the pictures.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        processes: Processes,
        own_loss: OwnLoss | None = None,
    ) -> None:
        self.config = config
        self.processes = processes
        self.own_loss = own_loss
        device = processes.device
        self.model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        processes.follow(model.state_dict().values())
        _set_up(model, config, processes)
        groups = parameter_groups(
            model,
            weight_decay=config.weight_decay,
            head_multiplier=config.head_multiplier,
            bias_multiplier=config.bias_multiplier,
        )
        self.optimizer = Optimizer(groups, kind=config.optimizer)
        self.average = MovingAverage(model, config.average_decay) if config.average_decay else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.network: nn.Module = _Coarse(model)
        if processes.world_size > 1:
            # Statistics of batch norm are averaged after each update, not broadcast before it.
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)
        weights = torch.tensor(config.class_weights, device=device)
        if len(weights) not in (0, len(model.classes)):
            raise AtrousError(
                "E-CONFIG", f"{len(weights)} class_weights for {len(model.classes)} classes"
            )
        self.class_weights = weights if len(weights) else None
        self.ignore_index = unlabelled(len(model.classes))

    def update(self, images: Tensor, targets: Tensor, step: int) -> Update:
        """Learns from this process's share of one batch.

        Parts of an accumulated batch and shares of several processes weigh as the labelled pixels
        they hold. The gradient of cross-entropy is therefore that of the whole batch at once.

        Args:
            images: (N, C, H, W) in the units of the files.
            targets: (N, H, W) class indices.
            step: The update, from 0.
        """
        config, device = self.config, self.processes.device
        lr = learning_rate(
            step,
            base_lr=config.base_lr,
            steps=config.steps,
            schedule=config.schedule,
            decay_steps=config.decay_steps,
        )
        set_learning_rate(self.optimizer, lr)
        images = images.to(device, memory_format=torch.channels_last)
        targets = targets.to(device).long()
        labelled = self.processes.sum((targets != self.ignore_index).sum())
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad()
        total = torch.zeros((), device=device)
        # There may be fewer chunks than asked for: 6 pictures in 4 parts are 3 chunks of 2.
        chunks = images.chunk(config.accumulation)
        parts = list(zip(chunks, targets.chunk(config.accumulation), strict=True))
        for index, (part, truth) in enumerate(parts):
            with self._communicating(index == len(parts) - 1):
                with torch.autocast(
                    device.type, _AUTOCAST.get(config.precision), config.precision != "fp32"
                ):
                    logits = self.network(part)  # coarse
                loss = self.loss(logits, truth, labelled, parts=len(parts))
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / self.processes.world_size
        loss_value = self.processes.sum(total).item()
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # only the groups are used
        norm = self._clip()
        finite = math.isfinite(loss_value) and math.isfinite(norm)
        if finite:
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            self._share_statistics()
            if self.average is not None:
                self.average.update(self.model)
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        self.scaler.update()
        return Update(loss_value, norm, lr, int(labelled), finite, self.scaler.get_scale())

    def _share_statistics(self) -> None:
        """Averages the running statistics, which each process took of its own pictures."""
        if self.config.batch_norm == "train" and self.processes.world_size > 1:
            statistics = []
            for _, module in batch_norms(self.model):
                statistics += [module.running_mean, module.running_var]
            self.processes.average([s for s in statistics if s is not None])

    def _clip(self) -> float:
        """Scales the gradient down to `clip_norm`, if that is set, and returns its norm before."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        return norm.item()

    def loss(
        self, coarse_logits: Tensor, targets: Tensor, labelled: Tensor, *, parts: int = 1
    ) -> Tensor:
        """Returns the loss of one part, scaled so that parts and processes add up to a mean.

        Cross-entropy and focal loss are sums over pixels divided by the labelled pixels of the
        whole batch. The other losses are means, and averaged over parts and processes, as the
        authors average over GPUs.

        Args:
            coarse_logits: (n, K, h, w).
            targets: (n, H, W).
            labelled: Labelled pixels in the whole batch, of all processes.
            parts: How many parts this process computes.
        """
        size = (targets.shape[-2], targets.shape[-1])
        total = coarse_logits.new_zeros(
            (), dtype=torch.promote_types(coarse_logits.dtype, torch.float32)
        )
        if self.own_loss is not None:
            return total + self.own_loss(self._upsample(coarse_logits, size), targets) / parts
        share = self.processes.world_size / labelled.clamp(min=1)
        pixel_losses = partial(
            losses.pixel_losses, class_weights=self.class_weights, ignore_index=self.ignore_index
        )

        def sum_of_picture(coarse: Tensor, truth: Tensor, focal_gamma: float = 0.0) -> Tensor:
            return pixel_losses(self._upsample(coarse, size), truth, focal_gamma=focal_gamma).sum()

        for name, factor in parse_losses(self.config.losses).items():
            if name in ("cross_entropy", "focal"):
                of_picture = partial(sum_of_picture, focal_gamma=2.0 * (name == "focal"))
                value = losses.sum_over_pictures(coarse_logits, targets, of_picture) * share
            else:
                logits, ignore = self._upsample(coarse_logits, size), self.ignore_index
                if name == "ohem":
                    pixels = pixel_losses(logits, targets)
                    value = losses.ohem(pixels, logits, targets, ignore_index=ignore)
                else:
                    mean = losses.dice_loss if name == "dice" else losses.lovasz_loss
                    value = mean(logits, targets, ignore_index=ignore)
                value = value / parts
            total = total + factor * value
        return total

    def _upsample(self, coarse_logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns logits at the targets' size, at least in float32."""
        wide = torch.promote_types(coarse_logits.dtype, torch.float32)
        return self.model.upsample(coarse_logits, size=size).to(wide)

    def _communicating(self, wanted: bool) -> AbstractContextManager[Any]:
        """Lets processes exchange gradients in the backward pass, or not."""
        if isinstance(self.network, DistributedDataParallel) and not wanted:
            return self.network.no_sync()
        return nullcontext()

    @contextmanager
    def evaluated(self) -> Iterator[Model]:
        """Yields the network that is evaluated and kept: the average where there is one.

        A process may do this without the others.
        """
        with self.average.swapped_in(self.model) if self.average else nullcontext():
            try:
                yield self.model.eval()
            finally:
                self.model.train()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Returns every tensor a run needs to go on, by file."""
        files = {"model": dict(self.model.state_dict())}
        files["optimizer"] = self.optimizer.tensors()
        if self.average is not None:
            files["average"] = self.average.tensors
        return files

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        """Copies the tensors that `tensors` returned, and the scaler's state.

        Raises:
            AtrousError: They belong to another network, optimiser or average.
        """
        own = self.tensors()
        for file in {**own, **tensors}:
            _check_same_network(file, own.get(file, {}), tensors.get(file, {}))
        self.model.load_state_dict(dict(tensors["model"]))
        self.optimizer.restore(tensors["optimizer"])
        if self.average is not None:
            for name, value in tensors["average"].items():
                self.average.tensors[name].copy_(value)
        self.scaler.load_state_dict(state)


def _check_same_network(file: str, own: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Refuses a checkpoint whose tensors have other names or shapes."""
    ours = {name: tuple(tensor.shape) for name, tensor in own.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in kept.items()}
    if ours != theirs:
        different = sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))
        name = different[0]
        raise AtrousError(
            "E-RUN-NETWORK",
            f"the checkpoint does not fit this config: {len(different)} tensors of {file} differ, "
            f"the first is {name}: {theirs.get(name, 'missing')} in the checkpoint, "
            f"{ours.get(name, 'missing')} by the config and its data",
            fix="resume with the config and the data of the run, or start a new run from its "
            "weights: atrous train RECIPE --weights RUN --out NEW",
        )


class _Coarse(nn.Module):
    """The network up to its coarse logits. DistributedDataParallel calls `forward` only."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.coarse_logits(images)


def _set_up(model: Model, config: TrainConfig, processes: Processes) -> None:
    """Freezes parts, synchronises batch norms and recomputes blocks, as the config says."""
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
    """Makes the backbone's blocks compute their activations again in the backward pass.

    The second computation does not change batch norm's running statistics.
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
