"""The Python interface, and that it says what the commands say."""

import json
import shutil
import weakref

import numpy as np
import plain_scores
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import us_anomaly
from us_anomaly.data import bands
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.detector import Detector, Prediction, ScaleModel
from us_anomaly.errors import ArtifactError, BadImageError, DataError, MissingArtifactError, SettingsError
from us_anomaly.loading import load
from us_anomaly.models.compute import Compute
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring import raw_maps
from us_anomaly.scoring.anomaly_map import MapStatistics
from us_anomaly.scoring.calibration_file import read_calibration
from us_anomaly.scoring.map_files import read_map
from us_anomaly.scoring.raw_maps import Grid, RawMaps
from us_anomaly.settings import Normalization, TransformSettings
from us_anomaly.training.normalization import TeacherStatistics

FLOATS = [
    TransformSettings(name="ToImage", params={}),
    TransformSettings(name="ToDtype", params={"dtype": "float32", "scale": True}),
]


@pytest.fixture(scope="module")
def detector(trained):
    return us_anomaly.load(trained, device="cpu", precision="float32", num_threads=1)


def written(trained):
    return [json.loads(line) for line in (trained / "predictions.jsonl").read_text().splitlines()]


# --- one path from image to score --------------------------------------------------------------------------------


def test_predict_says_what_infer_wrote(detector, trained, parts):
    lines = written(trained)
    predictions = detector.predict([parts / line["filename"] for line in lines])
    assert len(predictions) == len(lines) == 10
    for prediction, line in zip(predictions, lines, strict=True):
        said = line["prediction"]
        assert prediction.anomaly_score == said["anomaly_score"]
        assert prediction.normalized_score == said["normalized_score"]
        assert prediction.is_anomalous == said["is_anomalous"]
        assert np.array_equal(prediction.anomaly_map, read_map(trained / said["map_path"]))


def test_arrays_paths_and_texts_of_one_or_many_pictures_give_the_same(detector, parts):
    path = parts / "images/cut/000.png"
    with Image.open(path) as picture:
        pixels = np.array(picture)
    expected = detector.predict([path])[0]
    of_pil = Image.fromarray(pixels)
    as_of_opencv = np.ascontiguousarray(pixels[..., ::-1])
    ways = [
        path,
        str(path),
        pixels,
        as_of_opencv[..., ::-1],
        of_pil,
        [str(path)],
        [pixels],
        [of_pil],
        np.stack([pixels, pixels]),
        iter([path]),
    ]
    for images in ways:
        prediction = detector.predict(images)[0]
        assert prediction.anomaly_score == expected.anomaly_score
        assert np.array_equal(prediction.anomaly_map, expected.anomaly_map)
    assert len(detector.predict(np.stack([pixels, pixels]))) == 2
    assert detector.predict([]) == []


def test_a_picture_of_pil_is_read_as_its_file_is(detector, tmp_path):
    """Sixteen bits, transparency and orientation: `convert` clips the first, and sees neither of the others."""
    grey = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([grey, grey, grey, grey])).save(tmp_path / "alpha.png")
    Image.fromarray(grey).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(grey).save(tmp_path / "turned.tif", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        with (
            path.open("rb") as file,
            Image.open(file) as picture,
        ):  # of TIFF by its path Pillow 13 forgets the orientation
            (from_file,), (from_pil,) = detector.predict(path), detector.predict(picture)
        assert from_file.anomaly_map.shape == from_pil.anomaly_map.shape, path.name
        assert from_file.anomaly_score == from_pil.anomaly_score, path.name


def test_a_picture_of_pil_that_holds_no_numbers_is_refused(detector):
    with pytest.raises(BadImageError, match=r"a picture of PIL: .*it holds infinite values or not-a-number"):
        detector.predict(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)))


def test_a_stream_is_computed_picture_by_picture(detector, parts):
    asked = []

    def paths():
        for number in range(3):
            asked.append(number)
            yield parts / f"images/cut/{number:03}.png"

    stream = detector.stream(paths())
    next(stream)
    assert asked == [0]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (48, 48), (31, 90), (300, 200)])
def test_maps_have_the_size_of_the_picture(detector, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    prediction = detector.predict(pixels)[0]
    assert prediction.anomaly_map.shape == prediction.uncertainty_map.shape == size
    assert prediction.anomaly_map.dtype == np.float32
    assert np.isfinite(prediction.anomaly_map).all()
    assert prediction.is_anomalous == (prediction.normalized_score >= 0.5)


def test_pictures_are_not_changed(detector):
    pixels = np.full((20, 30, 3), 100, dtype=np.uint8)
    detector.predict(pixels)
    assert (pixels == 100).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_picture_of_bytes_is_refused(detector, pixels):
    with pytest.raises(DataError) as caught:
        detector.predict(pixels)
    message = f"a picture must be an RGB array (height, width, 3) of uint8, got shape {pixels.shape} of {pixels.dtype}"
    assert str(caught.value) == message


def test_what_is_no_picture_at_all_is_refused(detector):
    with pytest.raises(DataError, match=r"a picture must be a path, an RGB array .* or a picture of PIL, got Tensor"):
        detector.predict([torch.zeros(3, 8, 8)])


def test_a_file_that_is_no_picture_is_named(detector, tmp_path):
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(BadImageError, match=r"text.png"):
        detector.predict(tmp_path / "text.png")


# --- a detector put together by hand -----------------------------------------------------------------------------


def made_by_hand(*patch_sizes, normalization=Normalization.none, transforms=FLOATS, calibrated=True, **of_scores):
    torch.manual_seed(0)
    statistics = MapStatistics(mean=6.0, std=2.0, quantile_90=8.0, quantile_995=12.0)
    by_size = {size: {"error": statistics, "uncertainty": statistics} for size in patch_sizes}
    scales = {
        size: ScaleModel(
            teacher=PatchNetwork(size, descriptor_dim=4, width=0.1),
            statistics=TeacherStatistics(mean=torch.zeros(4), std=torch.ones(4)),
            ensemble=StudentEnsemble(2, patch_size=size, descriptor_dim=4, width=0.1, seed=1),
        )
        for size in patch_sizes
    }
    return Detector(
        scales,
        pipeline=build_transforms(transforms, key="augmentation.evaluation", patch_size=None),
        scoring=plain_scores.scoring(normalization=normalization, **of_scores),
        calibration=plain_scores.calibration(statistics=by_size) if calibrated else None,
        compute=Compute(torch.device("cpu"), torch.float32),
    )


def picture_of(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_three_scales_are_the_mean_of_three_detectors():
    pixels = picture_of(40, 52)
    together = made_by_hand(17, 33, 65, normalization=Normalization.zscore)
    apart = []
    for size in (17, 33, 65):
        single = made_by_hand(17, 33, 65, normalization=Normalization.zscore)
        single.scales = {size: single.scales[size]}
        apart.append(single.predict(pixels)[0].anomaly_map)
    prediction = together.predict(pixels)[0]
    np.testing.assert_allclose(prediction.anomaly_map, np.mean(apart, axis=0), rtol=1e-4, atol=1e-5)
    assert prediction.anomaly_score == pytest.approx(float(prediction.anomaly_map.max()))


def test_positions_at_the_border_take_the_error_beside_them_if_the_settings_say_so():
    prepared = torch.from_numpy(picture_of(80, 80)).permute(2, 0, 1)
    with_border, without = (made_by_hand(33, border_px=border_px).raw_maps(prepared)[33].error for border_px in (16, 0))
    assert torch.equal(with_border[16:64, 16:64], without[16:64, 16:64])
    assert torch.equal(with_border[:16], with_border[16].expand(16, 80))
    assert torch.equal(with_border[:, :16], with_border[:, 16, None].expand(80, 16))
    assert not torch.equal(with_border, without)


@pytest.mark.parametrize("size", [(1, 1), (9, 64), (70, 33)])
@pytest.mark.parametrize("stride_px", [1, 4])
def test_without_resize_the_networks_see_the_picture_as_it_is(size, stride_px):
    prediction = made_by_hand(33, stride_px=stride_px).predict(picture_of(*size))[0]
    assert prediction.anomaly_map.shape == size
    assert prediction.anomaly_score == pytest.approx(float(prediction.anomaly_map.max()))


class LiveBytes(TorchDispatchMode):
    """Adds up the memory of all tensors that are alive, and remembers the most."""

    def __init__(self):
        super().__init__()
        self.uses, self.live, self.most = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._use(storage.data_ptr(), storage.nbytes())
                weakref.finalize(tensor, self._release, storage.data_ptr(), storage.nbytes())
        self.most = max(self.most, self.live)
        return result

    def _use(self, pointer, size):
        self.uses[pointer] = self.uses.get(pointer, 0) + 1
        self.live += size if self.uses[pointer] == 1 else 0

    def _release(self, pointer, size):
        self.uses[pointer] -= 1
        self.live -= size if self.uses[pointer] == 0 else 0


def growth_of_memory(detector, sides, work):
    """Bytes per pixel of the picture by which the memory of `work` grows from one side to the other."""
    most = []
    for side in sides:
        prepared = detector.pipeline.prefix(picture_of(side, side))
        with LiveBytes() as counted:
            work(prepared)
        most.append(counted.most)
    return (most[1] - most[0]) / (sides[1] ** 2 - sides[0] ** 2)


@pytest.mark.parametrize(("stride_px", "border_px"), [(1, 0), (4, 0), (1, 16), (4, 16)])
def test_raw_maps_take_few_bytes_per_pixel_of_the_picture(monkeypatch, stride_px, border_px):
    """Both maps on the grid and no more: neither the network's input nor descriptors of the whole are ever there."""
    monkeypatch.setattr(raw_maps, "MAX_TILE_PIXELS", 32 * 32)
    detector = made_by_hand(33, stride_px=stride_px, border_px=border_px)
    assert (
        growth_of_memory(detector, (128, 256), detector.raw_maps) < 8 / stride_px**2 + 3
    )  # 3: indices, tests of finiteness


@pytest.mark.parametrize(("stride_px", "bytes_per_pixel"), [(1, 20), (4, 8)])
def test_scores_take_few_bytes_per_pixel_of_the_picture(monkeypatch, stride_px, bytes_per_pixel):
    """Two maps at once; at stride 1 also the raw maps and a map that is being added up."""
    monkeypatch.setattr(bands, "PIXELS_AT_ONCE", 1000)
    detector = made_by_hand(33, stride_px=stride_px, normalization=Normalization.zscore, smoothing_sigma_px=2.0)

    def raw_maps(self, prepared):
        grid = Grid(*prepared.shape[1:], stride_px)
        return {33: RawMaps(*(torch.rand(*map(len, grid.axes)) for _ in range(2)), grid)}

    monkeypatch.setattr(Detector, "raw_maps", raw_maps)
    grown = growth_of_memory(
        detector, (200, 400), lambda prepared: detector.predict_prepared(prepared, height=1, width=1)
    )
    assert bytes_per_pixel * 0.9 < grown < bytes_per_pixel + 4


def test_the_score_is_taken_before_the_map_is_resized_to_the_picture():
    transforms = [TransformSettings(name="Resize", params={"size": [24, 24]}), *FLOATS]
    detector = made_by_hand(17, transforms=transforms)
    pixels = picture_of(60, 80)
    raw = detector.raw_maps(detector.pipeline.prefix(pixels))[17]
    prediction = detector.predict(pixels)[0]
    assert raw.error.shape == (24, 24)
    assert prediction.anomaly_map.shape == (60, 80)
    assert prediction.anomaly_score == pytest.approx(float((raw.error + raw.uncertainty).max()))


def test_bfloat16_gives_nearly_the_scores_of_float32(trained, detector, parts):
    """Scores are sums of squared differences of values that are rounded by up to 0.4 percent."""
    coarse = load(trained, device="cpu", precision="bfloat16", num_threads=1)
    paths = sorted(parts.glob("images/*/*.png"))
    exact = np.array([prediction.anomaly_score for prediction in detector.predict(paths)])
    rounded = np.array([prediction.anomaly_score for prediction in coarse.predict(paths)])
    np.testing.assert_allclose(rounded, exact, rtol=0.05)


def test_without_calibration_there_are_maps_and_no_scores():
    detector = made_by_hand(17, calibrated=False)
    assert detector.raw_maps(torch.zeros(3, 8, 8, dtype=torch.uint8))[17].error.shape == (8, 8)
    with pytest.raises(MissingArtifactError, match=r"the detector is not calibrated: run `usad calibrate` first"):
        detector.predict(picture_of(8, 8))


# --- inside of a program that uses torch itself ------------------------------------------------------------------


@pytest.fixture
def torch_as_it_is():
    """Puts back what a test tells torch."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def test_scores_do_not_follow_autocast(detector, parts):
    path = parts / "images/cut/000.png"
    (expected,) = detector.predict(path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (prediction,) = detector.predict(path)
        raw = detector.raw_maps(detector.pipeline.prefix(picture_of(48, 48)))[33]
        assert torch.is_autocast_enabled("cpu")
    assert prediction.anomaly_score == expected.anomaly_score
    assert np.array_equal(prediction.anomaly_map, expected.anomaly_map)
    assert torch.equal(raw.error, detector.raw_maps(detector.pipeline.prefix(picture_of(48, 48)))[33].error)


@pytest.mark.usefixtures("torch_as_it_is")
@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), ("cpu", torch.float64)])
def test_scores_do_not_follow_default_device_and_format(trained, detector, parts, device, dtype):
    path, pixels = parts / "images/cut/000.png", picture_of(40, 52)
    smoothed = made_by_hand(17, 33, stride_px=3, smoothing_sigma_px=2.0, normalization=Normalization.zscore)
    expected = [*detector.predict(path), *smoothed.predict(pixels)]
    torch.set_default_device(device)
    torch.set_default_dtype(dtype)
    predictions = [*load(trained, device="cpu", precision="float32").predict(path), *smoothed.predict(pixels)]
    assert (torch.get_default_device().type, torch.get_default_dtype()) == (device, dtype)
    for prediction, other in zip(predictions, expected, strict=True):
        assert prediction.anomaly_score == other.anomaly_score
        assert prediction.anomaly_map.dtype == np.float32
        assert np.array_equal(prediction.anomaly_map, other.anomaly_map)


@pytest.mark.usefixtures("torch_as_it_is")
def test_loading_sets_the_number_of_threads_only_where_it_is_given(trained):
    torch.set_num_threads(3)
    load(trained, device="cpu")
    assert torch.get_num_threads() == 3
    load(trained, device="cpu", num_threads=2)
    assert torch.get_num_threads() == 2


# --- faults ------------------------------------------------------------------------------------------------------


def test_weights_that_give_no_numbers_are_reported():
    detector = made_by_hand(17)
    with torch.no_grad():
        detector.scales[17].teacher.layers[0].bias.fill_(float("nan"))
    with pytest.raises(ArtifactError, match=r"patch size 17 gives values that are not finite numbers: train it again"):
        detector.predict(picture_of(8, 8))


# --- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("calibration.json", "calibrate"),
        ("p33/teacher.pt", "distill-teacher"),
        ("p33/teacher_statistics.pt", "normalize"),
        ("p33/students.pt", "train-students"),
    ],
)
def test_a_missing_part_names_the_command_that_makes_it(trained_copy, file, command):
    (trained_copy / file).unlink()
    with pytest.raises(MissingArtifactError, match=rf"{file} does not exist: run `usad {command}`"):
        load(trained_copy)


@pytest.mark.parametrize("file", ["calibration.json", "p33/teacher.pt", "p33/students.pt", "p33/teacher_statistics.pt"])
def test_a_damaged_part_is_named(trained_copy, file):
    (trained_copy / file).write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=file.rpartition("/")[2].replace(".", r"\.")):
        load(trained_copy)


def test_a_run_directory_can_be_moved_and_loaded_without_its_data(trained, detector, tmp_path, parts):
    moved = shutil.copytree(trained, tmp_path / "elsewhere")
    shutil.rmtree(moved / "maps")
    again = load(moved, device="cpu", precision="float32", num_threads=1)
    path = parts / "images/hole/001.png"
    assert again.predict(path)[0].anomaly_score == detector.predict(path)[0].anomaly_score


def test_the_home_folder_is_found(trained, monkeypatch):
    monkeypatch.setenv("HOME", str(trained.parent))
    assert load(f"~/{trained.name}", device="cpu").calibration is not None


def test_larger_files_than_wanted_are_refused(trained, parts):
    detector = load(trained, device="cpu", max_image_pixels=48 * 48 - 1)
    with pytest.raises(BadImageError, match=r"48 x 48 pixels are more than .*max_image_pixels=2303 allows"):
        detector.predict(parts / "images/cut/000.png")


def test_scoring_can_be_compiled_and_the_device_be_one_of_torch(trained):
    compute = load(trained, device=torch.device("cpu"), compile=True).compute
    assert (compute.device, compute.compile) == (torch.device("cpu"), True)
    assert not load(trained, device="cpu").compute.compile


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"precision": "fp16"}, "`precision` must be auto, float32 or bfloat16, got 'fp16'"),
        ({"device": "gpu"}, "`device` must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"device": torch.device("meta")}, "`device` must be auto, cpu, cuda or cuda:N, got 'meta'"),
        (
            {"device": torch.device("cuda", 1)},
            "`device` is cuda:1, but torch sees no CUDA device: use device=cpu or auto",
        ),
        ({"num_threads": 0}, "`num_threads` must be at least 1, got 0"),
        ({"max_image_pixels": 0}, "`max_image_pixels` must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_told(trained, monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError) as caught:
        load(trained, **arguments)
    assert str(caught.value) == said


def test_a_calibration_of_before_there_was_a_border_scores_every_position_as_then(trained_copy):
    path = trained_copy / "calibration.json"
    content = read_json(path)
    assert content["scoring"].pop("border_px") == 16
    assert read_calibration(content, path=path)[1].border_px == 0
    assert "border_px" not in content["scoring"]  # what was read is left as it is


def test_the_package_offers_the_detector_and_nothing_that_is_not_there():
    assert us_anomaly.load is load
    assert us_anomaly.Detector is Detector
    assert us_anomaly.Prediction is Prediction
    with pytest.raises(AttributeError, match="module 'us_anomaly' has no attribute 'laod'"):
        _ = us_anomaly.laod
