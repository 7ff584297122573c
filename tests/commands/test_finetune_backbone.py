"""`usad finetune-backbone` end to end: its files, what it refuses, what depends on it."""

import json
import logging
import shutil
from contextlib import contextmanager

import pytest
import torch
from conftest import files_below

from us_anomaly.commands import distill_teacher, finetune_backbone, normalize, split
from us_anomaly.commands.run import STAGES, stages_of
from us_anomaly.errors import DataError, MissingArtifactError, SettingsError, StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.training import backbone_finetuning, distillation

FILES = {"backbone.pt", "backbone.losses.jsonl", "provenance/backbone.pt.json"}
FINETUNED = (
    "finetuning.enabled=true",
    "finetuning.steps=3",
    "finetuning.batch_size=2",
    "finetuning.crop_size_px=32",
    "finetuning.learning_rate=0.01",
    "finetuning.head_width=4",
    "teacher.steps=2",
)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def dying_after(step):
    """Return a progress that dies after a step, when its state may have been saved."""

    @contextmanager
    def progress(*_, **__):
        def on_step(done, values):
            if done == step:
                raise KilledError

        yield on_step

    return progress


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    """Measure on fewer pictures."""
    monkeypatch.setattr(backbone_finetuning, "NUM_HELD_OUT_CROPS", 4)
    monkeypatch.setattr(distillation, "NUM_STATISTICS_BATCHES", 2)
    monkeypatch.setattr(distillation, "NUM_HELD_OUT_BATCHES", 1)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, compose, tiny):
    """Return a run directory with split, fine-tuned backbone and teacher, and the files after each."""
    run_dir = tmp_path_factory.mktemp("finetuned") / "run"
    settings = compose("run", *tiny(run_dir, *FINETUNED))
    after = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone_finetuning, "NUM_HELD_OUT_CROPS", 4)
        patch.setattr(distillation, "NUM_STATISTICS_BATCHES", 2)
        patch.setattr(distillation, "NUM_HELD_OUT_BATCHES", 1)
        for module in (split, finetune_backbone, distill_teacher):
            module.run(settings)
            after.append(files_below(run_dir))
    return run_dir, after


@pytest.fixture
def copy(finetuned, tmp_path):
    """Return a copy of that run directory, to do with as one likes."""
    return RunDir(shutil.copytree(finetuned[0], tmp_path / "run"))


def test_it_leaves_exactly_its_files(finetuned):
    before, after, _ = finetuned[1]
    assert after - before == FILES


def test_the_backbone_is_a_checkpoint_of_tensors_with_the_settings_that_made_it(finetuned, resnet18_weights):
    state = torch.load(finetuned[0] / "backbone.pt", weights_only=True)
    pretrained = torch.load(resnet18_weights, weights_only=True)
    assert state["format_version"] == 1
    assert state["network"].keys() == pretrained.keys()
    assert state["settings"]["finetuning"]["steps"] == 3
    assert state["settings"]["backbone"]["layers"] == [1, 2]
    changed = {
        name.split(".")[0] for name, tensor in state["network"].items() if not torch.equal(tensor, pretrained[name])
    }
    assert changed == {"layer1"}  # stage 1 is frozen, and nothing behind stage 2 makes the descriptor
    assert state["held_out"].keys() == {"loss", "accuracy", "step"}


def test_the_losses_of_every_step_are_written_down(finetuned):
    lines = [json.loads(line) for line in (finetuned[0] / "backbone.losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line.keys() == {"step", "loss", "held_out_loss", "held_out_accuracy"} for line in lines)


def test_the_teacher_learns_from_the_fine_tuned_weights(copy, compose, tiny, monkeypatch):
    given = {}
    genuine = distill_teacher.Distillation

    def noted(teacher, backbone, settings):
        given.update({name: tensor.clone() for name, tensor in backbone.network.state_dict().items()})
        assert not any(weight.requires_grad for weight in backbone.parameters())
        return genuine(teacher, backbone, settings)

    monkeypatch.setattr(distill_teacher, "Distillation", noted)
    copy.teacher(33).unlink()
    distill_teacher.run(compose("run", *tiny(copy.root, *FINETUNED)))
    state = torch.load(copy.backbone, weights_only=True)["network"]
    assert all(torch.equal(given[name], tensor) for name, tensor in state.items())


def test_a_second_time_nothing_is_made(copy, compose, tiny, caplog):
    caplog.set_level(logging.INFO)
    before = copy.backbone.stat().st_mtime_ns
    finetune_backbone.run(compose("run", *tiny(copy.root, *FINETUNED)))
    assert copy.backbone.stat().st_mtime_ns == before
    assert f"{copy.backbone} is up to date" in caplog.text


@pytest.fixture
def interrupted(copy, compose, tiny, monkeypatch):
    """Return that copy without its backbone, whose fine-tuning died after two of three steps."""
    for path in (copy.backbone, copy.loss_curve(copy.backbone), copy.provenance(copy.backbone)):
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(finetune_backbone, "progress", dying_after(2))
        with pytest.raises(KilledError):
            finetune_backbone.run(compose("run", *tiny(copy.root, *FINETUNED, "checkpoint.every_steps=2")))
    assert copy.training_state(copy.backbone).exists()
    assert not copy.backbone.exists()
    return copy


def test_it_died_and_ends_with_the_same_bytes(finetuned, interrupted, compose, tiny):
    copy = interrupted
    finetune_backbone.run(compose("run", *tiny(copy.root, *FINETUNED, "checkpoint.every_steps=2")))
    for name in ("backbone.pt", "backbone.losses.jsonl"):
        assert (copy.root / name).read_bytes() == (finetuned[0] / name).read_bytes()
    assert not copy.training_state(copy.backbone).exists()


def test_fine_tuning_with_other_settings_begins_anew_where_one_was_interrupted(interrupted, compose, tiny, tmp_path):
    fresh = RunDir(shutil.copytree(interrupted.root, tmp_path / "fresh"))
    fresh.training_state(fresh.backbone).unlink()
    for run_dir in (interrupted, fresh):
        finetune_backbone.run(compose("run", *tiny(run_dir.root, *FINETUNED, "finetuning.learning_rate=0.02")))
    for name in ("backbone.pt", "backbone.losses.jsonl"):
        assert (interrupted.root / name).read_bytes() == (fresh.root / name).read_bytes()


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_backbone_that_no_teacher_would_use_is_refused(compose, tiny, tmp_path):
    with pytest.raises(SettingsError) as caught:
        finetune_backbone.run(compose("run", *tiny(tmp_path / "run")))
    assert str(caught.value) == (
        "`finetuning.enabled` is false, so no teacher would learn from a fine-tuned backbone: give finetuning.enabled=true to "
        "this command and to those that follow"
    )


def test_a_teacher_that_was_made_before_learns_from_no_backbone(compose):
    with pytest.raises(
        SettingsError, match=r"`finetuning.enabled` is true, but a teacher that was made before .*=null, or"
    ):
        compose("run", "data.root=x", "finetuning.enabled=true", "teacher.checkpoint=builtin")


def test_it_needs_the_split_and_the_teacher_needs_it(compose, tiny, tmp_path):
    settings = compose("run", *tiny(tmp_path / "run", *FINETUNED))
    with pytest.raises(MissingArtifactError, match=r"split.jsonl does not exist: run `usad split` first"):
        finetune_backbone.run(settings)
    split.run(settings)
    with pytest.raises(MissingArtifactError, match=r"backbone.pt does not exist: run `usad finetune-backbone` first"):
        distill_teacher.run(settings)


def test_a_single_training_picture_cannot_be_held_out(copy, compose, tiny, monkeypatch):
    settings = compose("run", *tiny(copy.root, *FINETUNED, "overwrite=true", "finetuning.patience=9"))
    genuine = finetune_backbone.read_split
    monkeypatch.setattr(finetune_backbone, "read_split", lambda *arguments: genuine(*arguments)[:1])
    with pytest.raises(DataError, match="fine-tuning holds out part of the training pictures, and there is only 1"):
        finetune_backbone.run(settings)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("finetuning.learning_rate=0.02", "finetuning.learning_rate=0.01, now finetuning.learning_rate=0.02"),
        ("backbone.layers=[2]", r"backbone.layers=\[1,2\], now backbone.layers=\[2\]"),
    ],
)
def test_a_stale_backbone_is_neither_replaced_nor_distilled(copy, compose, tiny, changed, reason):
    settings = compose("run", *tiny(copy.root, *FINETUNED, changed))
    with pytest.raises(
        StaleArtifactError, match=rf"backbone.pt was made from .*{reason}.*to make it anew, add overwrite=true"
    ):
        finetune_backbone.run(settings)
    with pytest.raises(
        StaleArtifactError, match=rf"backbone.pt .*{reason}.*`usad finetune-backbone` with the settings in force"
    ):
        distill_teacher.run(settings)


def test_a_teacher_of_another_backbone_is_refused_in_both_directions(copy, compose, tiny):
    with pytest.raises(
        StaleArtifactError, match=r"teacher.pt .*with finetuning.enabled=true, now finetuning.enabled=false"
    ):
        normalize.run(compose("run", *tiny(copy.root, "teacher.steps=2")))
    state = torch.load(copy.backbone, weights_only=True)
    finetune_backbone.run(compose("run", *tiny(copy.root, *FINETUNED, "finetuning.head_width=0", "overwrite=true")))
    assert torch.load(copy.backbone, weights_only=True)["settings"] != state["settings"]
    with pytest.raises(StaleArtifactError, match=r"teacher.pt .*it was made from another backbone.pt"):
        normalize.run(compose("run", *tiny(copy.root, *FINETUNED, "finetuning.head_width=0")))


# --- in `usad run` -----------------------------------------------------------------------------------------------


def test_run_has_the_stage_where_it_is_wanted_and_the_same_stages_as_ever_where_not(compose):
    assert stages_of(compose("run", "data.root=x")) == list(STAGES)
    names = [name for name, _ in stages_of(compose("run", "data.root=x", "finetuning.enabled=true"))]
    assert names == ["split", "finetune-backbone", *(name for name, _ in STAGES[1:])]


def test_nothing_learned_is_reported_loudly(copy, compose, tiny, caplog, monkeypatch):
    monkeypatch.setattr(backbone_finetuning, "held_out_loss", lambda *_, **__: (2.0, 0.25))
    finetune_backbone.run(compose("run", *tiny(copy.root, *FINETUNED, "finetuning.weight_decay=0.5", "overwrite=true")))
    assert "THE BACKBONE LEARNED NOTHING: no epoch lowered the loss" in caplog.text
