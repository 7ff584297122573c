import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.transforms import InterpolationMode

from us_anomaly.data import bands
from us_anomaly.data.augmentation import Pipeline, build_transforms
from us_anomaly.data.transform_factory import DETERMINISTIC, RANDOM, covering_size, is_random, make_transform
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.settings.dataset import TransformSettings

CONFIG = Path(__file__).parents[2] / "configs" / "config.yaml"
IMAGE_SIZE = 64
PATCH_TOKENS = {"teacher": 33, "students": None, "evaluation": None}


def entry(name: str, **params: object) -> TransformSettings:
    return TransformSettings(name=name, params=params)


TO_FLOAT = entry("ToDtype", dtype="float32", scale=True)


def default_list(name: str, *, image_size: int = IMAGE_SIZE) -> list[TransformSettings]:
    text = CONFIG.read_text().replace('"${usad_size:${image_size}}"', f"[{image_size}, {image_size}]")
    return [TransformSettings(**item) for item in yaml.safe_load(text)["augmentation"][name]]


def default_pipeline(name: str, *, image_size: int = IMAGE_SIZE) -> Pipeline:
    entries = default_list(name, image_size=image_size)
    return build_transforms(entries, key=f"augmentation.{name}", patch_size=PATCH_TOKENS[name])


def picture(height: int = 80, width: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "shape"), [("teacher", 33), ("students", 64), ("evaluation", 64)])
def test_default_lists_give_float_tensors_of_the_right_shape(name: str, shape: int) -> None:
    result = default_pipeline(name)(picture())
    assert result.shape == (3, shape, shape)
    assert result.dtype == torch.float32
    assert type(result) is torch.Tensor


@pytest.mark.parametrize("name", ["teacher", "students", "evaluation"])
def test_the_prefix_of_the_default_lists_is_the_resize_alone(name: str) -> None:
    head = default_pipeline(name).prefix(picture())
    assert head.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    assert head.dtype == torch.uint8
    assert head.is_contiguous()
    assert type(head) is torch.Tensor


@pytest.mark.parametrize("patch_size", [17, 33, 65])
def test_the_default_teacher_list_serves_every_patch_size(patch_size: int) -> None:
    entries = default_list("teacher", image_size=128)
    pipeline = build_transforms(entries, key="augmentation.teacher", patch_size=patch_size)
    assert pipeline(picture()).shape == (3, patch_size, patch_size)


@pytest.mark.parametrize(("patch_size", "expected"), [(17, 25), (33, 47), (65, 93), (32, 46), (5, 9)])
def test_the_covering_size_is_the_smallest_of_the_same_parity(patch_size: int, expected: int) -> None:
    assert covering_size(patch_size) == expected
    assert expected >= patch_size * math.sqrt(2) > expected - 2
    assert (expected - patch_size) % 2 == 0


def test_the_same_seed_gives_the_same_patch_and_another_seed_another() -> None:
    pipeline = default_pipeline("teacher")
    head = pipeline.prefix(picture())
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(pipeline.suffix(head))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_building_a_list_leaves_the_random_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    default_pipeline("teacher")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("patch_size", [17, 33, 65])
def test_rotated_patches_hold_no_pixel_from_outside_of_the_picture(patch_size: int) -> None:
    entries = default_list("teacher", image_size=96)
    pipeline = build_transforms(entries, key="augmentation.teacher", patch_size=patch_size)
    head = pipeline.prefix(np.full((96, 96, 3), 255, dtype=np.uint8))
    torch.manual_seed(0)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    for _ in range(40):
        assert torch.allclose(pipeline.suffix(head), white[:, None, None].expand(3, patch_size, patch_size), atol=0.03)


def test_rotation_without_margin_is_refused_with_the_remedy() -> None:
    entries = [
        entry("RandomCrop", size="patch_size"),
        entry("RandomRotation", degrees=20, interpolation="bilinear"),
        TO_FLOAT,
    ]
    with pytest.raises(SettingsError, match=r"`augmentation.teacher`: RandomRotation leaves black corners") as caught:
        build_transforms(entries, key="augmentation.teacher", patch_size=33)
    assert "{name: RandomCrop, params: {size: patch_size_sqrt2}}" in str(caught.value)
    assert "{name: CenterCrop, params: {size: patch_size}}" in str(caught.value)


def test_rotation_with_a_fill_of_choice_is_accepted() -> None:
    entries = [
        entry("RandomCrop", size="patch_size"),
        entry("RandomRotation", degrees=20, fill=128),
        TO_FLOAT,
    ]
    assert build_transforms(entries, key="augmentation.teacher", patch_size=33)(picture()).shape == (
        3,
        33,
        33,
    )


def test_rotation_of_whole_pictures_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    entries = [entry("RandomRotation", degrees=30), TO_FLOAT]
    with caplog.at_level(logging.WARNING):
        build_transforms(entries, key="augmentation.students", patch_size=None)
    assert "`augmentation.students`: RandomRotation leaves black corners" in caplog.text


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    image[:] = (10, 100, 250)
    result = default_pipeline("evaluation")(image)
    expected = (np.array([10, 100, 250]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(result[:, 5, 7].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_pictures_are_float32_and_nothing_else(dtype: str) -> None:
    """The number format of the networks is `runtime.precision`."""
    with pytest.raises(SettingsError, match=r"k.params.dtype"):
        make_transform(entry("ToDtype", dtype=dtype), key="k", patch_size=None)


def test_a_list_of_to_dtype_alone_gives_the_picture_over_255() -> None:
    image = picture(9, 7)
    result = build_transforms([TO_FLOAT], key="augmentation.students", patch_size=None)(image)
    np.testing.assert_allclose(result.numpy(), image.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_resize_averages_when_it_shrinks() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[::2] = 255  # stripes of one pixel vanish into grey; without antialiasing they would alias
    pipeline = build_transforms([entry("Resize", size=[16, 16]), TO_FLOAT], key="k", patch_size=None)
    assert float(pipeline(image).std()) < 0.03
    assert float(pipeline(image).mean()) == pytest.approx(0.5, abs=0.02)


def test_read_only_pictures_are_accepted_and_left_unchanged() -> None:
    image = picture()
    image.setflags(write=False)
    before = image.copy()
    default_pipeline("students")(image)
    assert (image == before).all()


def test_the_suffix_leaves_the_cached_picture_unchanged() -> None:
    entries = [entry("RandomErasing", p=1.0), entry("RandomInvert", p=1.0), TO_FLOAT]
    pipeline = build_transforms(entries, key="k", patch_size=None)
    head = pipeline.prefix(picture())
    before = head.clone()
    pipeline.suffix(head)
    assert torch.equal(head, before)


def test_in_place_transforms_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"`k\[0\].params.inplace` must be false"):
        build_transforms([entry("RandomErasing", inplace=True), TO_FLOAT], key="k", patch_size=None)


def test_prefix_then_suffix_equals_the_whole_list() -> None:
    pipeline = default_pipeline("evaluation")
    assert torch.equal(pipeline.suffix(pipeline.prefix(picture())), pipeline(picture()))


@pytest.mark.parametrize("pixels_at_once", [1, 100, 2**20])
def test_a_large_picture_is_finished_band_by_band_to_the_same_values(monkeypatch, pixels_at_once) -> None:
    pipeline = default_pipeline("evaluation")
    head = pipeline.prefix(picture())
    whole = pipeline.suffix(head)
    monkeypatch.setattr(bands, "PIXELS_AT_ONCE", pixels_at_once)
    assert torch.equal(pipeline.suffix(head), whole)


def test_unknown_names_are_quoted_with_close_matches() -> None:
    entries = [entry("Resize", size=[8, 8]), entry("ToImage"), entry("RandomHorizontalFlop", p=0.5)]
    with pytest.raises(SettingsError) as caught:
        build_transforms(entries, key="augmentation.students", patch_size=None)
    assert str(caught.value).startswith("`augmentation.students[2].name` is 'RandomHorizontalFlop'")
    assert "did you mean RandomHorizontalFlip" in str(caught.value)


@pytest.mark.parametrize("name", ["Lambda", "Compose", "RandomApply", "CutMix", "FiveCrop", "ToPILImage"])
def test_transforms_of_callables_labels_or_several_pictures_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"`k\[0\].name`: {name} cannot stand in a list of plain values"):
        build_transforms([entry(name), TO_FLOAT], key="k", patch_size=None)


@pytest.mark.parametrize("name", ["os.system", "functional", "__import__('os')", "torch", "Transform2"])
def test_names_are_looked_up_and_never_evaluated(name: str) -> None:
    with pytest.raises(SettingsError, match="does not have"):
        build_transforms([entry(name), TO_FLOAT], key="k", patch_size=None)


def test_the_deprecated_to_tensor_names_its_successors() -> None:
    with pytest.raises(SettingsError, match="ToTensor is deprecated: use ToImage, ToDtype"):
        build_transforms([entry("ToTensor")], key="k", patch_size=None)


def test_an_unknown_argument_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"`k\[0\].params.sizes` is unknown: Resize takes size, interpolation"):
        build_transforms([entry("Resize", sizes=[8, 8]), TO_FLOAT], key="k", patch_size=None)


def test_a_refused_argument_quotes_the_reason_of_torchvision() -> None:
    with pytest.raises(SettingsError, match=r"`k\[0\].params` \{'p': 2\}: RandomHorizontalFlip refuses them .*\[0"):
        build_transforms([entry("RandomHorizontalFlip", p=2), TO_FLOAT], key="k", patch_size=None)


def test_a_missing_argument_quotes_the_reason_of_torchvision() -> None:
    with pytest.raises(SettingsError, match=r"CenterCrop refuses them .*missing 1 required.*'size'"):
        build_transforms([entry("CenterCrop"), TO_FLOAT], key="k", patch_size=None)


@pytest.mark.parametrize("token", ["patch_size", "patch_size_sqrt2"])
def test_patch_tokens_outside_of_patches_are_refused(token: str) -> None:
    with pytest.raises(SettingsError, match=rf"`k\[0\].params.size` is {token}, but there are no patches here"):
        build_transforms([entry("CenterCrop", size=token), TO_FLOAT], key="k", patch_size=None)


def test_patch_tokens_work_inside_of_lists() -> None:
    entries = [entry("CenterCrop", size=["patch_size", "patch_size"]), TO_FLOAT]
    assert build_transforms(entries, key="k", patch_size=17)(picture()).shape == (3, 17, 17)


def test_an_unknown_token_for_a_size_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"params.size` must be pixels, patch_size or patch_size_sqrt2, got 'big'"):
        build_transforms([entry("CenterCrop", size="big"), TO_FLOAT], key="k", patch_size=33)


def test_names_of_types_and_interpolations_become_those_of_torch() -> None:
    dtype = make_transform(entry("ToDtype", dtype="float32"), key="k", patch_size=None)
    resize = make_transform(entry("Resize", size=8, interpolation="bicubic"), key="k", patch_size=None)
    assert dtype.dtype is torch.float32
    assert resize.interpolation is InterpolationMode.BICUBIC
    assert resize.antialias is True


@pytest.mark.parametrize(
    ("name", "params"), [("ToDtype", {"dtype": "float31"}), ("Resize", {"size": 8, "interpolation": "cubic"})]
)
def test_unknown_types_and_interpolations_list_the_choices(name: str, params: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"must be one of .*(float32|bicubic).*, got '(float31|cubic)'"):
        build_transforms([entry(name, **params), TO_FLOAT], key="k", patch_size=None)


def test_a_random_transform_in_the_evaluation_list_is_refused() -> None:
    entries = [entry("ToImage"), entry("RandomVerticalFlip"), TO_FLOAT]
    with pytest.raises(SettingsError, match=r"`augmentation.evaluation\[1\].name`: RandomVerticalFlip is random"):
        build_transforms(entries, key="augmentation.evaluation", patch_size=None)


def test_a_blur_of_one_sigma_is_deterministic_and_of_a_range_random() -> None:
    assert not is_random(entry("GaussianBlur", kernel_size=3, sigma=1.0))
    assert not is_random(entry("GaussianBlur", kernel_size=3, sigma=[1.0, 1.0]))
    assert is_random(entry("GaussianBlur", kernel_size=3, sigma=[0.1, 1.0]))
    assert is_random(entry("GaussianBlur", kernel_size=3))


def test_a_list_that_ends_with_bytes_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"`k` gives uint8 values: add \{name: ToDtype"):
        build_transforms([entry("ToImage")], key="k", patch_size=None)


def test_a_list_that_ends_with_one_channel_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"`k` gives pictures of shape \(1, 512, 512\).*num_output_channels: 3"):
        build_transforms([entry("Grayscale"), TO_FLOAT], key="k", patch_size=None)


def test_a_patch_list_that_ends_with_another_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="gives pictures of 47x47 pixels, but the patch size is 33"):
        build_transforms([entry("RandomCrop", size="patch_size_sqrt2"), TO_FLOAT], key="k", patch_size=33)


@pytest.mark.parametrize("size", [600, [700, 520]])
def test_a_crop_larger_than_the_picture_that_lists_are_tried_on_is_taken(size: int | list[int]) -> None:
    entries = [entry("RandomCrop", size=size), entry("RandomRotation", degrees=5, fill=9), TO_FLOAT]
    pipeline = build_transforms(entries, key="k", patch_size=None)
    height, width = (size, size) if isinstance(size, int) else size
    assert pipeline(np.zeros((800, 900, 3), dtype=np.uint8)).shape == (3, height, width)


def test_a_crop_larger_than_the_resized_picture_is_refused_when_built() -> None:
    with pytest.raises(SettingsError, match=r"`augmentation.teacher` fails on a picture of .*[cC]rop size"):
        build_transforms(default_list("teacher", image_size=40), key="augmentation.teacher", patch_size=33)


def test_a_crop_larger_than_one_picture_is_a_data_error() -> None:
    pipeline = build_transforms([entry("RandomCrop", size=50), TO_FLOAT], key="k", patch_size=None)
    with pytest.raises(DataError, match="`k` fails on a picture of 30x40 pixels"):
        pipeline(picture(30, 40))


NEEDED_PARAMS = {
    "CenterCrop": {"size": 20},
    "ColorJitter": {"brightness": 0.4, "hue": 0.1},
    "ConvertImageDtype": {"dtype": "float32"},
    "GaussianBlur": {"kernel_size": 3},
    "GaussianNoise": {},
    "Grayscale": {"num_output_channels": 3},
    "Normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "Pad": {"padding": 3},
    "RandomAdjustSharpness": {"sharpness_factor": 3},
    "RandomAffine": {"degrees": 20},
    "RandomCrop": {"size": 20},
    "RandomPosterize": {"bits": 3},
    "RandomResize": {"min_size": 10, "max_size": 30},
    "RandomResizedCrop": {"size": 20},
    "RandomRotation": {"degrees": 20},
    "RandomShortestSize": {"min_size": [10, 20, 30]},
    "RandomSolarize": {"threshold": 100},
    "Resize": {"size": [12, 14]},
    "ScaleJitter": {"target_size": [20, 30]},
    "ToDtype": {"dtype": "float32", "scale": True},
}
AFTER_BYTES = {"GaussianNoise", "Normalize"}


@pytest.mark.parametrize("name", sorted(DETERMINISTIC | RANDOM))
def test_every_name_on_offer_works_and_draws_random_numbers_only_if_it_says_so(name: str) -> None:
    chosen = entry(name, **NEEDED_PARAMS.get(name, {}))
    entries = [TO_FLOAT, chosen] if name in AFTER_BYTES else [chosen, TO_FLOAT]
    pipeline = build_transforms(entries, key="k", patch_size=None)
    image = picture(48, 40)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    results = [pipeline(image) for _ in range(25)]
    assert results[0].shape[0] == 3
    untouched = torch.equal(before, torch.get_rng_state())
    same = all(torch.equal(results[0], result) for result in results)
    assert (untouched and same) == (name in DETERMINISTIC)
