"""Dividing a data set into train, val and test: no anomaly in train, no part in two splits."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from us_anomaly.data.listing import some
from us_anomaly.data.sample import SPLITS, Sample, Split
from us_anomaly.errors import DataError
from us_anomaly.settings import SplitMode, SplitSettings

Counts = dict[Split, int]
_NORMAL = ""
"""Kind of normal pictures, which no defect type can be called."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Pictures that stay together: a group, or a single picture."""

    members: tuple[Sample, ...]
    order: bytes
    """Hash of seed and name: the random order, the same with every version of every library."""

    @property
    def is_anomalous(self) -> bool:
        return any(sample.is_anomalous for sample in self.members)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(_kind(sample) for sample in self.members)


def split_samples(samples: Sequence[Sample], *, settings: SplitSettings, seed: int) -> list[Sample]:
    """Return the samples with their split, sorted by filename; the seed decides, the input's order does not.

    *Ratio*: the normal pictures are divided train : val : test by largest remainder; anomalous ones go to val
    and test as val : test, stratified by defect type. Pictures of one group stay together, so with groups the
    counts are as close as whole groups allow; a group that holds an anomalous picture never trains.
    *Predefined*: the data set's own train and test; where it has no val, `split.validation_fraction` of
    train.

    Raises:
        DataError: There are no normal pictures, too few of them, an anomalous one in train, or the data set's own split
            cannot be kept.
    """
    ordered = sorted(samples, key=lambda sample: sample.filename)
    if all(sample.is_anomalous for sample in ordered):
        raise DataError(f"none of the {len(ordered)} pictures is normal: the detector learns from good parts, add some")
    if _is_predefined(ordered, settings.mode):
        divided = _keep_predefined(ordered, settings.validation_fraction, seed)
    else:
        divided = _divide_by_ratio(ordered, settings, seed)
    return sorted(divided, key=lambda sample: sample.filename)


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Divide `total` in proportion to `weights`; of equal remainders, the first is rounded up."""
    whole = sum(weights)
    counts = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -remainders[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _is_predefined(samples: Sequence[Sample], mode: SplitMode) -> bool:
    """Return whether the data set's own split is kept.

    Raises:
        DataError: It is asked for and the data set has none, only some pictures have one, or it lacks train or test.
    """
    if mode is SplitMode.ratio:
        return False
    without = [sample.filename for sample in samples if sample.split is None]
    if len(without) == len(samples):
        if mode is SplitMode.predefined:
            raise DataError(
                "split.mode=predefined keeps the data set's own split, but it has none: use split.mode=ratio"
            )
        return False
    if without:
        raise DataError(
            f"{len(without)} of {len(samples)} pictures have no split, for example {without[0]}: "
            "give all of them one, or divide the data set anew with split.mode=ratio"
        )
    given = [split for split in SPLITS if any(sample.split == split for sample in samples)]
    missing = [split for split in ("train", "test") if split not in given]
    if missing:
        raise DataError(
            "the data set's own split (its column `split`, or its folders) cannot be kept: "
            f"it has no {' and no '.join(missing)}, only {' and '.join(given)}. Add pictures of {' and '.join(missing)}, "
            "or divide the data set anew by split.ratios with split.mode=ratio"
        )
    return True


def _keep_predefined(samples: Sequence[Sample], validation_fraction: float, seed: int) -> list[Sample]:
    anomalous = [sample.filename for sample in samples if sample.is_anomalous and sample.split == "train"]
    if anomalous:
        raise DataError(
            f"{len(anomalous)} anomalous pictures are in train, which takes normal ones only: {some(anomalous)}"
        )
    _refuse_crossing(samples)
    train = [sample for sample in samples if sample.split == "train"]
    if validation_fraction == 0 or any(sample.split == "val" for sample in samples):
        return list(samples)
    wanted = max(1, round(len(train) * validation_fraction))
    targets: dict[str, Counts] = {_NORMAL: {"train": len(train) - wanted, "val": wanted}}
    divided = _assign(_parts(train, seed), targets, normal_splits=("train", "val"), anomalous_splits=())
    _refuse_empty(divided, ("train", "val"), of=f"{len(train)} pictures of train")
    return [sample for sample in samples if sample.split != "train"] + divided


def _refuse_crossing(samples: Iterable[Sample]) -> None:
    """Refuse groups that the data set itself spreads over several splits."""
    splits = defaultdict(set)
    for sample in samples:
        if sample.group is not None:
            splits[sample.group].add(sample.split)
    crossing = sorted(group for group, found in splits.items() if len(found) > 1)
    if crossing:
        raise DataError(
            f"{len(crossing)} groups have pictures in more than one split: {some(crossing)}; "
            "correct the split, or divide the data set anew with split.mode=ratio"
        )


def _divide_by_ratio(samples: Sequence[Sample], settings: SplitSettings, seed: int) -> list[Sample]:
    percentages = dict(zip(SPLITS, settings.percentages(), strict=True))
    used = [split for split in SPLITS if percentages[split] > 0]
    parts = _parts(samples, seed)
    targets = _targets(samples, percentages, parts)
    divided = _assign(
        parts, targets, normal_splits=used, anomalous_splits=[split for split in used if split != "train"]
    )
    num_normal = sum(not sample.is_anomalous for sample in samples)
    _refuse_empty(divided, used, of=f"{num_normal} normal and {len(samples) - num_normal} anomalous pictures")
    return divided


def _targets(samples: Sequence[Sample], percentages: dict[Split, int], parts: Sequence[_Part]) -> dict[str, Counts]:
    """Return how many pictures of each kind each split should get.

    For defect types, every count is its exact share rounded up or down, and so is the sum over all types:
    rounding each type alone would send every type with one picture to the same side.
    """
    counts = Counter(_kind(sample) for sample in samples)
    normal = largest_remainder(counts.pop(_NORMAL, 0), [percentages[split] for split in SPLITS])
    targets: dict[str, Counts] = {_NORMAL: dict(zip(SPLITS, normal, strict=True))}
    val, test = percentages["val"], percentages["test"]
    num_val = {kind: count * val // (val + test) for kind, count in counts.items()}
    remainder = {kind: count * val % (val + test) for kind, count in counts.items()}
    wanted, _ = largest_remainder(counts.total(), [val, test])
    drawn = list(dict.fromkeys(kind for part in parts for kind in sorted(part.kinds)))  # the seed's order of the kinds
    by_remainder = sorted(counts, key=lambda kind: (-remainder[kind], drawn.index(kind)))
    for kind in by_remainder[: wanted - sum(num_val.values())]:
        num_val[kind] += 1
    for kind, count in counts.items():
        targets[kind] = {"train": 0, "val": num_val[kind], "test": count - num_val[kind]}
    return targets


def _parts(samples: Iterable[Sample], seed: int) -> list[_Part]:
    """Return groups and single pictures in the order that the seed draws."""
    members = defaultdict(list)
    for sample in samples:
        key = ("picture", sample.filename) if sample.group is None else ("group", sample.group)
        members[key].append(sample)
    parts = [
        _Part(
            tuple(group),
            hashlib.blake2b("\0".join((str(seed), *key)).encode("utf-8", "surrogateescape")).digest(),
        )
        for key, group in members.items()
    ]
    return sorted(parts, key=lambda part: part.order)


def _assign(
    parts: Sequence[_Part],
    targets: dict[str, Counts],
    *,
    normal_splits: Sequence[Split],
    anomalous_splits: Sequence[Split],
) -> list[Sample]:
    """Give every part to the split that is then least full, as a fraction of its target.

    Parts with anomalous pictures come first, because they have the smaller choice, then large ones before small
    ones, so that single pictures fill the gaps: without groups the targets are met exactly.
    """
    given: dict[tuple[Split, str], int] = defaultdict(int)
    chosen: dict[Split, list[_Part]] = {split: [] for split in normal_splits}

    def fullness(split: Split, kinds: Counter[str]) -> float:
        """Return the mean over the pictures of a part; a target of 0 counts as half a picture."""
        return sum(
            count * (given[split, kind] + count) / max(targets[kind][split], 0.5) for kind, count in kinds.items()
        )

    for part in sorted(parts, key=lambda part: (not part.is_anomalous, -len(part.members))):
        kinds = part.kinds
        allowed = anomalous_splits if part.is_anomalous else normal_splits
        best = min(allowed, key=lambda split: fullness(split, kinds))
        chosen[best].append(part)
        for kind, count in kinds.items():
            given[best, kind] += count
    _fill_empty(chosen)
    return [
        replace(sample, split=split) for split, parts in chosen.items() for part in parts for sample in part.members
    ]


def _fill_empty(chosen: dict[Split, list[_Part]]) -> None:
    """Give a split without normal pictures the smallest normal group of the split with most of them; single pictures stay.

    Test can do without where it has anomalous ones: then it gets no group of more than a third of all normal pictures.
    """
    num_normal = sum(part.kinds[_NORMAL] for parts in chosen.values() for part in parts)
    for split, given in chosen.items():
        donor = max(chosen.values(), key=lambda parts: sum(not part.is_anomalous for part in parts))
        normal = [part for part in donor if not part.is_anomalous]
        groups = [part for part in normal if len(part.members) > 1]
        has_normal = any(not sample.is_anomalous for part in given for sample in part.members)
        if not has_normal and len(normal) > 1 and groups:
            smallest = min(groups, key=lambda part: (len(part.members), part.order))
            if split == "test" and given and 3 * len(smallest.members) > num_normal:
                continue
            donor.remove(smallest)
            given.append(smallest)


def _refuse_empty(divided: Sequence[Sample], wanted: Sequence[Split], *, of: str) -> None:
    """Refuse a split that would leave a wanted part empty: train and val need normal pictures, test any."""
    for split in wanted:
        members = [sample for sample in divided if sample.split == split]
        needs_normal = split != "test"
        if not any(not sample.is_anomalous or not needs_normal for sample in members):
            what = "normal picture" if needs_normal else "picture"
            raise DataError(
                f"{of} are too few: {split} would get no {what}. "
                "Add normal pictures, or give another split.ratios= (or split.validation_fraction=)"
            )


def _kind(sample: Sample) -> str:
    return sample.defect_type if sample.is_anomalous else _NORMAL
