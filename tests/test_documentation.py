"""`usad help KEY`: every key has a meaning, and the meaning is that of its docstring."""

import dataclasses

from us_anomaly import settings
from us_anomaly.settings.documentation import attribute_docstrings, explain


def test_every_key_has_a_meaning() -> None:
    keys = explain(settings.Settings, groups=settings.GROUPS)
    assert len(keys) > 80
    assert [key.key for key in keys if len(key.meaning) < 15] == []


def test_keys_of_every_layout_are_explained_once() -> None:
    keys = [key.key for key in explain(settings.Settings, groups=settings.GROUPS)]
    assert len(keys) == len(set(keys))
    for layout in settings.DATA_LAYOUTS:
        for field in dataclasses.fields(layout):
            assert f"data.{field.name}" in keys


def test_a_docstring_over_several_lines_becomes_one_sentence() -> None:
    meaning = attribute_docstrings(settings.StudentSettings)["positions"]
    assert meaning.startswith("`grid` trains on a random phase of the stride-4 grid")
    assert "\n" not in meaning
    assert "  " not in meaning


def test_inherited_keys_are_explained() -> None:
    assert "Folder that holds the data set." in attribute_docstrings(settings.CsvData)["root"]
