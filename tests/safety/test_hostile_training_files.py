"""Exploding pickles in the cache of teachers and in place of a fine-tuned backbone: never executed, told in one line."""

import json
import logging
from pathlib import Path

import pytest
import torch
from bombs import BOMBS

from us_anomaly.commands import distill_teacher, finetune_backbone, split
from us_anomaly.commands.recipes import Recipes
from us_anomaly.errors import ArtifactError, StaleArtifactError
from us_anomaly.models.compute import Compute
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, read_tensors, write_tensors, write_text
from us_anomaly.run_dir.provenance import content_hash, record
from us_anomaly.settings import Settings


@pytest.fixture
def marker(tmp_path):
    """The folder that appears if something runs."""
    marker = tmp_path / "exploded"
    yield marker
    assert not marker.exists(), "a planted file ran code"


# --- the cache of teachers ---------------------------------------------------------------------------------------


@pytest.fixture
def distilled(monkeypatch) -> list[str]:
    """Put something quicker in the place of distillation; return the run directories that distilled."""
    made: list[str] = []

    def distill(settings: Settings, patch_size: int, artifact: Path, *, key: str, compute: Compute) -> None:
        made.append(Path(settings.run_dir).name)
        write_tensors(artifact, {"explained_variance": 0.5, "network": torch.arange(5.0)})
        write_text(RunDir(settings.run_dir).loss_curve(artifact), "")

    monkeypatch.setattr(distill_teacher, "distill", distill)
    return made


@pytest.mark.parametrize("is_vouched_for", [True, False], ids=["vouched for", "exchanged"])
@pytest.mark.parametrize("kind", BOMBS)
def test_an_exploding_teacher_in_the_cache_is_not_taken_and_gives_way_to_a_good_one(
    tmp_path, compose, tiny, marker, distilled, caplog, kind, is_vouched_for
):
    def teacher_of(name: str) -> bytes:
        more = ("teacher.images=procedural", "teacher.steps=2", f"cache_dir={tmp_path / 'cache'}")
        distill_teacher.run(compose("run", *tiny(tmp_path / name, *more)))
        return RunDir(tmp_path / name).teacher(33).read_bytes()

    first = teacher_of("a")
    (place,) = (tmp_path / "cache" / "teachers").iterdir()
    entry = RunDir(place)
    kept = entry.teacher(33)
    kept.write_bytes(BOMBS[kind](marker))
    if is_vouched_for:
        note = entry.provenance(kept)
        note.write_text(json.dumps(read_json(note) | {"sha256": content_hash(kept)}))
    with caplog.at_level(logging.WARNING):
        assert teacher_of("b") == first
    (line,) = [
        record.getMessage() for record in caplog.records if "the teacher is distilled anew" in record.getMessage()
    ]
    assert line.startswith(f"{place} in the cache ")
    assert "\n" not in line
    assert "weights_only" not in line
    assert teacher_of("c") == kept.read_bytes() == first
    assert distilled == ["a", "b"]


# --- the fine-tuned backbone -------------------------------------------------------------------------------------


@pytest.fixture
def finetuning(tmp_path, compose, tiny) -> Settings:
    """Settings that fine-tune the backbone, of a run directory that has a split."""
    more = ("finetuning.enabled=true", "finetuning.steps=2", "finetuning.batch_size=2", "finetuning.crop_size_px=32")
    settings = compose("run", *tiny(tmp_path / "run", *more))
    split.run(settings)
    return settings


@pytest.mark.parametrize("kind", BOMBS)
def test_an_exploding_state_of_the_fine_tuning_is_refused(finetuning, marker, kind):
    run_dir = RunDir(finetuning.run_dir)
    run_dir.training_state(run_dir.backbone).write_bytes(BOMBS[kind](marker))
    with pytest.raises(ArtifactError, match=r"backbone\.resume\.pt cannot be resumed from") as caught:
        finetune_backbone.run(finetuning)
    assert "\n" not in str(caught.value)
    assert not run_dir.backbone.exists()


@pytest.mark.parametrize("module", [finetune_backbone, distill_teacher])
@pytest.mark.parametrize("kind", BOMBS)
def test_an_exploding_backbone_is_refused_though_its_note_vouches_for_it(finetuning, marker, module, kind):
    run_dir = RunDir(finetuning.run_dir)
    run_dir.backbone.write_bytes(BOMBS[kind](marker))
    record(run_dir, run_dir.backbone, Recipes(finetuning).backbone, seconds=1.0)
    with pytest.raises(
        ArtifactError, match=r"backbone\.pt is not a checkpoint of tensors and plain values, or it is damaged"
    ) as caught:
        module.run(finetuning)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not run_dir.teacher(33).exists()


@pytest.mark.parametrize("module", [finetune_backbone, distill_teacher])
def test_an_exploding_backbone_in_the_place_of_a_good_one_is_not_even_opened(finetuning, marker, module):
    run_dir = RunDir(finetuning.run_dir)
    write_tensors(run_dir.backbone, {"format_version": 1})
    record(run_dir, run_dir.backbone, Recipes(finetuning).backbone, seconds=1.0)
    assert read_tensors(run_dir.backbone) == {"format_version": 1}
    run_dir.backbone.write_bytes(BOMBS["bare"](marker))
    with pytest.raises(
        StaleArtifactError, match=r"backbone\.pt was made from .* the file was changed after it was made"
    ):
        module.run(finetuning)
