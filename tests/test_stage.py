"""Training one stage, in this process: what a step does, and what is kept of a run."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from networks import TinyEncoder
from rectiseg.metrics import ConfusionMatrix, Scores
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.resnet import ResNet
from rectiseg.settings import Settings
from rectiseg.stage import Run, confusion, recomputing, train_stage
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ImageViews, TrainingData
from tiny_stage import SCENES, SETTINGS, Drawn, K, OneConvolution, one_convolution, stored, tiny_lrn, validation

PLAIN = Settings(phases=((2, 1e-2),), crop=(19, 23), schedule="constant", clip=None, optimizer="sgd", weight_decay=0.0)


class Images(ImageViews):
    """Whole images without random choices; remembers who was asked for."""

    def __init__(self, void: bool = False):
        super().__init__(SCENES)
        self.void = void
        self.asked: list[int] = []

    def view(self, index: int, settings: Settings, generator: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        self.asked.append(index)
        image, labels, _ = SCENES[index]
        return (image,), torch.full_like(labels, IGNORE_INDEX) if self.void else labels


def run_of(accelerator: Accelerator, settings: Settings = PLAIN, stage: nn.Module | None = None, **about) -> Run:
    return Run(stage or one_convolution(), about.get("data", Images()), settings, 7, accelerator)


def train(folder: Path, accelerator: Accelerator, settings: Settings = SETTINGS, **changed) -> nn.Module:
    stage = changed.get("stage") or one_convolution()
    data: TrainingData = changed.get("data") or ImageViews(SCENES)
    validate = changed.get("validate") or validation(data, accelerator)
    train_stage(stage, data, settings, folder, changed.get("seed", 7), validate, accelerator)
    return stage


def losses(folder: Path) -> list[float]:
    with (folder / "curves.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_the_loss_is_the_mean_over_the_pixels_that_somebody_annotated(accelerator: Accelerator):
    run = run_of(accelerator)
    batch = run.batch(0)
    pixels = one_convolution()(*batch.inputs).movedim(1, -1)[batch.labels != IGNORE_INDEX]
    labels = batch.labels[batch.labels != IGNORE_INDEX]
    assert len(labels) < batch.labels.numel()
    assert run.train_step() == pytest.approx(F.cross_entropy(pixels, labels).item(), rel=1e-6)


def test_where_all_is_ignored_nothing_is_learned(accelerator: Accelerator):
    run = run_of(accelerator, data=Images(void=True))
    before = {name: value.clone() for name, value in run.stage.state_dict().items()}
    assert run.train_step() == 0
    for name, value in run.stage.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_loss_that_is_no_number_stops_the_training(accelerator: Accelerator):
    run = run_of(accelerator)
    nn.init.constant_(run.stage.head.bias, math.inf)
    with pytest.raises(ValueError, match="the loss became nan at step 1: lower the learning rate"):
        run.train_step()


def test_a_step_of_sgd_goes_down_the_gradient_and_no_further_than_the_clip(accelerator: Accelerator):
    moved = {}
    for clip in (None, 1e-3):
        run = run_of(accelerator, replace(PLAIN, clip=clip))
        before = torch.cat([value.flatten() for value in run.stage.parameters()]).clone()
        run.train_step()
        moved[clip] = torch.cat([value.flatten() for value in run.stage.parameters()]) - before
    assert moved[None].norm() > 1e-4
    assert moved[1e-3].detach().norm().item() == pytest.approx(1e-2 * 1e-3, rel=1e-3)  # learning rate times clip
    assert F.cosine_similarity(moved[None], moved[1e-3], dim=0) > 0.999


def test_an_epoch_visits_every_sample_at_most_once_in_an_order_of_its_own(accelerator: Accelerator):
    run = run_of(accelerator, data=(data := Images()))
    for step in range(4):
        run.batch(step)
    epochs = [data.asked[:8], data.asked[8:]]
    assert [len(set(epoch)) for epoch in epochs] == [8, 8]
    assert epochs[0] != epochs[1]


def test_a_batch_is_a_function_of_seed_and_step(accelerator: Accelerator):
    first, second = (run_of(accelerator, SETTINGS, data=ImageViews(SCENES)) for _ in range(2))
    torch.rand(3)
    first.batch(0)
    for here, there in zip(first.batch(5).inputs, second.batch(5).inputs, strict=True):
        assert torch.equal(here, there)
    assert not torch.equal(first.batch(5).labels, first.batch(4).labels)


def test_a_batch_larger_than_the_data_takes_samples_twice(accelerator: Accelerator):
    run = run_of(accelerator, replace(PLAIN, batch=11), data=(data := Images()))
    assert (run.steps_per_epoch, len(run.batch(0).labels)) == (1, 11)
    assert sorted(data.asked)[-1] == 8


@pytest.mark.parametrize("refines", [False, True])
def test_saving_memory_changes_a_step_by_its_rounding_only(refines: bool, accelerator: Accelerator, tmp_path: Path):
    def changed_by(save_memory: bool) -> tuple[float, Tensor]:
        torch.manual_seed(2)
        network = GRN(ResNet(18), K, iterations=2) if refines else Front(ResNet(18), K)
        data = stored(tmp_path) if refines else ImageViews(SCENES)
        settings = replace(PLAIN, frozen_batch_norm=True, class_weights=tuple(1.0 + index for index in range(K)))
        run = Run(network, data, settings, 7, accelerator, save_memory)
        before = torch.nn.utils.parameters_to_vector(network.parameters())
        return run.train_step(), torch.nn.utils.parameters_to_vector(network.parameters()) - before

    (loss, change), (sparing_loss, sparing_change) = changed_by(False), changed_by(True)
    assert change.abs().max() > 0
    assert sparing_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sparing_change, change, rtol=1e-3, atol=1e-6)


def test_saving_memory_an_encoders_blocks_run_twice_and_afterwards_once():
    runs = 0

    class Counting(nn.ReLU):
        def forward(self, features: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            return super().forward(features)

    front, image = Front(TinyEncoder(), K), torch.rand(1, 3, 17, 9)
    front.encoder.blocks = nn.Sequential(Counting())
    with recomputing(front):
        loss = front(image).sum()
    assert runs == 1
    loss.backward()
    assert runs == 2
    front(image).sum().backward()
    assert runs == 3


def test_a_batch_smaller_than_the_processes_is_refused(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Accelerator, "num_processes", 5)
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared among 5 processes"):
        run_of(accelerator)


class Normalizing(TinyEncoder):
    """Ends in a batch norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(super().forward(image))


def changed_by_a_step(run: Run) -> set[str]:
    before = {name: value.clone() for name, value in run.stage.state_dict().items()}
    run.train_step()
    return {name for name, value in run.stage.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_batch_norm_keeps_an_encoders_statistics_and_trains_the_rest(accelerator: Accelerator):
    for frozen in (True, False):
        settings = replace(SETTINGS, frozen_batch_norm=frozen)
        changed = changed_by_a_step(run_of(accelerator, settings, Front(Normalizing(), K), data=ImageViews(SCENES)))
        assert {"encoder.norm.weight", "encoder.norm.bias"} <= changed
        assert ("encoder.norm.running_mean" in changed) != frozen
        assert ("encoder.norm.num_batches_tracked" in changed) != frozen


def test_an_lrns_batch_norm_always_trains(accelerator: Accelerator, tmp_path: Path):
    settings = replace(SETTINGS, frozen_batch_norm=True)
    assert "body.1.running_mean" in changed_by_a_step(run_of(accelerator, settings, tiny_lrn(), data=stored(tmp_path)))


def test_the_auxiliary_weight_falls_to_nothing_on_request(accelerator: Accelerator, tmp_path: Path):
    for anneals, expected in ((True, [0.4, 0.2]), (False, [0.4, 0.4])):
        grn, weights = GRN(TinyEncoder(), K, iterations=1), []
        settings = replace(SETTINGS, phases=((1, 1e-3),), batch=4, anneal_auxiliary=anneals)
        run = run_of(accelerator, settings, grn, data=stored(tmp_path))
        assert run.steps == 2
        for _ in range(run.steps):
            run.train_step()
            weights.append(grn.loss_weights[0])
        assert weights == pytest.approx(expected)
        assert grn.loss_weights[1] == 1


def test_the_rate_grows_during_the_warmup_and_heads_learn_faster(accelerator: Accelerator):
    front = Front(TinyEncoder(), K)
    run = run_of(accelerator, replace(PLAIN, warmup=4, head_rate=3.0), front, data=ImageViews(SCENES))
    for rate in (0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01):
        run.train_step()
        encoder, head = run.optimizer.param_groups
        assert (encoder["lr"], head["lr"]) == pytest.approx((rate, 3 * rate))
    assert {id(value) for value in head["params"]} == {id(value) for value in front.head.parameters()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_loss_falls(optimizer: Literal["sgd", "adamw"], accelerator: Accelerator, tmp_path: Path):
    train(tmp_path, accelerator, replace(SETTINGS, phases=((30, 5e-2),), optimizer=optimizer, validate_every=30))
    curve = losses(tmp_path)
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])


def test_a_refiner_learns_from_stored_confidences_in_either_precision(accelerator: Accelerator, tmp_path: Path):
    curves: dict[str, list[float]] = {}
    for precision in ("no", "bf16"):
        settings = replace(SETTINGS, precision=precision)
        train(tmp_path / precision, accelerator, settings, stage=tiny_lrn(), data=stored(tmp_path / "store"))
        curves[precision] = losses(tmp_path / precision)
        assert sum(curves[precision][-3:]) < 0.9 * sum(curves[precision][:3])
    assert curves["no"] != curves["bf16"]
    assert curves["no"] == pytest.approx(curves["bf16"], rel=0.05)


@pytest.mark.parametrize("changed", [{"clip": 0.5}, {"phases": ((3, 1e-2),)}, {"optimizer": "sgd"}])
def test_a_state_of_other_settings_is_refused(changed: dict, accelerator: Accelerator, tmp_path: Path):
    train(tmp_path, accelerator)
    with pytest.raises(ValueError, match=f"{tmp_path}/state.safetensors: saved by a run with other settings; delete"):
        train(tmp_path, accelerator, replace(SETTINGS, **changed))


def test_a_state_of_another_seed_or_data_set_is_refused(accelerator: Accelerator, tmp_path: Path):
    train(tmp_path, accelerator)
    for changed in ({"seed": 8}, {"data": ImageViews(Drawn(7))}):
        with pytest.raises(ValueError, match="saved by a run with other settings"):
            train(tmp_path, accelerator, **changed)


def test_a_state_of_another_network_is_refused(accelerator: Accelerator, tmp_path: Path):
    train(tmp_path, accelerator)
    with pytest.raises(ValueError, match=r"state.safetensors: \d+ tensors are missing"):
        train(tmp_path, accelerator, stage=tiny_lrn())


def test_a_finished_training_is_left_as_it_is(accelerator: Accelerator, tmp_path: Path):
    train(tmp_path, accelerator)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    stage = train(tmp_path, accelerator, stage=(other := OneConvolution()))
    assert stage is other
    assert not stage.training
    for name, value in one_convolution().state_dict().items():
        assert torch.equal(stage.state_dict()[name], load_file(tmp_path / "state.safetensors")[f"weights.{name}"])
        assert not torch.equal(stage.state_dict()[name], value)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_the_best_weights_are_kept(accelerator: Accelerator, tmp_path: Path):
    seen: list[dict[str, Tensor]] = []

    def better_once(stage: nn.Module) -> Scores:
        assert not stage.training
        seen.append({f"weights.{name}": value.clone() for name, value in stage.state_dict().items()})
        return Scores(0.5, (0.1, 0.3, 0.2)[len(seen) - 1], ())

    train(tmp_path, accelerator, validate=better_once)
    best, last = (load_file(tmp_path / f"{name}.safetensors") for name in ("best", "state"))
    assert len(seen) == 3
    for name, value in seen[1].items():
        assert torch.equal(best[name.removeprefix("weights.")], value)
        assert torch.equal(last[name], seen[2][name])


class OneOf(Accelerator):
    """A process among several; what each has to add is kept."""

    process_index, num_processes, device = 0, 1, torch.device("cpu")  # where the original asks its state

    def __init__(self, process_index: int, num_processes: int, added: list[Tensor]):
        self.process_index, self.num_processes, self.added = process_index, num_processes, added

    def reduce(self, tensor: Tensor, reduction: str = "sum", scale: float = 1.0) -> Tensor:
        self.added.append(tensor)
        return tensor


@pytest.mark.parametrize("processes", [1, 2, 4, 5, 11])
def test_every_image_is_counted_by_one_process_of_any_number(processes: int):
    """Nine images: the last round is not whole, and of eleven processes two have none."""

    def predict(index: int) -> tuple[Tensor, Tensor]:
        asked.append(index)
        image, labels, _ = SCENES[index]
        return network(image[None]), labels[None]

    asked: list[int] = []
    network, added, expected = one_convolution(), [], ConfusionMatrix(K)
    for rank in range(processes):
        confusion(predict, len(SCENES), K, OneOf(rank, processes, added))
    assert sorted(asked) == list(range(9))
    with torch.inference_mode():
        for image, labels, _ in SCENES.samples:
            expected.update(network(image[None]).argmax(dim=1), labels[None])
    assert torch.equal(sum(added, torch.zeros(K, K, dtype=torch.int64)), expected.counts)
