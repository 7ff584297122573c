"""What a run of mutation testing over the splitting found untested: the seed, and the order that it draws."""

from us_anomaly.data.sample import Sample, of_split
from us_anomaly.data.splitting import split_samples
from us_anomaly.settings import SplitMode, SplitSettings


def settings_of(mode: SplitMode) -> SplitSettings:
    return SplitSettings(mode=mode, ratios="60-20-20", validation_fraction=0.3)


def normals(count: int, **fields: object) -> list[Sample]:
    return [Sample(filename=f"good/{number:02}.png", is_anomalous=False, **fields) for number in range(count)]


def validation(samples: list[Sample], *, mode: SplitMode, seed: int) -> list[str]:
    divided = split_samples(samples, settings=settings_of(mode), seed=seed)
    return [sample.filename for sample in of_split(divided, "val")]


def test_the_seed_decides_which_pictures_of_a_given_train_become_validation():
    samples = normals(20, split="train")
    samples.append(Sample(filename="test/0.png", is_anomalous=False, split="test"))
    drawn = [validation(samples, mode=SplitMode.predefined, seed=seed) for seed in range(5)]
    assert all(len(names) == 6 for names in drawn)
    assert len({tuple(names) for names in drawn}) == 5
    assert drawn[0] == validation(samples, mode=SplitMode.predefined, seed=0)


def test_the_order_that_a_seed_draws_stays_the_same_with_every_version():
    """Whoever updates must find the split, and with it the whole run directory, up to date."""
    drawn = validation(normals(20), mode=SplitMode.ratio, seed=7)
    assert drawn == ["good/05.png", "good/07.png", "good/12.png", "good/16.png"]


def test_the_order_of_groups_that_a_seed_draws_stays_the_same_with_every_version():
    samples = [
        Sample(filename=f"good/{number:02}.png", is_anomalous=False, group=f"part {number // 2}")
        for number in range(20)
    ]
    drawn = validation(samples, mode=SplitMode.ratio, seed=7)
    assert drawn == ["good/02.png", "good/03.png", "good/18.png", "good/19.png"]


def test_names_that_are_no_text_are_drawn_too_in_an_order_that_stays_the_same():
    """Names of files are bytes; those that are not UTF-8 reach us with half characters."""
    samples = [Sample(filename=f"good/{chr(0xDCF0 + number)}.png", is_anomalous=False) for number in range(10)]
    drawn = validation(samples, mode=SplitMode.ratio, seed=7)
    assert drawn == ["good/\udcf3.png", "good/\udcf8.png"]
