import json

import pytest

from us_anomaly.errors import ArtifactError
from us_anomaly.scoring.evaluation_file import read_evaluation

GROUPS = ("data_set", "bootstrap", "counts", "metrics", "per_defect_type", "threshold")
GOOD = {"format_version": 1, **{name: {} for name in GROUPS}}


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


@pytest.mark.parametrize("name", GROUPS)
def test_an_evaluation_that_lacks_something_is_refused(tmp_path, name):
    path = write(tmp_path, GOOD | {name: 3})
    with pytest.raises(ArtifactError) as caught:
        read_evaluation(path)
    assert str(caught.value) == (f"{path} is not an evaluation, it lacks {name}; delete it and run `usad evaluate`")
