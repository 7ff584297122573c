import re
from pathlib import Path

import pytest

from us_anomaly.data.categories import category_folder, choose
from us_anomaly.errors import DataError

ROOT = Path("data")
NAMES = ["bottle", "macaroni1", "macaroni2", "screw"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (None, NAMES),
        ("all", NAMES),
        ("screw", ["screw"]),
        ("screw,bottle", ["bottle", "screw"]),
        (" screw , bottle ", ["bottle", "screw"]),
        ("maca*", ["macaroni1", "macaroni2"]),
        ("macaroni[2-9],macaroni2", ["macaroni2"]),
        ("*", NAMES),
    ],
)
def test_names_lists_and_patterns_choose_categories(wanted: str | None, chosen: list[str]) -> None:
    assert choose(ROOT, wanted, NAMES) == chosen


@pytest.mark.parametrize("wanted", ["crew*", "bottle,carpet", "", "bottle,"])
def test_a_name_or_pattern_that_matches_nothing_is_an_error(wanted: str) -> None:
    with pytest.raises(DataError, match="it has bottle, macaroni1, macaroni2, screw"):
        choose(ROOT, wanted, NAMES)


def test_a_root_without_categories_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data.root=data holds no categories"):
        choose(ROOT, "all", [])


def test_the_folder_of_a_category_lies_below_the_root() -> None:
    assert category_folder(ROOT, None, NAMES) == ROOT
    assert category_folder(ROOT, "screw", NAMES) == ROOT / "screw"


@pytest.mark.parametrize("category", ["all", "t*"])
def test_several_categories_in_one_run_directory_are_refused_with_the_way_to_a_sweep(tmp_path, category):
    with pytest.raises(
        DataError, match=rf"^data\.category={re.escape(category)} means several categories: add -m for a job"
    ):
        category_folder(tmp_path, category, ["tile", "wood"])
