"""Train one stage: a front, a GRN, an LRN, or anything with their `supervised` and `loss_weights`.

Every random choice is a function of (seed, step, sample), and the state is saved whole: a run that was killed and
started again ends with the loss of one that was not. Start several processes with torchrun.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectiseg.curves import Curves
from rectiseg.data.files import alone_at
from rectiseg.losses import lovasz_softmax
from rectiseg.metrics import ConfusionMatrix, Scores, scores_of
from rectiseg.models.checkpoint import load_state, save, save_state
from rectiseg.models.encoder import Encoder
from rectiseg.models.grn import GRN
from rectiseg.ops.likeliest import likeliest
from rectiseg.progress import Reporter
from rectiseg.settings import Settings, changed, generator_of, make_optimizer, seed_of
from rectiseg.types import IGNORE_INDEX, LabelMap, Logits
from rectiseg.views import TrainingData


class Batch(NamedTuple):
    inputs: tuple[Tensor, ...]  # what the stage takes: (image,) or (image, logits)
    labels: LabelMap

    def parts(self, size: int) -> Iterator["Batch"]:
        """The batch, so many samples at a time."""
        for labels, *inputs in zip(*(tensor.split(size) for tensor in (self.labels, *self.inputs)), strict=True):
            yield Batch(tuple(inputs), labels)


class StageLoss(nn.Module):
    """Sum of the losses of every supervised map, each with the stage's weight for it.

    Cross-entropy over the valid pixels, and the Lovász-Softmax loss, an image's times its valid pixels: as much of each
    as the settings say.
    """

    def __init__(self, stage: nn.Module, settings: Settings):
        super().__init__()
        self.stage = stage
        self.settings = settings
        weights = None if settings.class_weights is None else torch.tensor(settings.class_weights)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, labels: LabelMap, *inputs: Tensor) -> Tensor:
        maps: list[Logits] = self.stage.supervised(*inputs)  # pyright: ignore[reportCallIssue]
        weights: tuple[float, ...] = self.stage.loss_weights  # pyright: ignore[reportAssignmentType]
        return torch.stack(
            [
                weight * self.of_one(logits.float(), labels)
                for logits, weight in zip(maps, weights, strict=True)
                if weight > 0
            ]
        ).sum()

    def of_one(self, logits: Logits, labels: LabelMap) -> Tensor:
        loss = F.cross_entropy(logits, labels, self.class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
        loss = self.settings.cross_entropy * loss
        if self.settings.lovasz:
            valid = (labels != IGNORE_INDEX).sum(dim=(1, 2))
            loss = loss + self.settings.lovasz * (valid * lovasz_softmax(logits, labels)).sum()
        return loss


class Run:
    """One stage's training: its network, optimizer and place in the sequence of steps.

    ``save_memory`` takes a batch sample by sample and computes the activations of an encoder's blocks twice instead of
    keeping them. A step is the same but for rounding, and for batch norm that trains: it then sees one sample.
    """

    def __init__(
        self,
        stage: nn.Module,
        data: TrainingData,
        settings: Settings,
        seed: int,
        accelerator: Accelerator,
        save_memory: bool = False,
    ):
        if settings.batch < accelerator.num_processes:
            raise ValueError(
                f"a batch of {settings.batch} cannot be shared among {accelerator.num_processes} processes"
            )
        self.stage = synchronized(stage, accelerator.num_processes, accelerator.device)
        self.data = data
        self.settings = settings
        self.seed = seed
        self.accelerator = accelerator
        self.save_memory = save_memory
        self.steps_per_epoch = max(1, len(data) // settings.batch)
        self.steps = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.unlabelled = 0  # steps in a row without an annotated pixel
        self.best = -math.inf
        self.seconds = 0.0
        optimizer = make_optimizer(self.stage, settings)
        loss = StageLoss(self.stage, settings)
        self.loss, self.optimizer = accelerator.prepare(loss, optimizer)

    @property
    def learning_rate(self) -> float:
        growth = min((self.step + 1) / self.settings.warmup, 1.0) if self.settings.warmup else 1.0
        return growth * self.settings.learning_rate(self.step / self.steps_per_epoch)

    def batch(self, step: int) -> Batch:
        """This process's part of the step's batch: every world_size-th sample of it."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.data), generator=generator_of(self.seed, epoch))
        rows, labels = [], []
        for slot in range(self.accelerator.process_index, self.settings.batch, self.accelerator.num_processes):
            index = int(order[(position * self.settings.batch + slot) % len(order)])
            inputs, target = self.data.view(index, self.settings, generator_of(self.seed, step, slot + 1))
            rows.append(inputs)
            labels.append(target)
        stacked = tuple(torch.stack(column).to(self.accelerator.device) for column in zip(*rows, strict=True))
        return Batch(stacked, torch.stack(labels).to(self.accelerator.device))

    def train_step(self) -> float:
        """One optimizer step; returns the mean loss over the valid pixels of all processes."""
        torch.manual_seed(seed_of(self.seed, self.step))
        self.stage.train()
        if self.settings.frozen_batch_norm:
            freeze_batch_norm(self.stage)
        if isinstance(self.stage, GRN):
            self.stage.auxiliary_share = 1 - self.step / self.steps if self.settings.anneal_auxiliary else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group["rate_factor"]
        batch = self.batch(self.step)
        labelled = self.accelerator.reduce((batch.labels != IGNORE_INDEX).sum(), "sum")
        self.refuse_an_epoch_without_labels(int(labelled))  # pyright: ignore
        valid = labelled.clamp(min=1)  # pyright: ignore
        self.optimizer.zero_grad()
        total = torch.zeros((), device=batch.labels.device)
        parts = list(batch.parts(1 if self.save_memory else len(batch.labels)))
        for index, part in enumerate(parts, start=1):
            # Processes exchange their gradients once a step, after the last part.
            with nullcontext() if index == len(parts) else self.accelerator.no_sync(self.loss):
                loss = self.part_loss(part)
                # They average them; the loss is a mean over the pixels of all processes.
                self.accelerator.backward(loss * self.accelerator.num_processes / valid)
            total += loss.detach()
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(self.stage.parameters(), self.settings.clip)
        self.optimizer.step()
        self.step += 1
        mean = self.accelerator.reduce(total, "sum") / valid  # pyright: ignore
        if not torch.isfinite(mean):
            raise ValueError(f"the loss became {mean.item()} at step {self.step}: lower the learning rate")
        return mean.item()

    def refuse_an_epoch_without_labels(self, labelled: int) -> None:
        """A crop may have none; nothing is learned where all of them have none."""
        self.unlabelled = 0 if labelled else self.unlabelled + 1
        if self.unlabelled == self.steps_per_epoch:
            raise ValueError("a whole epoch had not one annotated pixel: `rectiseg doctor` says what its labels hold")

    def part_loss(self, part: Batch) -> Tensor:
        recomputed = recomputing(self.stage) if self.save_memory else nullcontext()
        bf16 = torch.autocast(part.labels.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")
        with recomputed, bf16:
            return self.loss(part.labels, *part.inputs)


def train_stage(
    stage: nn.Module,
    data: TrainingData,
    settings: Settings,
    folder: Path,
    seed: int,
    validate: Callable[[nn.Module], Scores],
    accelerator: Accelerator,
    on_step: Callable[[int, float, Scores | None], None] = lambda step, loss, scores: None,
    save_memory: bool = False,
    follows: str = "",
) -> float:
    """Train in place until the last epoch, resuming from ``folder/state.safetensors`` where there is one.

    Returns the seconds that all the steps and validations took. A state of other settings, of another seed or of a run
    that ``follows`` something else, what the data come from and the stage begins with, raises ValueError.

    After every ``validate_every`` epochs and the last one the stage is validated; ``folder/best.safetensors`` keeps
    the weights of the highest mean IoU, ``folder/curves.csv`` every step's loss and learning rate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    main = accelerator.is_main_process
    with alone_at(folder / "state.safetensors", "wait for it, or choose another folder") if main else nullcontext():
        run = Run(stage, data, settings, seed, accelerator, save_memory)
        return train_to_the_end(run, folder, validate, on_step, follows)


def train_reporting(
    title: str,
    stage: nn.Module,
    data: TrainingData,
    val: TrainingData,
    num_classes: int,
    settings: Settings,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    reporter: Reporter,
    save_memory: bool = False,
    follows: str = "",
) -> float:
    """`train_stage`, validated on whole samples of ``val``; the reporter hears of every step. Memory is free after."""

    def predict(index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = val.whole(index)
        return stage(*[tensor.to(accelerator.device) for tensor in inputs]), labels

    def validate(_: nn.Module) -> Scores:
        return confusion(predict, len(val), num_classes, accelerator)

    reporter.stage(title, settings.epochs * max(1, len(data) // settings.batch))
    seconds = train_stage(
        stage, data, settings, folder, seed, validate, accelerator, reporter.step, save_memory, follows
    )
    accelerator.free_memory()
    return seconds


def train_to_the_end(
    run: Run,
    folder: Path,
    validate: Callable[[nn.Module], Scores],
    on_step: Callable[[int, float, Scores | None], None],
    follows: str,
) -> float:
    """`train_stage`, in a folder that no other run writes."""
    stage, settings, accelerator = run.stage, run.settings, run.accelerator
    known = {"settings": changed(settings), "seed": run.seed, "samples": len(run.data), "follows": follows}
    fingerprint = json.dumps(known, sort_keys=True)
    state = folder / "state.safetensors"
    if state.exists():
        about = load_state(state, stage, run.optimizer)
        if about["fingerprint"] != fingerprint:
            raise ValueError(f"{state}: saved by a run with other settings; delete {folder} or choose another folder")
        run.step, run.best, run.seconds = int(about["step"]), float(about["best"]), float(about["seconds"])
    start = time.monotonic() - run.seconds
    with Curves(folder, run.step) if accelerator.is_main_process else nullcontext() as curves:
        while run.step < run.steps:
            rate = run.learning_rate
            loss = run.train_step()
            scores = None
            epoch, within = divmod(run.step, run.steps_per_epoch)
            if within == 0 and (epoch % settings.validate_every == 0 or run.step == run.steps):
                share_buffers(stage)
                scores = validate(stage.eval())
            if accelerator.is_main_process:
                assert curves is not None
                curves.add(run.step, loss, rate, scores)
                if scores is not None and scores.mean_iou > run.best:
                    save(stage, folder / "best.safetensors", {"step": str(run.step)})
                if run.step % settings.save_every == 0 or scores is not None or run.step == run.steps:
                    best = max(run.best, scores.mean_iou if scores else -math.inf)
                    seconds = str(time.monotonic() - start)
                    about = {"step": str(run.step), "best": str(best), "seconds": seconds, "fingerprint": fingerprint}
                    save_state(state, stage, run.optimizer, about)
            if scores is not None:
                run.best = max(run.best, scores.mean_iou)
            on_step(run.step, loss, scores)
            run.seconds = time.monotonic() - start
    accelerator.wait_for_everyone()
    stage.eval()
    return run.seconds


def confusion(
    predict: Callable[[int], tuple[Tensor, Tensor]], count: int, num_classes: int, accelerator: Accelerator
) -> Scores:
    """Scores over samples 0..count, each predicted by one process; ``predict`` gives logits and labels of a sample."""
    matrix = ConfusionMatrix(num_classes)
    with torch.inference_mode():
        for index in range(accelerator.process_index, count, accelerator.num_processes):
            logits, labels = predict(index)
            matrix.update(likeliest(logits).cpu(), labels)
    return scores_of(accelerator.reduce(matrix.counts.to(accelerator.device), "sum").cpu())  # pyright: ignore


def synchronized(stage: nn.Module, processes: int, device: torch.device) -> nn.Module:
    """Batch norm sees the whole batch where several GPUs divide it; on CPUs each process normalises its own part."""
    if processes > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(stage)
    return stage


def share_buffers(module: nn.Module) -> None:
    """Batch norm's running statistics, of which each process has its own, become the first's: those that are saved."""
    for buffer in module.buffers():
        buffer.copy_(broadcast(buffer))  # pyright: ignore


def freeze_batch_norm(stage: nn.Module) -> None:
    """Use and keep a pretrained encoder's running statistics; scale and shift still train, and LRN has no encoder."""
    encoder = getattr(stage, "encoder", None)
    for layer in encoder.modules() if isinstance(encoder, nn.Module) else ():
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            layer.eval()


@contextmanager
def recomputing(stage: nn.Module) -> Iterator[None]:
    """The blocks of the stage's encoder, if it has one, keep their input only and run again in the backward pass.

    Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    encoder = getattr(stage, "encoder", None)
    blocks = tuple(encoder.blocks) if isinstance(encoder, Encoder) else ()
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
