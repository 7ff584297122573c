"""Every range check, by the message that a user sees."""

import dataclasses

import pytest

from us_anomaly import settings as module
from us_anomaly.errors import SettingsError
from us_anomaly.settings import (
    BACKBONES,
    DATA_LAYOUTS,
    Normalization,
    Settings,
    TeacherPositions,
)
from us_anomaly.settings.checks import above, at_least, between, not_empty


@pytest.fixture(scope="module")
def settings(compose) -> Settings:
    return compose("run", "data.root=x")


def changed(settings, key, value):
    """Build the settings anew with one value changed, which checks all of them."""
    group, _, name = key.rpartition(".")
    if not group:
        return dataclasses.replace(settings, **{key: value})
    return dataclasses.replace(settings, **{group: dataclasses.replace(getattr(settings, group), **{name: value})})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "`seed` must be at least 0, got -1"),
        ("seed", 20261128093000, "`seed` must be at most 10000000000000, got 20261128093000"),
        ("image_size", 8, "`image_size` must be at least 16, got 8"),
        ("image_size", [64, 8], "`image_size` must be at least 16, got 8"),
        ("scales", [], "`scales` must not be empty: add for example scales=[33]"),
        ("run_dir", "", "`run_dir` must not be empty: add for example run_dir=runs/NAME"),
        ("scales", [32], "`scales` may hold 17, 33, 65, 66, 132, got 32"),
        ("scales", [33, 17], "`scales` must be ascending without repeats, got [33, 17]"),
        ("scales", [33, 33], "`scales` must be ascending without repeats, got [33, 33]"),
        (
            "scales",
            [17, 33],
            "`scales` has 2 patch sizes, whose scores can only be averaged on a common scale: add scoring.n",
        ),
        (
            "data.name",
            "a b",
            "`data.name` is used as a folder name: letters, digits, dot, dash and underscore only, got 'a b'",
        ),
        ("data.name", "..", "`data.name` is used as a folder name"),
        ("data.root", "", "`data.root` must not be empty: add for example data.root=/path/to/data"),
        ("data.max_image_pixels", 0, "`data.max_image_pixels` must be at least 1, got 0"),
        ("split.ratios", "70-20", "`split.ratios` must be three percentages train-val-test that add up to 100"),
        ("split.ratios", "70-20-20", "for example 70-15-15, got '70-20-20'"),
        ("split.ratios", "0-50-50", "got '0-50-50'"),
        ("split.ratios", "100-0-0", "got '100-0-0'"),
        ("split.validation_fraction", 0.95, "`split.validation_fraction` must be between 0 and 0.9, got 0.95"),
        (
            "augmentation.students",
            [],
            "`augmentation.students` must not be empty: it needs at least ToImage and ToDtype",
        ),
        ("backbone.input_size_px", 16, "`backbone.input_size_px` must be greater than 16, got 16"),
        ("backbone.layers", [6], "`backbone.layers` must be between 1 and 5, got 6"),
        ("backbone.layers", [3, 2], "`backbone.layers` must be ascending without repeats, got [3, 2]"),
        ("finetuning.epochs", 0, "`finetuning.epochs` must be at least 1, got 0"),
        ("finetuning.steps", 0, "`finetuning.steps` must be at least 1, got 0"),
        ("finetuning.batch_size", 0, "`finetuning.batch_size` must be at least 1, got 0"),
        ("finetuning.crop_size_px", 16, "`finetuning.crop_size_px` must be at least 32, got 16"),
        ("finetuning.learning_rate", 0, "`finetuning.learning_rate` must be greater than 0, got 0"),
        ("finetuning.weight_decay", -1, "`finetuning.weight_decay` must be at least 0, got -1"),
        ("finetuning.frozen_stages", 5, "`finetuning.frozen_stages` must be between 0 and 4, got 5"),
        ("finetuning.head_width", -1, "`finetuning.head_width` must be between 0 and 4096, got -1"),
        ("finetuning.held_out_fraction", 0, "`finetuning.held_out_fraction` must be greater than 0, got 0"),
        ("finetuning.held_out_fraction", 1, "`finetuning.held_out_fraction` must be between 0 and 0.9, got 1"),
        ("finetuning.patience", 0, "`finetuning.patience` must be at least 1, got 0"),
        (
            "teacher.images",
            [],
            "`teacher.images` must be train, generic, photographs, procedural, a folder, or a mix with weights",
        ),
        ("teacher.images", {"train": -1}, "such as {train: 0.3, generic: 0.7}, got {'train': -1}"),
        ("teacher.images", 3, "got 3"),
        ("teacher.descriptor_dim", 1, "`teacher.descriptor_dim` must be between 2 and 4096, got 1"),
        ("teacher.width", 0.01, "`teacher.width` must be between 0.05 and 8, got 0.01"),
        ("teacher.epochs", 0, "`teacher.epochs` must be at least 1, got 0"),
        ("teacher.steps", 0, "`teacher.steps` must be at least 1, got 0"),
        ("teacher.patches_per_image", 0, "`teacher.patches_per_image` must be at least 1, got 0"),
        ("teacher.batch_size", 1, "`teacher.batch_size` must be at least 2, got 1"),
        ("teacher.crop_size_px", 16, "`teacher.crop_size_px` must be at least 32, got 16"),
        ("teacher.learning_rate", 0, "`teacher.learning_rate` must be greater than 0, got 0"),
        ("teacher.learning_rate", float("nan"), "`teacher.learning_rate` must be greater than 0, got nan"),
        ("teacher.learning_rate", float("inf"), "must be greater than 0 and finite, got inf"),
        ("scoring.smoothing_sigma_px", float("inf"), "must be at least 0 and finite, got inf"),
        ("data.root", "~nobody-of-this-name/x", "there is no user of that name, got '~nobody-of-this-name/x'"),
        ("backbone.weights", "~nobody-of-this-name/x", "there is no user of that name"),
        ("teacher.checkpoint", "~nobody-of-this-name/x", "there is no user of that name"),
        ("teacher.images", "~nobody-of-this-name/x", "there is no user of that name"),
        ("inference.input", "~nobody-of-this-name/x", "there is no user of that name"),
        (
            "inference.output",
            "results",
            "`inference.output` is where the results of inference.input go, which is not set",
        ),
        ("inference.output", "", "`inference.output` must not be empty: add for example inference.output=results"),
        ("tracking.directory", "~nobody-of-this-name/x", "there is no user of that name"),
        ("cache_dir", "~nobody-of-this-name/x", "there is no user of that name"),
        ("teacher.weight_decay", -1, "`teacher.weight_decay` must be at least 0, got -1"),
        ("teacher.compactness_weight", -1, "`teacher.compactness_weight` must be at least 0, got -1"),
        ("teacher.metric_weight", -1, "`teacher.metric_weight` must be at least 0, got -1"),
        ("teacher.metric_margin", -1, "`teacher.metric_margin` must be at least 0, got -1"),
        ("teacher.min_explained_variance", 2, "`teacher.min_explained_variance` must be between -1 and 1, got 2"),
        ("students.num_students", 0, "`students.num_students` must be at least 1, got 0"),
        ("students.width", 9, "`students.width` must be between 0.05 and 8, got 9"),
        ("students.epochs", 0, "`students.epochs` must be at least 1, got 0"),
        ("students.steps", 0, "`students.steps` must be at least 1, got 0"),
        ("students.batch_size", 0, "`students.batch_size` must be at least 1, got 0"),
        ("students.learning_rate", 0, "`students.learning_rate` must be greater than 0, got 0"),
        ("students.weight_decay", -1, "`students.weight_decay` must be at least 0, got -1"),
        ("students.hard_fraction", 0, "`students.hard_fraction` must be greater than 0, got 0"),
        ("students.hard_fraction", 2, "`students.hard_fraction` must be between 0 and 1, got 2"),
        ("students.extra_layers", 9, "`students.extra_layers` must be between 0 and 8, got 9"),
        ("students.window_px", 31, "`students.window_px` must be at least 32, got 31"),
        ("students.noise", -1, "`students.noise` must be at least 0, got -1"),
        ("students.validate_every_steps", 0, "`students.validate_every_steps` must be at least 1, got 0"),
        ("students.patience", 0, "`students.patience` must be at least 1, got 0"),
        ("students.patience", 3, "`students.patience` counts validations: set students.validate_every_steps too"),
        ("students.penalty_weight", 1, "weighs pictures that there are none of: set students.penalty_images too"),
        ("students.penalty_weight", -1, "`students.penalty_weight` must be at least 0, got -1"),
        ("scoring.error_weight", -1, "`scoring.error_weight` must be at least 0, got -1"),
        ("scoring.uncertainty_weight", -1, "`scoring.uncertainty_weight` must be at least 0, got -1"),
        ("teacher.whitening_floor", 0, "`teacher.whitening_floor` must be at least 1e-06, got 0"),
        ("scoring.stride_px", 0, "`scoring.stride_px` must be between 1 and 32, got 0"),
        ("scoring.smoothing_sigma_px", -1, "`scoring.smoothing_sigma_px` must be at least 0, got -1"),
        ("scoring.image_score_fraction", 0, "`scoring.image_score_fraction` must be greater than 0, got 0"),
        ("scoring.image_score_fraction", 2, "`scoring.image_score_fraction` must be between 0 and 1, got 2"),
        (
            "calibration.threshold",
            "best",
            "`calibration.threshold` must be one of f1, max_false_positive_rate, min_recall, q",
        ),
        ("calibration.threshold", True, "or a number, got True"),
        ("calibration.threshold", float("inf"), "or a number, got inf"),
        (
            "calibration.max_false_positive_rate",
            2,
            "`calibration.max_false_positive_rate` must be between 0 and 1, got 2",
        ),
        ("calibration.min_recall", 2, "`calibration.min_recall` must be between 0 and 1, got 2"),
        ("calibration.quantile", 2, "`calibration.quantile` must be between 0 and 1, got 2"),
        ("calibration.pixel_quantile", 2, "`calibration.pixel_quantile` must be between 0 and 1, got 2"),
        ("inference.splits", [], "`inference.splits` must not be empty: add for example inference.splits=[val,test]"),
        ("inference.splits", ["all"], "`inference.splits` may hold train, val, test, got 'all'"),
        ("evaluation.bootstrap_samples", -1, "`evaluation.bootstrap_samples` must be at least 0, got -1"),
        ("checkpoint.every_seconds", -1, "`checkpoint.every_seconds` must be at least 0, got -1"),
        ("checkpoint.every_steps", 0, "`checkpoint.every_steps` must be at least 1, got 0"),
        ("runtime.num_threads", 0, "`runtime.num_threads` must be at least 1, got 0"),
        ("runtime.num_workers", -1, "`runtime.num_workers` must be at least 0, got -1"),
        ("runtime.num_drawing_processes", -1, "`runtime.num_drawing_processes` must be at least 0, got -1"),
        ("runtime.device", "gpu", "`runtime.device` must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("runtime.log_level", "loud", "`runtime.log_level` must be debug, info, warning or error, got 'loud'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_a_message_that_quotes_the_key_and_the_value(settings, key, value, message):
    with pytest.raises(SettingsError) as caught:
        changed(settings, key, value)
    assert message in str(caught.value)
    assert f"`{key}`" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("runtime.device", "cuda:1"),
        ("teacher.steps", None),
        ("students.width", None),
        ("split.ratios", "90-0-10"),
        ("split.ratios", "80-20-0"),
        ("calibration.threshold", 3),
        ("calibration.threshold", -0.5),
        ("scoring.error_weight", 0),
        ("students.hard_fraction", 1),
        ("backbone.layers", [1, 5]),
        ("data.name", "bottle-2.1_a"),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_accepted(settings, key, value):
    assert changed(settings, key, value)


def test_two_weights_of_zero_leave_no_score(settings):
    with pytest.raises(
        SettingsError, match=r"`scoring.error_weight` and `scoring.uncertainty_weight` must not both be 0"
    ):
        dataclasses.replace(settings.scoring, error_weight=0, uncertainty_weight=0)


def test_uncertainty_alone_needs_several_students(settings):
    uncertainty = dataclasses.replace(settings.scoring, error_weight=0)
    with pytest.raises(SettingsError, match=r"`scoring.error_weight` is 0, .* a single student has none"):
        dataclasses.replace(
            settings, scoring=uncertainty, students=dataclasses.replace(settings.students, num_students=1)
        )


def test_the_pictures_that_come_with_the_package_have_a_smallest_side(settings):
    built_in = ("generic", "photographs", "procedural", {"train": 1, "procedural": 1})
    for images, is_drawn in (*((name, True) for name in built_in), ("train", False)):
        teacher = dataclasses.replace(settings.teacher, images=images)
        assert dataclasses.replace(settings, teacher=teacher, image_size=32)
        if not is_drawn:
            assert dataclasses.replace(settings, teacher=teacher, image_size=16)
            continue
        with pytest.raises(SettingsError, match=r"`image_size` must have a side of at least 32 pixels .*, got 31$"):
            dataclasses.replace(settings, teacher=teacher, image_size=31)
        assert dataclasses.replace(settings, teacher=teacher, image_size=[16, 32])


@pytest.mark.parametrize(
    ("image_size", "sides"), [(48, (48, 48)), ([32, 96], (32, 96)), ("48", (48, 48)), (["32", 96], (32, 96))]
)
def test_the_size_of_the_input_is_a_square_or_height_and_width(settings, image_size, sides):
    assert dataclasses.replace(settings, image_size=image_size).input_size() == sides


@pytest.mark.parametrize(
    ("image_size", "told"),
    [
        ([48], "[48]"),
        ([48, 48, 48], "[48,48,48]"),
        ("[48,96]", "'[48,96]'"),
        (48.0, "48.0"),
        (True, "true"),
        (None, "null"),
    ],
)
def test_any_other_size_of_the_input_is_refused(settings, image_size, told):
    with pytest.raises(SettingsError, match="`image_size` must be the side of a square") as caught:
        dataclasses.replace(settings, image_size=image_size)
    assert str(caught.value).endswith(f", got {told}")


def test_a_key_belongs_to_one_command_with_all_that_lies_below_it():
    assert all(
        map(module.is_of_one_command, ("run_dir", "tracking", "tracking.tracker", "tracking/a", "inference.input"))
    )
    assert not any(map(module.is_of_one_command, ("run_dirs", "data.root", "inference.splits", "seed")))


def test_a_tilde_stands_for_the_home_folder_wherever_a_path_is_given(compose, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    settings = compose(
        "run", "data.root='~/d'", "backbone.weights='~/w.pt'", "teacher.start_from='~/t.pt'", "teacher.images='~/p'",
        "students.penalty_images='~/q'", "students.penalty_weight=1", "inference.input='~/i'", "inference.output='~/o'",
        "cache_dir='~/c'", "run_dir='~/r'",
    )  # fmt: skip
    given = [
        settings.data.root,
        settings.backbone.weights,
        settings.teacher.start_from,
        *settings.teacher.image_sources(),
    ]
    given += [
        settings.students.penalty_images,
        settings.inference.input,
        settings.inference.output,
        settings.cache_dir,
        settings.run_dir,
    ]
    assert given == [f"/home/me/{name}" for name in ("d", "w.pt", "t.pt", "p", "q", "i", "o", "c", "r")]


@pytest.mark.parametrize("output", [".", "results", "runs/../results/below"])
def test_results_of_other_pictures_do_not_go_into_the_run_directory_itself(settings, output):
    inference = dataclasses.replace(settings.inference, input="photos", output=output)
    assert dataclasses.replace(settings, inference=inference, run_dir="runs/parts")
    with pytest.raises(SettingsError, match=r"`inference\.output` must not lie in the run directory") as caught:
        dataclasses.replace(settings, inference=inference, run_dir=output.partition("/below")[0])
    assert "the results go into " in str(caught.value)


@pytest.mark.parametrize("device", ["3", "cuda:", "cuda:x", "cuda:-1", "gpu", "cpu:0"])
def test_a_device_that_is_none_is_refused(settings, device):
    with pytest.raises(SettingsError, match=r"`runtime.device` must be auto, cpu, cuda or cuda:N"):
        changed(settings, "runtime.device", device)


def test_several_scales_are_fine_on_a_common_scale(settings):
    for normalization in (Normalization.zscore, Normalization.quantile):
        assert dataclasses.replace(
            settings, scales=[17, 33, 65], scoring=dataclasses.replace(settings.scoring, normalization=normalization)
        )


@pytest.mark.parametrize(
    ("scale", "metric_weight", "smallest"), [(17, 0, 32), (33, 0, 37), (65, 0, 69), (33, 1.0, 53), (65, 1.0, 101)]
)
def test_dense_distillation_needs_crops_that_hold_a_patch(settings, scale, metric_weight, smallest):
    def with_crop(side):
        dense = dataclasses.replace(
            settings.teacher, positions=TeacherPositions.dense, metric_weight=metric_weight, crop_size_px=side
        )
        return dataclasses.replace(settings, scales=[scale], teacher=dense)

    assert with_crop(smallest)
    with pytest.raises(SettingsError, match=rf"`teacher.crop_size_px` must be at least {smallest}"):
        with_crop(smallest - 1)


def test_the_triplet_loss_needs_a_second_picture(settings):
    with pytest.raises(
        SettingsError, match=r"`teacher.batch_size` must be at least 2 with teacher.metric_weight above 0"
    ):
        dataclasses.replace(settings.teacher, positions=TeacherPositions.dense, metric_weight=1.0, batch_size=1)


def test_dense_batches_may_hold_one_picture(settings):
    assert dataclasses.replace(settings.teacher, positions=TeacherPositions.dense, batch_size=1)


@pytest.mark.parametrize(
    ("images", "weights"),
    [
        ("generic", {"generic": 1.0}),
        (["train", "generic"], {"train": 0.5, "generic": 0.5}),
        ({"train": 3, "generic": 1}, {"train": 0.75, "generic": 0.25}),
    ],
)
def test_the_weights_of_picture_sources_add_up_to_one(settings, images, weights):
    assert dataclasses.replace(settings.teacher, images=images).image_sources() == weights


@pytest.mark.parametrize("ratios", ["70-15-15", "70-20-10", "80-10-10", "60-30-10"])
def test_ratios_are_read_as_percentages(settings, ratios):
    percentages = dataclasses.replace(settings.split, ratios=ratios).percentages()
    assert "-".join(map(str, percentages)) == ratios


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (at_least, (3, 4), "`k` must be at least 4, got 3"),
        (above, (4, 4), "`k` must be greater than 4, got 4"),
        (between, (0.5, 1, 2), "`k` must be between 1 and 2, got 0.5"),
        (not_empty, ("", "x"), "`k` must not be empty: add for example k=x"),
    ],
)
def test_checks_pass_none_where_it_means_not_set_and_quote_key_and_value(check, arguments, message):
    with pytest.raises(SettingsError) as caught:
        check("k", *arguments)
    assert str(caught.value) == message
    if check is not not_empty:
        check("k", None, *arguments[1:])


def settings_classes():
    found = [value for value in vars(module).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    assert {*DATA_LAYOUTS, *BACKBONES, Settings} <= set(found)
    return found


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_no_field_has_a_default_because_the_yaml_files_are_its_home(kind):
    for field in dataclasses.fields(kind):
        assert field.default is field.default_factory is dataclasses.MISSING, field.name


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_fields_are_given_by_name_and_unknown_ones_are_refused(kind):
    assert all(field.kw_only for field in dataclasses.fields(kind))
    with pytest.raises(TypeError):
        kind(unknown_field=1)
    assert hasattr(kind, "__slots__")


def test_files_that_settings_name_are_known_by_their_keys_and_words_are_no_files(compose):
    words = ("data.root=default", "backbone.weights=default", "teacher.checkpoint=builtin")
    assert compose("run", *words).paths() == {"data.root": "default"}
    files = ("data.root=x", "backbone.weights=builtin", "teacher.checkpoint=default")
    assert compose("run", *files).paths() == {
        "data.root": "x", "backbone.weights": "builtin", "teacher.checkpoint": "default",
    }  # fmt: skip
    assert compose("run", "data.root=x", "teacher.start_from=t.pt").paths()["teacher.start_from"] == "t.pt"
