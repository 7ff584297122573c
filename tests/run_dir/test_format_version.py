import pytest

from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.format_version import check_format
from us_anomaly.version import __version__


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            None,
            rf"names no format version, and this us_anomaly \({__version__}\) reads version 2: make it again with `usad normal",
        ),
        (1, r"has format version 1, and this .* make it again with `usad normalize overwrite=true`"),
        (3, r"has format version 3, which a newer us_anomaly writes .*: update us_anomaly$"),
        ("2", "has format version 2, and this"),
        (True, "has format version True"),
    ],
)
def test_another_format_version_in_a_file_is_refused_with_what_to_do(tmp_path, version, message):
    with pytest.raises(ArtifactError, match=message):
        check_format(tmp_path / "x.pt", version, reads=2, command="normalize")


def test_the_format_version_that_is_read_passes(tmp_path):
    check_format(tmp_path / "x.pt", 2, reads=2, command="normalize")
