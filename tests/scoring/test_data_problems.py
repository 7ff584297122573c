"""What `evaluation.json` and the log say about odd data: names and sentences are read by people and programs."""

import logging

import pytest

from us_anomaly.scoring.data_problems import RULES, DataProblems

SAID = {
    "masks_resized": "masks of another size than their image were resized to it, nearest neighbour",
    "masks_not_binary": "masks are not binary: half of their range and above counts as defect",
    "anomalous_with_empty_mask": (
        "images labelled anomalous have a mask that marks nothing: left out of the pixel metrics"
    ),
    "normal_with_defect_mask": (
        "images labelled normal have a mask that marks a defect: the label counts, and they are left out of the pixel metrics"
    ),
    "anomalous_without_mask": "anomalous images have no mask where others have one: left out of the pixel metrics",
    "defects_lost_by_resizing": "defects vanish at the resolution of the network: left out of the pixel metrics",
    "images_without_prediction": (
        "images have no prediction, because they could not be read when they were scored: left out"
    ),
    "duplicates_across_splits": (
        "images are, byte for byte, also in another split: the figures are too good by what training saw"
    ),
}
LEFT_OUT = (
    "anomalous_with_empty_mask",
    "normal_with_defect_mask",
    "anomalous_without_mask",
    "defects_lost_by_resizing",
)


def test_every_kind_has_its_name_and_its_rule():
    assert RULES == SAID


@pytest.mark.parametrize("kind", SAID)
def test_the_first_image_of_a_kind_is_logged_with_the_rule_and_the_others_are_counted(kind, caplog):
    problems = DataProblems()
    for number in (1, 0, 0):
        problems.add(kind, f"{number}.png")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"1.png: {SAID[kind]} (said once; evaluation.json has the count)")
    ]
    assert problems.counts() == dict.fromkeys(SAID, 0) | {kind: 2}
    assert problems.examples() == {kind: ["0.png", "1.png"]}
    assert problems.num_left_out() == (2 if kind in LEFT_OUT else 0)


def test_an_image_with_two_problems_is_left_out_once():
    problems = DataProblems()
    for kind in LEFT_OUT:
        problems.add(kind, "a.png")
    problems.add("normal_with_defect_mask", "b.png")
    assert problems.num_left_out() == 2


def test_five_examples_are_given_the_first_by_name():
    problems = DataProblems()
    for number in (6, 2, 5, 1, 4, 3):
        problems.add("masks_resized", f"{number}.png")
    assert problems.examples() == {"masks_resized": ["1.png", "2.png", "3.png", "4.png", "5.png"]}
    assert problems.counts()["masks_resized"] == 6
