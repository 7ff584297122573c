"""What report and trackers are told of the settings."""

import dataclasses

import pytest

from us_anomaly.commands import shown_settings
from us_anomaly.settings import Settings

NOT_SHOWN = {"run_dir", "cache_dir", "overwrite", "inference", "checkpoint", "runtime", "tracking"}


def test_every_setting_that_decides_results_is_shown():
    shown = {*shown_settings.KEYS, *shown_settings.GROUPS}
    assert shown | NOT_SHOWN == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("enabled", [True, False])
def test_the_report_shows_fine_tuning_where_it_is_on_and_trackers_always(compose, enabled):
    settings = compose("run", "data.root=x", f"finetuning.enabled={str(enabled).lower()}")
    groups = shown_settings.by_group(settings)
    assert ("finetuning" in groups) is enabled
    assert next(iter(groups)) == "run"
    assert groups["augmentation"]["evaluation"][0] == "Resize"
    assert shown_settings.by_key(settings)["finetuning.enabled"] is enabled
