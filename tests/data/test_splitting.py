import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from us_anomaly.data.sample import SPLITS, Sample, Split
from us_anomaly.data.splitting import largest_remainder, split_samples
from us_anomaly.errors import DataError
from us_anomaly.settings import SplitMode, SplitSettings

RATIOS = ("70-15-15", "70-20-10", "80-10-10", "60-30-10")


def settings_of(ratios: str = "70-15-15", mode: SplitMode = SplitMode.auto, fraction: float = 0.15) -> SplitSettings:
    return SplitSettings(mode=mode, ratios=ratios, validation_fraction=fraction)


def normals(count: int, **fields: object) -> list[Sample]:
    return [Sample(filename=f"good/{number:04d}.png", is_anomalous=False, **fields) for number in range(count)]


def anomalies(kind: str, count: int, **fields: object) -> list[Sample]:
    return [
        Sample(filename=f"{kind}/{number:04d}.png", is_anomalous=True, defect_type=kind, **fields)
        for number in range(count)
    ]


def counts(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Normal pictures in train, val and test, then anomalous ones."""
    found = Counter((sample.is_anomalous, sample.split) for sample in samples)
    return tuple(found[label, split] for label in (False, True) for split in SPLITS)


def by_hand(total: int, weights: Sequence[int]) -> list[int]:
    """Largest remainder, written down from its definition with exact fractions."""
    shares = [Fraction(total * weight, sum(weights)) for weight in weights]
    result = [int(share) for share in shares]
    while sum(result) < total:
        open_shares = [(share - count, -index) for index, (share, count) in enumerate(zip(shares, result, strict=True))]
        result[-max(open_shares)[1]] += 1
    return result


@pytest.mark.parametrize(
    ("ratios", "num_normal", "num_anomalous", "expected"),
    [
        ("70-15-15", 100, 40, (70, 15, 15, 0, 20, 20)),
        ("70-15-15", 101, 41, (71, 15, 15, 0, 21, 20)),
        ("70-15-15", 457, 97, (320, 69, 68, 0, 49, 48)),
        ("70-15-15", 13, 1, (9, 2, 2, 0, 1, 0)),
        ("70-20-10", 100, 30, (70, 20, 10, 0, 20, 10)),
        ("70-20-10", 57, 10, (40, 11, 6, 0, 7, 3)),
        ("70-20-10", 13, 2, (9, 3, 1, 0, 1, 1)),
        ("80-10-10", 100, 40, (80, 10, 10, 0, 20, 20)),
        ("80-10-10", 33, 7, (27, 3, 3, 0, 4, 3)),
        ("80-10-10", 11, 3, (9, 1, 1, 0, 2, 1)),
        ("60-30-10", 100, 40, (60, 30, 10, 0, 30, 10)),
        ("60-30-10", 49, 9, (29, 15, 5, 0, 7, 2)),
        ("60-30-10", 11, 4, (7, 3, 1, 0, 3, 1)),
        ("80-20-0", 10, 3, (8, 2, 0, 0, 3, 0)),
        ("80-0-20", 10, 3, (8, 0, 2, 0, 0, 3)),
    ],
)  # fmt: skip
def test_each_row_of_ratios_gives_exact_counts(
    ratios: str, num_normal: int, num_anomalous: int, expected: tuple[int, ...]
) -> None:
    samples = normals(num_normal) + anomalies("crack", num_anomalous)
    assert counts(split_samples(samples, settings=settings_of(ratios), seed=0)) == expected


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RATIOS), st.integers(20, 300), st.lists(st.integers(0, 40), max_size=6), st.integers(0, 10**6))
def test_counts_are_those_of_the_largest_remainder(ratios: str, num_normal: int, kinds: list[int], seed: int) -> None:
    samples = normals(num_normal) + [s for k, count in enumerate(kinds) for s in anomalies(f"kind{k}", count)]
    train, val, test = (int(part) for part in ratios.split("-"))
    divided = split_samples(samples, settings=settings_of(ratios), seed=seed)
    expected = (*by_hand(num_normal, [train, val, test]), 0, *by_hand(sum(kinds), [val, test]))
    assert counts(divided) == expected
    for kind, count in enumerate(kinds):
        in_val = sum(sample.defect_type == f"kind{kind}" and sample.split == "val" for sample in divided)
        exact = Fraction(count * val, val + test)
        assert abs(in_val - exact) < 1, "each defect type gets its own share, rounded up or down"


@settings(deadline=None)
@given(st.integers(0, 500), st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(any))
def test_largest_remainder_agrees_with_its_definition(total: int, weights: list[int]) -> None:
    assert largest_remainder(total, weights) == by_hand(total, weights)


def test_rare_defect_types_do_not_all_go_to_one_side() -> None:
    samples = normals(20) + [sample for kind in range(10) for sample in anomalies(f"kind{kind}", 1)]
    assert counts(split_samples(samples, settings=settings_of(), seed=0))[3:] == (0, 5, 5)


@st.composite
def data_sets(draw: st.DrawFn) -> list[Sample]:
    samples = []
    for number in range(draw(st.integers(8, 40))):
        is_anomalous = draw(st.integers(0, 3)) == 0
        group = draw(st.one_of(st.none(), st.integers(0, 25).map(str)))
        kind = draw(st.sampled_from(["a", "b", "good"])) if is_anomalous else "good"
        samples.append(Sample(filename=f"{number}.png", is_anomalous=is_anomalous, defect_type=kind, group=group))
    return samples


def divided_or_refused(samples: list[Sample], ratios: str, seed: int) -> list[Sample]:
    try:
        return split_samples(samples, settings=settings_of(ratios, SplitMode.ratio), seed=seed)
    except DataError as error:
        assert "too few" in str(error) or "none of the" in str(error)  # noqa: PT017
        assume(False)
        raise


@settings(max_examples=60, deadline=None)
@given(data_sets(), st.sampled_from([*RATIOS, "80-20-0", "80-0-20"]), st.integers(0, 99))
def test_every_split_is_a_partition_without_anomalies_in_train_or_torn_groups(
    samples: list[Sample], ratios: str, seed: int
) -> None:
    divided = divided_or_refused(samples, ratios, seed)
    assert [replace(sample, split=None) for sample in divided] == sorted(samples, key=lambda sample: sample.filename)
    assert all(sample.split in SPLITS for sample in divided)
    assert not any(sample.is_anomalous and sample.split == "train" for sample in divided)
    splits_of_group: dict[str, set[Split | None]] = {}
    for sample in divided:
        if sample.group is not None:
            splits_of_group.setdefault(sample.group, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    for split, percentage in zip(SPLITS, ratios.split("-"), strict=True):
        members = [sample for sample in divided if sample.split == split]
        assert bool(members) == (percentage != "0")
        assert split == "test" or percentage == "0" or any(not sample.is_anomalous for sample in members)


@settings(max_examples=30, deadline=None)
@given(data_sets(), st.integers(0, 99))
def test_the_order_of_the_input_decides_nothing(samples: list[Sample], seed: int) -> None:
    expected = divided_or_refused(samples, "70-15-15", seed)
    shuffled = list(samples)
    random.Random(seed).shuffle(shuffled)
    assert split_samples(shuffled, settings=settings_of(mode=SplitMode.ratio), seed=seed) == expected


def test_the_seed_decides_and_the_same_seed_repeats() -> None:
    samples = normals(40) + anomalies("a", 10)
    first, again, other = (split_samples(samples, settings=settings_of(), seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_the_split_of_a_seed_is_fixed_for_all_time() -> None:
    divided = split_samples(normals(10) + anomalies("a", 4), settings=settings_of(), seed=0)
    outside_train = {split: [s.filename for s in divided if s.split == split] for split in ("val", "test")}
    assert outside_train == {
        "val": ["a/0000.png", "a/0003.png", "good/0007.png", "good/0008.png"],
        "test": ["a/0001.png", "a/0002.png", "good/0000.png"],
    }


def test_seeds_spread_pictures_evenly() -> None:
    samples = normals(20)
    trained = Counter(
        sample.filename
        for seed in range(200)
        for sample in split_samples(samples, settings=settings_of("60-30-10"), seed=seed)
        if sample.split == "train"
    )
    assert sum(trained.values()) == 200 * 12
    assert min(trained.values()) > 120 - 5 * 7  # five standard deviations of a binomial (200, 0.6)
    assert max(trained.values()) < 120 + 5 * 7


def test_whole_groups_come_as_close_to_the_ratio_as_they_can() -> None:
    samples = [
        Sample(filename=f"{group}/{number}.png", is_anomalous=False, group=str(group))
        for group in range(20)
        for number in range(5)
    ]
    assert counts(split_samples(samples, settings=settings_of(), seed=0)) == (70, 15, 15, 0, 0, 0)


def test_single_pictures_fill_up_what_groups_leave_open() -> None:
    grouped = [
        Sample(filename=f"{group}/{number}.png", is_anomalous=False, group=str(group))
        for group in range(6)
        for number in range(7)
    ]
    assert counts(split_samples(grouped + normals(58), settings=settings_of(), seed=3)) == (70, 15, 15, 0, 0, 0)


def groups_of(*sizes: int) -> list[Sample]:
    return [
        Sample(filename=f"{group}/{number}.png", is_anomalous=False, group=str(group))
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((10, 10, 10), (10, 10, 10)), ((2, 2, 2), (2, 2, 2)), ((30, 20, 10), (30, 10, 20)), ((10, 20, 30), (30, 10, 20))],
)
def test_three_groups_give_one_to_each_split_and_the_smallest_that_can_be_spared(
    sizes: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert counts(split_samples(groups_of(*sizes), settings=settings_of(), seed=0))[:3] == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((10, 10, 10), (10, 10, 10)), ((10, 10, 10, 10), (20, 10, 10)), ((20, 20, 20, 20, 20), (60, 20, 20))],
)
def test_anomalous_pictures_do_not_keep_a_split_from_getting_a_normal_group(
    sizes: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    divided = split_samples([*groups_of(*sizes), *anomalies("cut", 6)], settings=settings_of(), seed=0)
    assert counts(divided) == (*expected, 0, 3, 3)


def test_test_gets_no_group_that_training_can_hardly_spare_where_it_has_anomalous_pictures() -> None:
    large = groups_of(1000, 990, 50)
    assert counts(split_samples([*large, *anomalies("cut", 6)], settings=settings_of(), seed=0)) == (
        1990,
        50,
        0,
        0,
        3,
        3,
    )
    assert counts(split_samples(large, settings=settings_of(), seed=0))[:3] == (1000, 50, 990)


def test_groups_are_placed_before_single_pictures() -> None:
    samples = [*groups_of(7, 7), *normals(86)]
    assert counts(split_samples(samples, settings=settings_of(), seed=0))[:3] == (70, 15, 15)


def test_one_percent_is_a_share() -> None:
    assert counts(split_samples(normals(200), settings=settings_of("79-1-20"), seed=0))[:3] == (158, 2, 40)


def test_a_group_with_one_anomalous_picture_never_trains() -> None:
    group = [*normals(30, group="part"), *anomalies("a", 1, group="part")]
    others = [replace(sample, filename=f"other/{sample.filename}") for sample in normals(70)]
    divided = split_samples(group + others, settings=settings_of(), seed=0)
    (split,) = {sample.split for sample in divided if sample.group == "part"}
    assert split != "train"
    train = sum(sample.split == "train" for sample in divided)
    assert train == 70 * 70 // 85 + 1, "the two other splits share what is left as 70 to 15"


def test_a_group_called_like_a_file_is_another_thing() -> None:
    samples = normals(20)
    samples[0] = replace(samples[0], group=samples[1].filename)
    assert counts(split_samples(samples, settings=settings_of(), seed=0))[:3] == (14, 3, 3)


def test_an_anomaly_whose_type_is_called_good_still_never_trains() -> None:
    samples = normals(20) + [Sample(filename=f"x{n}", is_anomalous=True, defect_type="good") for n in range(4)]
    assert counts(split_samples(samples, settings=settings_of(), seed=0)) == (14, 3, 3, 0, 2, 2)


PREDEFINED = [
    *normals(20, split="train"),
    *[replace(sample, filename=f"t/{sample.filename}") for sample in normals(5, split="test")],
    *anomalies("a", 7, split="test"),
]


@pytest.mark.parametrize("mode", [SplitMode.auto, SplitMode.predefined])
@pytest.mark.parametrize(("fraction", "num_val"), [(0.15, 3), (0.1, 2), (0.01, 1), (0.5, 10), (0.0, 0)])
def test_predefined_keeps_train_and_test_and_takes_validation_from_train(
    mode: SplitMode, fraction: float, num_val: int
) -> None:
    divided = split_samples(PREDEFINED, settings=settings_of(mode=mode, fraction=fraction), seed=0)
    assert counts(divided) == (20 - num_val, num_val, 5, 0, 0, 7)
    test = {sample.filename for sample in divided if sample.split == "test"}
    assert test == {sample.filename for sample in PREDEFINED if sample.split == "test"}
    assert [sample.filename for sample in divided] == sorted(sample.filename for sample in PREDEFINED)


def test_a_validation_split_of_the_data_set_is_kept() -> None:
    own = [replace(sample, filename=f"v/{sample.filename}") for sample in normals(2, split="val")]
    assert counts(split_samples(PREDEFINED + own, settings=settings_of(), seed=0)) == (20, 2, 5, 0, 0, 7)


def test_validation_takes_whole_groups_of_train() -> None:
    train = [replace(sample, group=str(index // 5)) for index, sample in enumerate(normals(20, split="train"))]
    divided = split_samples([*train, *PREDEFINED[20:]], settings=settings_of(), seed=0)
    assert counts(divided) == (15, 5, 5, 0, 0, 7)
    assert len({sample.group for sample in divided if sample.split == "val"}) == 1


def test_ratio_mode_ignores_the_split_of_the_data_set() -> None:
    divided = split_samples(PREDEFINED, settings=settings_of(mode=SplitMode.ratio), seed=0)
    assert counts(divided) == (17, 4, 4, 0, 4, 3)


def of_splits(*splits: Split) -> list[Sample]:
    """Five normal pictures in each."""
    return [
        replace(sample, filename=f"{split}/{sample.filename}") for split in splits for sample in normals(5, split=split)
    ]


def refusal(samples: list[Sample], chosen: SplitSettings) -> str:
    with pytest.raises(DataError) as caught:
        split_samples(samples, settings=chosen, seed=0)
    return str(caught.value)


def test_predefined_without_a_split_is_refused() -> None:
    assert refusal(normals(9), settings_of(mode=SplitMode.predefined)) == (
        "split.mode=predefined keeps the data set's own split, but it has none: use split.mode=ratio"
    )


@pytest.mark.parametrize("mode", [SplitMode.auto, SplitMode.predefined])
@pytest.mark.parametrize(
    ("given", "lack", "wanted"),
    [
        (("train", "val"), "no test, only train and val", "test"),
        (("train",), "no test, only train", "test"),
        (("val", "test"), "no train, only val and test", "train"),
        (("val",), "no train and no test, only val", "train and test"),
    ],
)
def test_a_split_without_train_or_test_is_refused_and_never_ignored(
    mode: SplitMode, given: tuple[Split, ...], lack: str, wanted: str
) -> None:
    assert refusal(of_splits(*given), settings_of(mode=mode)) == (
        f"the data set's own split (its column `split`, or its folders) cannot be kept: it has {lack}. "
        f"Add pictures of {wanted}, or divide the data set anew by split.ratios with split.mode=ratio"
    )


def test_ratio_mode_divides_a_split_without_test_anew() -> None:
    divided = split_samples(of_splits("train", "val"), settings=settings_of(mode=SplitMode.ratio), seed=0)
    assert counts(divided)[:3] == (7, 2, 1)


def test_half_a_split_is_refused() -> None:
    samples = [replace(PREDEFINED[0], split=None), *PREDEFINED[1:]]
    for mode in (SplitMode.auto, SplitMode.predefined):
        assert refusal(samples, settings_of(mode=mode)) == (
            "1 of 32 pictures have no split, for example good/0000.png: give all of them one, "
            "or divide the data set anew with split.mode=ratio"
        )


def test_an_anomalous_picture_in_train_is_refused() -> None:
    samples = [*PREDEFINED, *[replace(s, filename=f"b/{s.filename}") for s in anomalies("a", 1, split="train")]]
    assert refusal(samples, settings_of()) == (
        "1 anomalous pictures are in train, which takes normal ones only: b/a/0000.png"
    )


def test_a_group_in_two_predefined_splits_is_refused() -> None:
    samples = [replace(sample, group="g7") for sample in (PREDEFINED[0], PREDEFINED[20])]
    assert refusal([*samples, *PREDEFINED[1:20], *PREDEFINED[21:]], settings_of()) == (
        "1 groups have pictures in more than one split: g7; correct the split, "
        "or divide the data set anew with split.mode=ratio"
    )


def test_no_normal_pictures_are_refused() -> None:
    assert refusal(anomalies("a", 4), settings_of()) == (
        "none of the 4 pictures is normal: the detector learns from good parts, add some"
    )
    assert "none of the 0 pictures" in refusal([], settings_of())


@pytest.mark.parametrize(
    ("num_normal", "num_anomalous", "missing"),
    [(1, 5, "val would get no normal picture"), (2, 0, "val would get no normal picture"),
     (3, 0, "test would get no picture"), (3, 1, "test would get no picture")],
)  # fmt: skip
def test_too_few_pictures_are_refused_with_what_would_be_missing(
    num_normal: int, num_anomalous: int, missing: str
) -> None:
    assert refusal(normals(num_normal) + anomalies("a", num_anomalous), settings_of()) == (
        f"{num_normal} normal and {num_anomalous} anomalous pictures are too few: {missing}. "
        "Add normal pictures, or give another split.ratios= (or split.validation_fraction=)"
    )


def test_a_single_group_stays_in_train_and_leaves_validation_empty() -> None:
    assert "val would get no normal picture" in refusal(normals(9, group="only"), settings_of("80-20-0"))


def test_one_picture_of_train_cannot_give_validation() -> None:
    assert "1 pictures of train are too few: train would get no normal picture" in refusal(
        PREDEFINED[19:], settings_of()
    )


def test_three_normal_and_two_anomalous_pictures_suffice() -> None:
    divided = split_samples(normals(3) + anomalies("a", 2), settings=settings_of(), seed=0)
    assert counts(divided) == (2, 1, 0, 0, 1, 1)
