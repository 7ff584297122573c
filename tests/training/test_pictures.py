import numpy as np
import pytest
import torch
from PIL import Image

from us_anomaly.data import generic
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.errors import BadImageError, DataError, SettingsError
from us_anomaly.settings import TransformSettings
from us_anomaly.training.pictures import (
    TrainingPictures,
    evaluation_inputs,
    penalty_batches,
    picture_source,
    stacked,
    student_batches,
    teacher_batches,
)

TO_FLOAT = [
    TransformSettings(name="ToImage", params={}),
    TransformSettings(name="ToDtype", params={"dtype": "float32", "scale": True}),
]
FLIPS = [TransformSettings(name="RandomHorizontalFlip", params={"p": 0.5}), *TO_FLOAT]


def pipeline_of(entries, key="augmentation.students"):
    return build_transforms(entries, key=key, patch_size=None)


def numbered_cache(folder, *, count=5, size=(40, 40)):
    """Pictures whose red is their number and whose green and blue are the row and the column."""
    paths = []
    for number in range(count):
        pixels = np.zeros((*size, 3), dtype=np.uint8)
        pixels[..., 0] = number
        pixels[..., 1], pixels[..., 2] = np.mgrid[: size[0], : size[1]]
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return ImageCache(paths, pipeline=pipeline_of(TO_FLOAT), max_pixels=10**6, folder=folder)


def numbers(batch):
    return [round(float(picture[0, 0, 0]) * 255) for picture in batch]


# --- students ----------------------------------------------------------------------------------------------------


def test_an_epoch_of_the_students_shows_every_picture_once_augmented(tmp_path):
    batches = student_batches(numbered_cache(tmp_path), pipeline_of(FLIPS), batch_size=2, seed=0)
    for epoch in range(2):
        shown = [batches(3 * epoch + step) for step in range(3)]
        assert [len(batch) for batch in shown] == [2, 2, 1]
        assert sorted(number for batch in shown for number in numbers(batch)) == [0, 1, 2, 3, 4]
    first_columns = {float(picture[2, 0, 0]) > 0 for step in range(12) for picture in batches(step)}
    assert first_columns == {True, False}  # flipped and not


def test_pictures_of_different_sizes_do_not_fit_into_one_batch():
    assert stacked([torch.zeros(3, 4, 5)] * 2, key="students.batch_size").shape == (2, 3, 4, 5)
    with pytest.raises(
        DataError, match=r"different sizes \(4x5, 6x5, \.\.\.\) do not fit into one batch: set students.batch_"
    ):
        stacked([torch.zeros(3, 6, 5), torch.zeros(3, 4, 5)], key="students.batch_size")


def test_without_penalty_pictures_or_weight_there_is_no_penalty(compose, caplog):
    assert penalty_batches(compose("run", "data.root=x")) is None
    assert not caplog.records
    assert penalty_batches(compose("run", "data.root=x", "students.penalty_images=generic")) is None
    assert "changes nothing with students.penalty_weight=0: set it" in caplog.text
    with pytest.raises(SettingsError, match=r"set students.penalty_images too"):
        compose("run", "data.root=x", "students.penalty_weight=1")


def test_the_penalty_sees_generic_pictures_normalised_like_others(compose):
    settings = compose("run", "data.root=x", "students.penalty_images=generic", "students.penalty_weight=1")
    batches = penalty_batches(settings)
    assert batches(0).shape == (1, 3, 128, 128)
    assert torch.equal(batches(4), batches(4))
    assert not torch.equal(batches(4), batches(5))
    assert float(batches(0).min()) < 0 < float(batches(0).max())


# --- teacher -----------------------------------------------------------------------------------------------------


def teacher_settings(compose, *overrides):
    return compose("run", "data.root=x", "image_size=64", "teacher.batch_size=6", *overrides)


def teacher_cache(settings, tmp_path, *, key):
    entries = getattr(settings.augmentation, key)
    pipeline = build_transforms(entries, key=f"augmentation.{key}", patch_size=33 if key == "teacher" else None)
    plain = numbered_cache(tmp_path, size=(70, 80))
    paths = sorted(tmp_path.glob("*.png"))
    assert len(plain) == len(paths)
    return ImageCache(paths, pipeline=pipeline, max_pixels=10**6, folder=tmp_path)


def test_an_epoch_of_patches_takes_the_same_number_from_every_picture(compose, tmp_path):
    settings = teacher_settings(compose, "teacher.patches_per_image=3")
    cache = teacher_cache(settings, tmp_path, key="teacher")
    batches = teacher_batches(settings, patch_size=33, cache=cache, seed=0)
    patches = torch.cat([batches(step) for step in range(3)])  # 5 pictures, 3 patches of each, 6 in a batch
    assert patches.shape == (15, 3, 33, 33)
    red = [round((float(patch[0].mean()) * 0.229 + 0.485) * 255) for patch in patches]
    assert sorted(red) == sorted([0, 1, 2, 3, 4] * 3)
    assert torch.equal(batches(1), batches(1))


@pytest.mark.parametrize("positions", ["patches", "dense"])
def test_held_out_batches_are_no_batches_of_a_step(compose, tmp_path, positions):
    settings = teacher_settings(compose, "teacher.images=generic", f"teacher.positions={positions}")
    batches = teacher_batches(settings, patch_size=33, cache=None, seed=0)
    held_out, seen = batches(-1), batches(0)
    assert held_out.shape == seen.shape == (6, 3, *((33, 33) if positions == "patches" else (128, 128)))
    assert torch.equal(batches(-1), held_out)
    assert not torch.equal(held_out, seen)


def test_scales_do_not_learn_from_the_same_crops(compose):
    settings = teacher_settings(compose, "teacher.images=generic", "teacher.positions=dense")
    small, large = (teacher_batches(settings, patch_size=size, cache=None, seed=0)(0) for size in (17, 65))
    assert not torch.equal(small, large)


def test_dense_crops_draw_no_global_random_numbers(compose):
    settings = teacher_settings(compose, "teacher.images=generic", "teacher.positions=dense")
    batches = teacher_batches(settings, patch_size=33, cache=None, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(0)
    assert torch.equal(torch.rand(3), expected)


def test_dense_crops_of_the_training_pictures_are_parts_of_them(compose, tmp_path):
    settings = teacher_settings(compose, "teacher.positions=dense", "teacher.crop_size_px=48")
    cache = teacher_cache(settings, tmp_path, key="evaluation")
    batch = teacher_batches(settings, patch_size=33, cache=cache, seed=0)(0)
    assert batch.shape == (6, 3, 48, 48)
    red = {round((float(crop[0].mean()) * 0.229 + 0.485) * 255) for crop in batch}
    assert red <= {0, 1, 2, 3, 4}
    assert len(red) > 1


@pytest.mark.parametrize(("size", "num_positions"), [((24, 24), 8), ((12, 40), 4)])
def test_crops_are_flipped_and_turned_by_right_angles_and_upside_down_at_most_where_they_are_not_square(
    tmp_path, size, num_positions
):
    source = TrainingPictures(numbered_cache(tmp_path, count=1, size=size), size_px=size)
    corners = set()
    for seed in range(60):
        crop = source.draw(np.random.default_rng(seed)).astype(int)
        assert crop.shape == (*size, 3)
        corners.add((tuple(crop[0, 0, 1:]), tuple(crop[0, -1, 1:])))
    assert len(corners) == num_positions


@pytest.mark.parametrize("size_px", [(24, 40), (40, 24)])
def test_all_sources_give_pictures_of_the_height_and_width_that_are_wanted(tmp_path, size_px):
    Image.new("RGB", (48, 48), (90, 90, 90)).save(tmp_path / "plain.png")
    weights = {"train": 0.4, "procedural": 0.3, str(tmp_path): 0.3}
    source = picture_source(weights, size_px=size_px, cache=numbered_cache(tmp_path), max_pixels=10**9)
    assert {source.draw(np.random.default_rng(seed)).shape for seed in range(30)} == {(*size_px, 3)}


@pytest.mark.parametrize("size", [(10, 24), (1, 3)])
def test_pictures_smaller_than_the_crop_are_continued_by_their_mirror_image(tmp_path, size):
    source = TrainingPictures(numbered_cache(tmp_path, count=1, size=size), size_px=(24, 24))
    for seed in range(8):
        crop = source.draw(np.random.default_rng(seed))
        assert crop.shape == (24, 24, 3)
        assert crop[..., 1].max() <= size[0] - 1


def test_a_mix_draws_from_its_sources_by_weight(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    Image.new("RGB", (48, 48), (90, 90, 90)).save(folder / "plain.png")
    weights = {"train": 0.25, str(folder): 0.75}
    source = picture_source(weights, size_px=(24, 24), cache=numbered_cache(tmp_path), max_pixels=10**9)
    plain = np.mean([source.draw(np.random.default_rng(seed))[..., 0].mean() > 20 for seed in range(200)])
    assert 0.6 < plain < 0.9


@pytest.mark.parametrize(("name", "share"), [("photographs", 1.0), ("procedural", 0.0), ("generic", 0.6)])
def test_the_parts_of_the_built_in_source_can_be_named_alone(monkeypatch, name, share):
    """Count the pictures that come from a photograph, here a bright one, and from the drawing, here black."""
    white, black = np.full((40, 40, 3), 200, np.uint8), np.zeros((32, 32, 3), np.uint8)
    monkeypatch.setattr(generic, "load_photographs", lambda: [white])
    monkeypatch.setattr(generic.ProceduralPictures, "draw", lambda self, rng: black)
    for function in ("mix", "recolour", "add_blemishes"):
        monkeypatch.setattr(generic, function, lambda picture, *_: picture)
    source = picture_source({name: 1.0}, size_px=(32, 32), cache=None, max_pixels=10**9)
    bright = np.mean([source.draw(np.random.default_rng(seed)).mean() > 100 for seed in range(300)])
    assert abs(bright - share) < 0.1 * (0 < share < 1) + 1e-9


def test_photographs_and_drawn_pictures_can_be_weighed_against_the_training_pictures(tmp_path):
    weights = {"train": 0.5, "photographs": 0.25, "procedural": 0.25}
    source = picture_source(weights, size_px=(40, 40), cache=numbered_cache(tmp_path), max_pixels=10**9)
    drawn = [source.draw(np.random.default_rng(seed)) for seed in range(60)]
    is_training = [picture[..., 0].max() <= 4 and picture[..., 1].max() == 39 for picture in drawn]
    assert 0.3 < np.mean(is_training) < 0.7


def test_drawn_pictures_alone_need_no_photographs(monkeypatch):
    monkeypatch.setattr(generic, "load_photographs", lambda: pytest.fail("photographs were loaded"))
    assert picture_source({"procedural": 1.0}, size_px=(32, 32), cache=None, max_pixels=10**9).draw(
        np.random.default_rng(0)
    ).shape == (
        32,
        32,
        3,
    )


def test_the_limit_of_pixels_holds_for_folders_of_pictures_too(tmp_path):
    Image.new("RGB", (48, 40)).save(tmp_path / "large.png")
    weights, draws = {str(tmp_path): 1.0}, np.random.default_rng(0)
    assert picture_source(weights, size_px=(24, 24), cache=None, max_pixels=1920).draw(draws).shape == (24, 24, 3)
    with pytest.raises(BadImageError, match=r"48 x 40 pixels are more than data\.max_image_pixels=1919 allows"):
        picture_source(weights, size_px=(24, 24), cache=None, max_pixels=1919).draw(draws)


def test_a_missing_folder_is_named_with_its_key(tmp_path):
    message = (
        r"`students.penalty_images` may name generic, photographs, procedural and folders of pictures; there is no fol"
    )
    with pytest.raises(SettingsError, match=message):
        picture_source(
            {str(tmp_path / "nowhere"): 1.0},
            size_px=(24, 24),
            cache=None,
            max_pixels=10**9,
            key="students.penalty_images",
        )


def test_inputs_of_the_statistics_are_the_pictures_in_order(tmp_path):
    cache = numbered_cache(tmp_path)
    pictures = list(evaluation_inputs(cache, pipeline_of(TO_FLOAT, key="augmentation.evaluation")))
    assert numbers(pictures) == [0, 1, 2, 3, 4]
    assert pictures[0].shape == (3, 40, 40)
