import json

import pytest

from us_anomaly.errors import ArtifactError
from us_anomaly.scoring.evaluation_file import read_evaluation

GOOD = {
    "format_version": 1,
    "data_set": {"name": "drawn", "category": None},
    "bootstrap": {"num_resamples": 0},
    "counts": {},
    "metrics": {"image_auroc": 0.9, "misses": 1},
    "per_defect_type": {},
    "threshold": {"value": 0.5},
    "resolution": "original",
}
GROUPS = [name for name, value in GOOD.items() if isinstance(value, dict)]


def write(folder, content):
    path = folder / "evaluation.json"
    path.write_text(json.dumps(content))
    return path


def test_an_evaluation_is_read_as_it_is(tmp_path):
    assert read_evaluation(write(tmp_path, GOOD)) == GOOD


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (0, r"has format version 0, and this .* reads version 1: make it again with `usad evaluate overwrite=true`"),
        (2, r"has format version 2, which a newer us_anomaly writes .* update us_anomaly"),
        (None, r"names no format version, and this "),
    ],
)
def test_an_evaluation_of_another_format_is_refused_with_what_to_do(tmp_path, version, advice):
    with pytest.raises(ArtifactError, match=r"evaluation.json " + advice):
        read_evaluation(write(tmp_path, GOOD | {"format_version": version}))


def test_what_is_no_evaluation_is_refused(tmp_path):
    path = write(tmp_path, [1, 2])
    with pytest.raises(ArtifactError) as caught:
        read_evaluation(path)
    assert str(caught.value) == f"{path} is not an evaluation; delete it and run `usad evaluate`"


@pytest.mark.parametrize("content", [3, [], None])
@pytest.mark.parametrize("name", [*GROUPS, "resolution"])
def test_an_evaluation_that_lacks_something_is_refused(tmp_path, name, content):
    path = write(tmp_path, GOOD | {name: content})
    with pytest.raises(ArtifactError) as caught:
        read_evaluation(path)
    assert str(caught.value) == (f"{path} is not an evaluation, it lacks {name}; delete it and run `usad evaluate`")


@pytest.mark.parametrize("group", [name for name in GROUPS if GOOD[name] and name != "metrics"])
def test_an_evaluation_that_lacks_a_part_of_something_is_refused(tmp_path, group):
    first = next(iter(GOOD[group]))
    rest = {key: value for key, value in GOOD[group].items() if key != first}
    with pytest.raises(ArtifactError, match=rf"it lacks {group}\.{first}; delete it"):
        read_evaluation(write(tmp_path, GOOD | {group: rest}))


@pytest.mark.parametrize("value", ["0.9", None, True, [1]])
def test_a_figure_that_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(ArtifactError, match=r"it lacks a number for metrics\.image_auroc; delete it"):
        read_evaluation(write(tmp_path, GOOD | {"metrics": {"image_auroc": value}}))
