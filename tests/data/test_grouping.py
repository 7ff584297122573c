"""Parts are read from file names, and what the data set says itself stays."""

import pytest

from us_anomaly.data.grouping import grouped
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError


def samples(*names, group=None):
    return [Sample(filename=name, is_anomalous=False, group=group) for name in names]


def groups(found):
    return [sample.group for sample in found]


def test_the_match_names_the_part():
    named = samples("train/good/tr001_07.png", "train/good/tr001_08.png", "train/good/tr027_00.png")
    assert groups(grouped(named, pattern="^tr[0-9]+")) == ["tr001", "tr001", "tr027"]


def test_brackets_name_the_part_where_there_are_some():
    named = samples("good/exp1_num_12.png", "good/exp6_num_12.png", "good/exp6_num_13.png")
    assert groups(grouped(named, pattern="_num_([0-9]+)")) == ["12", "12", "13"]


def test_folders_are_not_searched_and_pictures_without_a_match_are_parts_of_their_own():
    named = samples("part1/a.png", "part1/part2_b.png")
    assert groups(grouped(named, pattern="part[0-9]")) == [None, "part2"]


def test_groups_of_the_data_set_stay():
    assert groups(grouped(samples("part1.png", group="A7"), pattern="part[0-9]")) == ["A7"]


def test_a_pattern_that_matches_nothing_is_refused_with_a_name_that_there_is():
    with pytest.raises(
        DataError, match=r"`data.group_pattern`='\^part' matches no file name, for example not 000\.png"
    ):
        grouped(samples("train/good/000.png"), pattern="^part")


def test_an_empty_match_is_no_part():
    with pytest.raises(DataError, match="matches no file name"):
        grouped(samples("000.png"), pattern="x*")
