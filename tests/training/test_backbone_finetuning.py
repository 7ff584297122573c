import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from us_anomaly.data.augmentation import build_transforms
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.errors import ArtifactError, DataError, SettingsError, TrainingError
from us_anomaly.models.compute import Compute
from us_anomaly.models.frozen_backbone import Backbone
from us_anomaly.run_dir.atomic import read_tensors, write_tensors
from us_anomaly.settings import CheckpointSettings, FinetuningSettings, TorchvisionBackbone, TransformSettings
from us_anomaly.training import backbone_finetuning
from us_anomaly.training.artifacts import load_finetuned
from us_anomaly.training.backbone_finetuning import (
    BestWeights,
    DefectClassifier,
    classes_of,
    divide,
    finetune,
    held_out_batches,
    held_out_loss,
    three_ways,
    training_batches,
)
from us_anomaly.training.checkpoint import TrainingCheckpoint

CPU = Compute(torch.device("cpu"), torch.float32)
SIDE_PX = 40
TO_FLOAT = [
    TransformSettings(name="ToImage", params={}),
    TransformSettings(name="ToDtype", params={"dtype": "float32", "scale": True}),
]
NORMALIZE = TransformSettings(name="Normalize", params={"mean": [0.0, 0.5, 0.5], "std": [1.0, 0.1, 0.1]})
PLAIN, PIPELINE = (
    build_transforms(entries, key="augmentation.evaluation", patch_size=None)
    for entries in (TO_FLOAT, [*TO_FLOAT, NORMALIZE])
)


class DyingError(Exception):
    """Stands for a process that is killed."""


class ThreeStages(nn.Module):
    """Strided convolutions with batch norms, a head that nobody uses, and a counter that is no floating number."""

    def __init__(self):
        super().__init__()
        widths = (3, 12, 16, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in itertools.pairwise(widths)
        )
        self.fc = nn.Linear(16, 10)

    def stages(self, images, deepest):
        maps = {}
        for depth, block in enumerate(self.blocks[:deepest], start=1):
            images = maps[depth] = block(images)
        return maps

    def final(self, images):
        return self.stages(images, 3)[3]

    def pooled(self, images):
        return self.final(images).mean(dim=(2, 3))


def backbone_of(layers=()):
    torch.manual_seed(2)
    network = ThreeStages()
    settings = TorchvisionBackbone(name="three stages", weights="default", input_size_px=32, layers=list(layers))
    return Backbone(
        stages=network.stages, final=network.final, pooled=network.pooled, network=network, settings=settings
    )


def finetuning_settings(**changed):
    values = {
        "enabled": True,
        "epochs": 1,
        "steps": None,
        "batch_size": 4,
        "crop_size_px": 32,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "frozen_stages": 0,
        "head_width": 16,
        "held_out_fraction": 0.25,
        "patience": 3,
    }
    return FinetuningSettings(**(values | changed))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Twelve pictures of smooth shades; red is the number of the picture."""
    folder = tmp_path_factory.mktemp("shades")
    rows, cols = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX
    paths = []
    for number in range(12):
        slope = np.random.default_rng(number).uniform(-20, 20, size=2)
        shade = 128 + slope[0] * (rows - 0.5) + slope[1] * (cols - 0.5)
        pixels = np.stack([np.full_like(shade, number), shade, shade], axis=2).round().astype(np.uint8)
        paths.append(folder / f"{number:02}.png")
        Image.fromarray(pixels).save(paths[-1])
    return ImageCache(paths, pipeline=PIPELINE, max_pixels=10**6, folder=folder)


def red(picture):
    """The number of the picture that a crop comes from; a pasted piece may have another red."""
    return int(torch.mode((picture[0] * 255).round().flatten()).values)


# --- what is shown -----------------------------------------------------------------------------------------------


def test_each_crop_is_shown_as_it_is_with_a_pasted_piece_and_with_a_scar():
    crops = [np.random.default_rng(n).integers(0, 256, (48, 48, 3), dtype=np.uint8) for n in range(2)]
    shown = three_ways(crops, np.random.default_rng(0), pipeline=PLAIN)
    assert shown.shape == (6, 3, 48, 48)
    assert classes_of(shown).tolist() == [0, 0, 1, 1, 2, 2]
    originals = torch.stack([torch.tensor(crop).permute(2, 0, 1) / 255 for crop in crops])
    assert torch.allclose(shown[:2], originals)
    for altered in (shown[2:4], shown[4:]):
        share = ((altered - originals).abs() > 1e-3).any(dim=1).float().mean(dim=(1, 2))
        assert bool(((share > 0) & (share < 0.3)).all())


def test_an_epoch_shows_every_picture_that_is_trained_on_once_and_no_other(cache):
    batches = training_batches(cache, [1, 3, 5, 7, 9], PIPELINE, settings=finetuning_settings(batch_size=2), seed=0)
    steps = [batches(step) for step in range(3)]
    assert [len(images) for images in steps] == [6, 6, 3]
    assert sorted(red(images[n]) for images in steps for n in range(len(images) // 3)) == [1, 3, 5, 7, 9]
    assert torch.equal(batches(1), steps[1])
    assert not torch.equal(batches(4), steps[1])


def test_held_out_pictures_are_the_same_each_time_and_no_others(cache, monkeypatch):
    monkeypatch.setattr(backbone_finetuning, "NUM_HELD_OUT_CROPS", 6)
    first, again = (held_out_batches(cache, [2, 8], PIPELINE, settings=finetuning_settings(), seed=0) for _ in range(2))
    assert [len(images) for images in first] == [12, 6]
    assert all(map(torch.equal, first, again))
    assert {red(images[n]) for images in first for n in range(len(images) // 3)} == {2, 8}


@pytest.mark.parametrize(("count", "fraction", "held"), [(20, 0.25, 5), (20, 0.01, 1), (2, 0.9, 1), (5, 0.9, 4)])
def test_so_many_pictures_are_held_out_and_one_at_least_is_trained_on(count, fraction, held):
    trained_on, held_out = divide([None] * count, fraction=fraction, seed=3)
    assert len(held_out) == held
    assert sorted(trained_on + held_out) == list(range(count))
    assert divide([None] * count, fraction=fraction, seed=3) == (trained_on, held_out)


def test_the_seed_decides_which_pictures_are_held_out():
    assert len({tuple(divide([None] * 20, fraction=0.25, seed=seed)[1]) for seed in range(5)}) > 1


def test_pictures_of_one_part_are_on_one_side():
    groups = [f"part {n // 3}" for n in range(12)] + [None] * 3
    for seed in range(8):
        trained_on, held_out = divide(groups, fraction=0.3, seed=seed)
        assert {groups[n] for n in trained_on if groups[n]}.isdisjoint({groups[n] for n in held_out})
        assert len(held_out) >= 4


@pytest.mark.parametrize("groups", [[None], [], ["a", "a", "a"]])
def test_what_cannot_be_divided_is_refused_with_the_way_out(groups):
    with pytest.raises(
        DataError, match=r"holds out part of the training pictures, and there is only \d .* set finetuning"
    ):
        divide(groups, fraction=0.5, seed=0)


# --- what is trained ---------------------------------------------------------------------------------------------


def names_of(backbone, weights):
    known = {id(weight): name for name, weight in backbone.network.named_parameters()}
    return {known[id(weight)].rpartition(".")[0] for weight in weights}


@pytest.mark.parametrize(
    ("layers", "frozen_stages", "trained"),
    [
        ((), 0, {"blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1", "blocks.2.0", "blocks.2.1"}),
        ((), 2, {"blocks.2.0", "blocks.2.1"}),
        ((1, 2), 1, {"blocks.1.0", "blocks.1.1"}),
    ],
)
def test_what_the_descriptor_depends_on_is_trained_but_for_the_frozen_stages(layers, frozen_stages, trained):
    backbone = backbone_of(layers)
    weights = backbone.unfreeze(frozen_stages=frozen_stages)
    assert names_of(backbone, weights) == trained
    assert [weight.requires_grad for weight in backbone.network.parameters()] == [
        any(weight is other for other in weights) for weight in backbone.network.parameters()
    ]
    assert all(weight.grad is None for weight in backbone.network.parameters())


def test_a_backbone_of_which_nothing_is_left_to_train_is_refused():
    with pytest.raises(SettingsError, match=r"`finetuning.frozen_stages`=2 leaves nothing of three stages to train"):
        backbone_of((1, 2)).unfreeze(frozen_stages=2)


def test_a_linear_head_and_one_with_a_hidden_layer_answer_three_classes():
    images = torch.rand(6, 3, 32, 32)
    for width, num_linear in ((0, 1), (8, 2)):
        classifier = DefectClassifier(backbone_of((2, 3)), head_width=width)
        assert classifier(images).shape == (6, 3)
        assert sum(isinstance(layer, nn.Linear) for layer in classifier.head) == num_linear


def test_the_held_out_loss_is_the_mean_cross_entropy_and_the_share_told_right():
    classifier = DefectClassifier(backbone_of(), head_width=0)
    batches = [torch.rand(6, 3, 32, 32), torch.rand(3, 3, 32, 32)]
    loss, accuracy = held_out_loss(classifier, batches, compute=CPU)
    with torch.no_grad():
        odds = torch.cat([classifier(images).softmax(dim=1) for images in batches])
    truth = [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert loss == pytest.approx(
        -np.mean([np.log(float(row[kind])) for row, kind in zip(odds, truth, strict=True)]), rel=1e-5
    )
    assert accuracy == pytest.approx(
        np.mean([int(row.argmax()) == kind for row, kind in zip(odds, truth, strict=True)])
    )


def test_the_best_weights_are_those_of_the_lowest_loss_and_not_the_last():
    network = nn.Linear(1, 1)
    best = BestWeights(network)
    for step, loss in enumerate([1.0, 0.5, 0.5, 0.7]):
        with torch.no_grad():
            network.weight.fill_(step)
        best.offer(loss, accuracy=step / 10, step=step)
    assert (best.loss, best.accuracy, best.step, best.num_without_gain) == (0.5, 0.1, 1, 2)
    assert best.latest == (0.7, 0.3)
    assert best.weights["weight"].item() == 1


class Run:
    """One fine-tuning of the small network."""

    def __init__(self, folder, cache, *, seed=0, every_steps=None, **changed):
        self.settings = finetuning_settings(**changed)
        self.backbone = backbone_of()
        weights = self.backbone.unfreeze(frozen_stages=self.settings.frozen_stages)
        self.classifier = DefectClassifier(self.backbone, head_width=self.settings.head_width)
        optimizer = torch.optim.Adam([*weights, *self.classifier.head.parameters()], lr=self.settings.learning_rate)
        self.best = BestWeights(self.backbone.network)
        self.losses, self.folder = [], folder
        self._checkpoint = TrainingCheckpoint(
            folder / "backbone.resume.pt",
            folder / "backbone.losses.jsonl",
            key="test",
            parts={"classifier": self.classifier, "optimizer": optimizer, "best": self.best},
            settings=CheckpointSettings(every_seconds=1e9, every_steps=every_steps),
        )
        self._optimizer = optimizer
        trained_on, held_out = divide([None] * len(cache), fraction=0.25, seed=seed)
        self.batches = training_batches(cache, trained_on, PIPELINE, settings=self.settings, seed=seed)
        self.held_out = held_out_batches(cache, held_out, PIPELINE, settings=self.settings, seed=seed)

    def train(self, steps, *, steps_per_epoch=3, die_after=None):
        def on_step(done, values):
            self.losses.append(values)
            if done == die_after:
                raise DyingError

        finetune(
            self.classifier,
            self.batches,
            self.held_out,
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            patience=self.settings.patience,
            compute=CPU,
            optimizer=self._optimizer,
            best=self.best,
            checkpoint=self._checkpoint,
            on_step=on_step,
        )
        return self


@pytest.fixture
def _few_held_out(monkeypatch):
    monkeypatch.setattr(backbone_finetuning, "NUM_HELD_OUT_CROPS", 4)


def test_the_task_is_learnt_on_pictures_that_no_step_saw(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(backbone_finetuning, "NUM_HELD_OUT_CROPS", 32)
    run = Run(tmp_path, cache, batch_size=9, patience=100, learning_rate=0.003)
    run.train(60, steps_per_epoch=10)
    losses = [values["loss"] for values in run.losses]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert run.best.accuracy > 0.5  # a third is chance
    assert run.best.loss < np.log(3)


@pytest.mark.usefixtures("_few_held_out")
def test_statistics_of_batch_norms_frozen_stages_and_unused_weights_stay_as_they_were(tmp_path, cache):
    before = {name: tensor.clone() for name, tensor in backbone_of().network.state_dict().items()}
    run = Run(tmp_path, cache, frozen_stages=1).train(3)
    for name, tensor in run.backbone.network.state_dict().items():
        is_trained = name.startswith(("blocks.1", "blocks.2")) and name.endswith(("weight", "bias"))
        assert torch.equal(tensor, before[name]) != is_trained, name


@pytest.mark.usefixtures("_few_held_out")
def test_training_stops_when_no_epoch_lowers_the_held_out_loss_and_keeps_the_best(tmp_path, cache, monkeypatch):
    told = iter([(1.0, 0.3), (0.8, 0.5), (0.9, 0.4), (0.85, 0.6), (0.1, 1.0)])
    monkeypatch.setattr(backbone_finetuning, "held_out_loss", lambda *_, **__: next(told))
    run = Run(tmp_path, cache, patience=2).train(100, steps_per_epoch=2)
    assert len(run.losses) == 6  # three epochs: one with a gain, two without
    assert (run.best.loss, run.best.step) == (0.8, 2)
    assert read_tensors(tmp_path / "backbone.resume.pt")["step"] == 6
    assert (tmp_path / "backbone.losses.jsonl").read_text().count("\n") == 6
    assert [values["held_out_loss"] for values in run.losses] == [1.0, 0.8, 0.8, 0.9, 0.9, 0.85]
    again = Run(tmp_path, cache, patience=2).train(
        100, steps_per_epoch=2
    )  # as after a kill before the end was recorded
    assert again.losses == []
    assert torch.equal(again.best.weights["blocks.1.0.weight"], run.best.weights["blocks.1.0.weight"])


@pytest.mark.usefixtures("_few_held_out")
@pytest.mark.parametrize("die_after", [1, 3, 5])
def test_a_training_that_died_ends_with_the_same_state(tmp_path, cache, die_after, monkeypatch):
    monkeypatch.setattr("us_anomaly.training.checkpoint.time.monotonic", lambda: 0.0)  # a state tells how long it took
    whole = Run(tmp_path / "whole", cache).train(6)
    with pytest.raises(DyingError):
        Run(tmp_path / "died", cache, every_steps=2).train(6, die_after=die_after)
    resumed = Run(tmp_path / "died", cache, every_steps=2).train(6)
    assert len(resumed.losses) == 6 - die_after // 2 * 2
    for name in ("backbone.resume.pt", "backbone.losses.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "died" / name).read_bytes()
    assert all(map(torch.equal, whole.best.weights.values(), resumed.best.weights.values()))


@pytest.mark.usefixtures("_few_held_out")
def test_a_loss_that_is_not_a_number_stops_and_leaves_the_weights_as_they_were(tmp_path, cache):
    run = Run(tmp_path, cache)
    genuine, weights = run.batches, []

    def batches(step):
        images = genuine(step)
        if step == 1:
            weights.extend(weight.clone() for weight in run.backbone.network.parameters())
            images[0, 0, 5, 5] = float("nan")
        return images

    run.batches = batches
    with pytest.raises(TrainingError, match=r"loss became nan at step 2"):
        run.train(4)
    assert all(map(torch.equal, run.backbone.network.parameters(), weights))


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_backbone_gets_its_weights_back_from_the_file(tmp_path):
    state = {name: tensor + 1 for name, tensor in backbone_of().network.state_dict().items()}
    write_tensors(tmp_path / "backbone.pt", {"format_version": 1, "network": state})
    backbone = backbone_of()
    load_finetuned(tmp_path / "backbone.pt", backbone)
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.network.state_dict().items())
    assert not any(weight.requires_grad for weight in backbone.parameters())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"format_version": 1},
            r"does not hold weights of this backbone \(it lacks 'network'\); delete it and run `usad f",
        ),
        ({"format_version": 1, "network": {}}, r"does not hold weights of this backbone \(Error"),
        ({"format_version": 1, "network": {"fc.bias": "x"}}, r"fc.bias is not a tensor of floating-point numbers"),
        ({"format_version": 2, "network": {}}, r"has format version 2, which a newer us_anomaly writes"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, reason):
    write_tensors(tmp_path / "backbone.pt", content)
    with pytest.raises(ArtifactError, match=reason):
        load_finetuned(tmp_path / "backbone.pt", backbone_of())
