"""Numbers at the edge of what there can be: each has a defined outcome."""

import json
import math
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_parts
from PIL import Image
from torture import contents, differences

import us_anomaly
from us_anomaly.commands import calibrate, distill_teacher, evaluate, infer, normalize, split, train_students
from us_anomaly.detector import Detector
from us_anomaly.errors import ArtifactError, DataError, TrainingError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, read_tensors, write_tensors
from us_anomaly.scoring.scored_images import parse_predictions
from us_anomaly.training import distillation, regression
from us_anomaly.training.artifacts import load_statistics
from us_anomaly.training.normalization import RunningMoments

STAGES = (split, distill_teacher, normalize, train_students, calibrate, infer, evaluate)


def stages(compose, arguments) -> RunDir:
    settings = compose("run", *arguments)
    for stage in STAGES:
        stage.run(settings)
    return RunDir(settings.run_dir)


def is_complete(run_dir: RunDir) -> bool:
    scores = [line["prediction"]["anomaly_score"] for line in parse_predictions(run_dir.predictions.read_text())]
    normalized = [line["prediction"]["normalized_score"] for line in parse_predictions(run_dir.predictions.read_text())]
    evaluation = read_json(run_dir.evaluation_json)
    return (
        bool(scores) and all(map(math.isfinite, scores)) and all(0 <= n <= 1 for n in normalized) and bool(evaluation)
    )


# --- losses that are not finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_students_whose_loss_is_not_finite_stop_with_the_last_good_state_kept(
    trained_copy, compose, tiny, monkeypatch, value
):
    run_dir = RunDir(trained_copy)
    before = contents(trained_copy)
    settings = compose("run", *tiny(trained_copy, "students.steps=9", "checkpoint.every_steps=1", "overwrite=true"))
    genuine, calls = regression.regression_loss, []

    def diverging(*arguments, **options):
        calls.append(1)
        loss = genuine(*arguments, **options)
        return loss * value if len(calls) > 2 * 4 else loss  # two students: from the fifth step on

    monkeypatch.setattr(regression, "regression_loss", diverging)
    with pytest.raises(TrainingError, match=rf"the loss became {value} at step 5: lower the learning rate"):
        train_students.run(settings)
    state = read_tensors(run_dir.training_state(run_dir.students(33)))
    assert state["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in state["parts"]["ensemble"].values())
    after = contents(trained_copy)
    changed = {"p33/students.losses.jsonl", "p33/students.resume.pt"}
    assert {line.split()[0] for line in differences(before, after)} == changed


def test_a_teacher_whose_loss_is_not_finite_stops_with_the_last_good_state_kept(tmp_path, compose, tiny, monkeypatch):
    settings = compose("run", *tiny(tmp_path / "run", "checkpoint.every_steps=1"))
    genuine, calls = distillation.distillation_loss, []

    def diverging(*arguments):
        calls.append(1)
        return genuine(*arguments) * (float("nan") if len(calls) > 3 else 1)

    monkeypatch.setattr(distillation, "distillation_loss", diverging)
    split.run(settings)
    with pytest.raises(TrainingError, match="loss became nan at step 4"):
        distill_teacher.run(settings)
    run_dir = RunDir(tmp_path / "run")
    assert read_tensors(run_dir.training_state(run_dir.teacher(33)))["step"] == 3
    assert not run_dir.teacher(33).exists()


def test_gradients_that_are_not_finite_never_reach_a_file_though_every_loss_is_finite(
    trained_copy, compose, tiny, monkeypatch
):
    run_dir = RunDir(trained_copy)
    settings = compose("run", *tiny(trained_copy, "students.steps=4", "checkpoint.every_steps=1", "overwrite=true"))
    genuine, calls = regression.regression_loss, []

    class Poisoned(torch.autograd.Function):
        @staticmethod
        def forward(context, loss):
            return loss.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("nan")

    def poisoned(*arguments, **options):
        calls.append(1)
        loss = genuine(*arguments, **options)
        return Poisoned.apply(loss) if len(calls) > 2 * 3 else loss  # in the last step

    monkeypatch.setattr(regression, "regression_loss", poisoned)
    before = run_dir.students(33).read_bytes()
    with pytest.raises(TrainingError, match="holds values that are not finite numbers"):
        train_students.run(settings)
    assert read_tensors(run_dir.training_state(run_dir.students(33)))["step"] == 3
    assert run_dir.students(33).read_bytes() == before


def test_a_learning_rate_that_lets_the_weights_explode_ends_in_an_error_and_not_in_an_artifact(
    trained_copy, compose, tiny
):
    run_dir = RunDir(trained_copy)
    before = run_dir.students(33).read_bytes()
    settings = compose("run", *tiny(trained_copy, "students.learning_rate=1e30", "students.steps=20", "overwrite=true"))
    with pytest.raises(TrainingError, match=r"learning rate"):
        train_students.run(settings)
    assert run_dir.students(33).read_bytes() == before


def test_a_detector_that_gives_what_is_no_number_is_told_and_scores_nothing(trained_copy, compose, tiny):
    """Weights at the end of what float32 holds: finite themselves, but not their answers."""
    detector = us_anomaly.load(trained_copy, device="cpu", precision="float32")
    for student in detector.scales[33].ensemble.networks:
        for parameter in student.parameters():
            parameter.fill_(1e30)
    with pytest.raises(ArtifactError, match="the detector of patch size 33 gives values that are not finite numbers"):
        detector.predict(np.zeros((48, 48, 3), np.uint8))


# --- constant, few, equal ----------------------------------------------------------------------------------------


def constant_teacher(trained: Path, path: Path, *, dims: slice) -> Path:
    """Write a teacher whose descriptors are constant in some dimensions."""
    state = read_tensors(trained / "p33" / "teacher.pt")
    last = max(name for name in state["network"] if name.endswith("weight"))
    state["network"][last][dims] = 0
    write_tensors(path, state)
    return path


def test_a_constant_descriptor_dimension_is_normalised_by_the_typical_deviation(trained, tmp_path, compose, tiny):
    teacher = constant_teacher(trained, tmp_path / "teacher.pt", dims=slice(2, 4))
    run_dir = stages(compose, tiny(tmp_path / "run", f"teacher.checkpoint={teacher}"))
    std = load_statistics(run_dir.teacher_statistics(33)).std
    others = torch.cat([std[:2], std[4:]])
    assert torch.equal(std[2:4], others.median().expand(2))
    assert is_complete(run_dir)


def test_a_teacher_that_is_constant_altogether_gives_defined_scores_and_figures(trained, tmp_path, compose, tiny):
    teacher = constant_teacher(trained, tmp_path / "teacher.pt", dims=slice(None))
    run_dir = stages(compose, tiny(tmp_path / "run", f"teacher.checkpoint={teacher}"))
    assert torch.equal(load_statistics(run_dir.teacher_statistics(33)).std, torch.ones(8))
    assert is_complete(run_dir)


@pytest.mark.parametrize("normalization", ["none", "zscore", "quantile"])
def test_equal_scores_everywhere_have_a_threshold_colours_and_figures_at_chance(
    trained, trained_copy, compose, tiny, normalization
):
    run_dir = RunDir(trained_copy)
    genuine = Detector.raw_maps

    def equal(self, prepared):
        return {
            size: type(maps)(torch.full_like(maps.error, 3.0), torch.zeros_like(maps.uncertainty), maps.grid)
            for size, maps in genuine(self, prepared).items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "raw_maps", equal)
        settings = compose("run", *tiny(trained_copy, f"scoring.normalization={normalization}", "overwrite=true"))
        for stage in (calibrate, infer, evaluate):
            stage.run(settings)
    assert is_complete(run_dir)
    evaluation = read_json(run_dir.evaluation_json)
    assert evaluation["metrics"]["image_auroc"] == 0.5
    assert evaluation["metrics"]["pixel_auroc"] == 0.5
    calibration = read_json(run_dir.calibration)["calibration"]
    low, high = calibration["color_range"]
    assert low < high
    lines = parse_predictions(run_dir.predictions.read_text())
    assert len({line["prediction"]["anomaly_score"] for line in lines}) == 1
    assert len({line["prediction"]["is_anomalous"] for line in lines}) == 1


@pytest.fixture
def few_parts(tmp_path):
    """A table with chosen numbers of pictures in each split."""

    def draw(train: int, val: int, test_normal: int = 2, test_anomalous: int = 2) -> list[str]:
        root = draw_parts(tmp_path / "few", num_normal=train + val + test_normal)
        names = sorted(path.name for path in (root / "images/good").iterdir())
        wanted = ["train"] * train + ["val"] * val + ["test"] * test_normal
        rows = [f"images/good/{name},0,,{which}" for name, which in zip(names, wanted, strict=True)]
        rows += [f"images/cut/{n:03}.png,1,masks/cut/{n:03}.png,test" for n in range(test_anomalous)]
        (root / "table.csv").write_text("\n".join(["filename,is_anomalous,mask_path,split", *rows]))
        return ["data=csv", f"data.root={root}", "data.file=table.csv", "split.validation_fraction=0"]

    return draw


def own(arguments: list[str], data: list[str], teacher: Path) -> list[str]:
    """Return the arguments with another data set, and with a teacher that is there already."""
    others = [argument for argument in arguments if not argument.startswith("data")]
    return [*others, *data, f"teacher.checkpoint={teacher / 'p33' / 'teacher.pt'}"]


@pytest.mark.parametrize("threshold", ["f1", "quantile", "max_false_positive_rate"])
def test_a_validation_split_of_one_picture_gives_a_threshold(trained, tmp_path, compose, tiny, few_parts, threshold):
    arguments = own(tiny(tmp_path / "run", f"calibration.threshold={threshold}"), few_parts(train=4, val=1), trained)
    run_dir = stages(compose, arguments)
    calibration = read_json(run_dir.calibration)["calibration"]
    assert calibration["num_normal"] == 1
    assert is_complete(run_dir)
    (validation,) = [
        line for line in parse_predictions(run_dir.predictions.read_text()) if line["filename"] == "images/good/004.png"
    ]
    assert validation["prediction"]["anomaly_score"] <= calibration["image_threshold"] * (1 + 1e-6)


def test_one_training_picture_and_no_validation_give_a_detector_calibrated_on_it_with_a_warning(
    trained, tmp_path, compose, tiny, few_parts, caplog
):
    """Fewer pictures than students, and fewer than a batch holds."""
    data = few_parts(train=1, val=0)
    arguments = own(tiny(tmp_path / "run", "students.num_students=3", "students.batch_size=4"), data, trained)
    run_dir = stages(compose, arguments)
    assert read_tensors(run_dir.students(33))["num_students"] == 3
    assert read_json(run_dir.calibration)["calibration"]["reference"] == "train"
    assert "validation has no normal picture: calibrating on the training pictures" in caplog.text
    assert is_complete(run_dir)


def test_a_training_split_without_pictures_is_refused(trained, tmp_path, compose, tiny, few_parts):
    data = few_parts(train=2, val=1)
    arguments = own(tiny(tmp_path / "run"), data, trained)
    table = tmp_path / "few" / "table.csv"
    table.write_text(table.read_text().replace(",train", ",val"))
    with pytest.raises(DataError, match="it has no train"):
        split.run(compose("split", *arguments, "split.mode=predefined"))


def test_test_pictures_without_an_anomaly_have_an_evaluation_that_says_what_is_absent(
    trained, tmp_path, compose, tiny, few_parts
):
    arguments = own(tiny(tmp_path / "run"), few_parts(train=3, val=1, test_anomalous=0), trained)
    run_dir = stages(compose, arguments)
    evaluation = read_json(run_dir.evaluation_json)
    assert "image_auroc" in evaluation["absent"]
    assert "image_auroc" not in evaluation["metrics"]


def test_pictures_of_one_pixel_go_through_the_whole_pipeline(trained, tmp_path, compose, tiny):
    root = draw_parts(tmp_path / "parts", num_normal=8, side_px=48)
    for path in sorted(root.rglob("images/*/*.png")):
        Image.new("RGB", (1, 1), tuple(np.random.default_rng(path.stem.encode()[-1]).integers(0, 255, 3))).save(path)
    shutil.rmtree(root / "masks")
    run_dir = stages(compose, own(tiny(tmp_path / "run"), ["data=folder", f"data.root={root}"], trained))
    assert is_complete(run_dir)


# --- statistics --------------------------------------------------------------------------------------------------


def exact_moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and population deviation in exact arithmetic."""
    numbers = [Fraction(float(value)) for value in values]
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
    return float(mean), float(variance) ** 0.5


@pytest.mark.parametrize(("offset", "deviation"), [(1e9, 1e-3), (-1e9, 1e-3), (1e6, 1e-6), (0.0, 1e-9), (1e15, 10.0)])
def test_a_large_offset_and_a_tiny_variance_keep_their_digits_over_many_blocks(offset, deviation):
    values = np.random.default_rng(0).normal(offset, deviation, size=6000)
    moments = RunningMoments()
    for block in torch.from_numpy(values)[:, None].split(7):
        moments.update(block)
    mean, std = exact_moments(values)
    assert moments.count == 6000
    assert float(moments.mean) == pytest.approx(mean, rel=1e-15)
    assert float(moments.std) == pytest.approx(std, rel=1e-12)


def test_the_naive_formula_fails_on_these_values_so_that_the_test_can_tell():
    values = np.random.default_rng(0).normal(1e9, 1e-3, size=6000)
    naive = np.mean(values**2) - np.mean(values) ** 2
    assert not naive > 0 or abs(naive**0.5 / 1e-3 - 1) > 0.5


def take_in(moments: RunningMoments, other: RunningMoments) -> None:
    """Let moments go on as they do after a block of all values that `other` has seen: a billion fit into no block."""
    mean = (other._origin - moments._origin) + other._mean
    moments._merge(other.count, mean, other._squares, other._products)


def test_statistics_hold_on_more_than_a_billion_values():
    """Doubling: 2**20 times a block of a thousand values has the mean and deviation of the block."""
    values = np.random.default_rng(1).normal(1e9, 1e-3, size=(1000, 2))
    moments = RunningMoments()
    moments.update(torch.from_numpy(values))
    for _ in range(20):
        take_in(moments, moments)
    assert moments.count == 1000 * 2**20 > 10**9
    for column in range(2):
        mean, std = exact_moments(values[:, column])
        assert float(moments.mean[column]) == pytest.approx(mean, rel=1e-15)
        assert float(moments.std[column]) == pytest.approx(std, rel=1e-12)


def test_a_billion_values_far_from_the_first_ones_move_mean_and_deviation_as_the_formula_says():
    many, few = RunningMoments(), RunningMoments()
    far, near = 2.0**30, 2.0**-10  # numbers that doubles hold exactly
    many.update(torch.tensor([[far - near], [far + near]], dtype=torch.float64))
    for _ in range(29):
        take_in(many, many)
    few.update(torch.tensor([[far + 1.0]] * 4, dtype=torch.float64))
    take_in(few, many)
    share = 4 / few.count
    assert few.count == 2**30 + 4
    assert float(few.mean - far) == pytest.approx(share, abs=2**-22)  # the spacing of doubles there
    assert float(few.std) ** 2 == pytest.approx(near**2 * (1 - share) + share * (1 - share), rel=1e-12)


def test_predictions_are_json_that_every_parser_reads(trained):
    for line in (trained / "predictions.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
