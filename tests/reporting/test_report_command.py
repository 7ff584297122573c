"""`usad report` on a trained run directory."""

import re
import shutil
from pathlib import Path

import pytest

from us_anomaly.commands import report
from us_anomaly.errors import DataError, MissingArtifactError, StaleArtifactError
from us_anomaly.reporting.pages import files


@pytest.fixture
def settings_of(compose, tiny, trained_copy):
    return lambda *overrides: compose("report", *tiny(trained_copy, *overrides))


def test_an_up_to_date_report_is_left_alone_and_its_page_named(settings_of, trained_copy, capsys):
    index = trained_copy / "report/index.html"
    before = index.stat().st_mtime_ns
    report.run(settings_of())
    assert index.stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert str(index) in printed
    assert index.resolve().as_uri() in printed


def test_a_report_by_another_version_of_the_pages_is_made_again(settings_of, trained_copy, monkeypatch):
    from us_anomaly.commands import recipes

    monkeypatch.setattr(recipes, "pages_hash", lambda: "another")
    before = (trained_copy / "report/index.html").stat().st_mtime_ns
    report.run(settings_of())
    assert (trained_copy / "report/index.html").stat().st_mtime_ns > before


@pytest.mark.parametrize("pattern", ["evaluation.html", "pictures/*", "values/*"])
def test_a_page_or_picture_that_was_deleted_is_made_again(settings_of, trained_copy, pattern):
    deleted = min((trained_copy / "report").glob(pattern))
    deleted.unlink()
    report.run(settings_of())
    assert deleted.exists()


def test_overwriting_draws_no_picture_twice(settings_of, trained_copy):
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (trained_copy / "report/pictures").iterdir()}

    before = times()
    report.run(settings_of("overwrite=true"))
    assert times() == before


def test_without_an_evaluation_the_message_names_the_command_to_run(settings_of, trained_copy):
    (trained_copy / "evaluation.json").unlink()
    with pytest.raises(MissingArtifactError, match="run `usad evaluate` first"):
        report.run(settings_of())


def test_results_of_other_settings_are_refused(settings_of):
    with pytest.raises(StaleArtifactError, match=r"students\.num_students=2, now students\.num_students=5"):
        report.run(settings_of("students.num_students=5"))


def test_a_data_set_that_is_gone_is_refused_in_one_line(settings_of, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path / "nowhere")):
        report.run(settings_of(f"data.root={tmp_path / 'nowhere'}"))


def test_the_report_of_a_data_set_without_masks_needs_none(compose, tiny, trained, tmp_path):
    from conftest import draw_parts

    from us_anomaly.commands import run

    root = draw_parts(tmp_path / "parts", masks=False)
    shutil.rmtree(root / "masks", ignore_errors=True)
    run.run(compose("run", *tiny(tmp_path / "run", f"data.root={root}", "inference.save_maps=false")))
    text = (tmp_path / "run/report/index.html").read_text()
    assert "no masks in the data set" in text
    assert ">PRO<" not in text


def test_the_hash_of_the_pages_depends_on_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "reporting/pages/files.py"))
    page = tmp_path / "reporting/pages/assets/report.css"
    page.parent.mkdir(parents=True)
    page.write_text("a")
    first = files.pages_hash()
    page.write_text("b")
    assert files.pages_hash() != first


def test_the_hash_of_the_pages_depends_on_no_module_that_they_do_not_use(tmp_path, monkeypatch):
    package = Path(files.__file__).parents[1]
    modules = [path for path in package.rglob("*.py") if not path.stem.startswith(files.OF_NO_PAGE)]
    used = "|".join(files.OF_NO_PAGE)
    assert [path.name for path in modules if re.search(rf"us_anomaly\.reporting\.({used})", path.read_text())] == []
    monkeypatch.setattr(files, "__file__", str(tmp_path / "reporting/pages/files.py"))
    (tmp_path / "reporting/pages").mkdir(parents=True)
    before = files.pages_hash()
    (tmp_path / "reporting/comparison_cells.py").write_text("a")
    assert files.pages_hash() == before
    (tmp_path / "reporting/tables.py").write_text("a")
    assert files.pages_hash() != before
