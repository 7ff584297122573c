import dataclasses
import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from drawn_report import MARKUP_TYPE, PLAIN_TYPE, TEST_SCORES, THRESHOLD, VAL_SCORES, draw_report_source

from us_anomaly.errors import DataError
from us_anomaly.reporting.pages.files import pages_hash
from us_anomaly.reporting.pages.overview import duration_text, overview
from us_anomaly.reporting.pages.site import write_report
from us_anomaly.run_dir.provenance import Recipe, record
from us_anomaly.scoring.saturation import DefectKind, SaturationTable

ASSETS = {
    "common.js",
    "dataset.js",
    "decisions.js",
    "evaluation.js",
    "gallery.js",
    "icon.svg",
    "overview.js",
    "report.css",
    "viewer.js",
}


def written(source) -> Path:
    return write_report(source, on_picture=lambda done: None).parent


def handed_over(path: Path) -> list:
    """The arguments of the call that a data script consists of."""
    text = path.read_text(encoding="ascii")
    return json.loads("[" + re.fullmatch(r"usad\.take\w+\((.*)\);\n", text, re.DOTALL).group(1) + "]")


class Markup(HTMLParser):
    """Collect elements, text and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return draw_report_source(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def report(source) -> Path:
    return written(source)


def test_exactly_these_files_are_written(source, report):
    names = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    pictures = {name for name in names if name.startswith("pictures/")}
    values = {name for name in names if name.startswith("values/")}
    pages = {"index.html", "dataset.html", "evaluation.html", "data/images.js", "data/predictions.js"}
    assert names - pictures - values == pages | {f"assets/{name}" for name in ASSETS}
    assert len(pictures) == len(source.samples) + 2 * 5
    assert len(values) == len(source.predictions)


@pytest.mark.parametrize("page", ["index.html", "dataset.html", "evaluation.html"])
def test_names_and_values_are_escaped_in_every_page(report, page):
    markup = Markup((report / page).read_text(encoding="utf-8"))
    assert 'set <b>"1"</b>' in "".join(markup.texts)
    assert "onerror" not in [name for name, _ in markup.attributes]
    assert "i" not in markup.elements
    assert not any("alert" in (value or "") for name, value in markup.attributes if name != "href")


@pytest.mark.parametrize("page", ["index.html", "dataset.html", "evaluation.html"])
def test_pages_take_nothing_from_the_network_and_hold_no_script_or_style_of_their_own(report, page):
    text = (report / page).read_text(encoding="utf-8")
    markup = Markup(text)
    addresses = [value for name, value in markup.attributes if name in ("src", "href")]
    assert addresses
    assert not any(re.match(r"[a-z]+:|//", address) for address in addresses)
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert "<style" not in text
    assert not any(name.startswith("on") or name == "style" for name, _ in markup.attributes)
    assert "default-src 'none'" in text


def test_assets_load_nothing_from_elsewhere_and_never_set_markup(report):
    for path in (report / "assets").iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "http" not in text
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttpRequest", text
        )


def test_no_page_is_large(report):
    assert all((report / page).stat().st_size < 200_000 for page in ("index.html", "dataset.html", "evaluation.html"))


def test_the_list_of_images_tells_all_that_the_split_knows(source, report):
    [images] = handed_over(report / "data" / "images.js")
    assert [(one["name"], one["split"], one["anomalous"], one["type"]) for one in images] == [
        (sample.filename, sample.split, sample.is_anomalous, sample.defect_type) for sample in source.samples
    ]
    assert sum("mask" in one for one in images) == 5
    assert {(one["width"], one["height"]) for one in images} == {(48, 36)}


def test_the_list_of_predictions_holds_scores_threshold_and_links(source, report):
    meaning, predictions = handed_over(report / "data" / "predictions.js")
    assert meaning["threshold"] == THRESHOLD
    assert meaning["colorRange"] == [1.0, 17.0]
    names = [source.samples[one["image"]].filename for one in predictions]
    assert dict(zip(names, (one["score"] for one in predictions), strict=True)) == TEST_SCORES | VAL_SCORES
    for one in predictions:
        assert one["heatmap"].startswith("../heatmaps/")
        assert not re.search(r"[ #?<>\"']", one["heatmap"])


def test_the_overview_says_in_a_sentence_what_the_threshold_does(source):
    content = overview(source)
    assert content["verdict"] == (
        "At the threshold 10, 3 of 5 anomalous test images are found (2 missed), and 1 of 4 normal ones raises a false alarm."
    )


def test_the_overview_counts_images_by_split_label_and_type(source):
    rows = {row["name"]: row["cells"] for row in overview(source)["counts"]}
    assert rows == {"normal": [3, 2, 4], "anomalous": [0, 0, 5], MARKUP_TYPE: [0, 0, 2], PLAIN_TYPE: [0, 0, 3]}


def test_the_overview_shows_figures_with_intervals_and_the_times_of_stages(source):
    content = overview(source)
    by_label = {metric.label: metric for metric in content["metrics"]}
    assert by_label["recall at deployed threshold"].value == "0.600"
    assert " to " in by_label["recall at deployed threshold"].interval
    assert by_label["recall at deployed threshold"].bar[1] == pytest.approx(60)
    assert by_label["deployed threshold"].bar is None
    assert [(stage.name, stage.duration) for stage in content["stages"]] == [("split", "75 s"), ("evaluation", "1.5 s")]
    assert content["total_duration"] == "77 s"


def test_the_overview_shows_every_plot(source):
    content = overview(source)
    assert [figure.title for figure in content["figures"]] == ["Image scores", "ROC", "Precision and recall", "PRO"]
    assert [figure.title for figure in content["training"]] == ["Teacher", "Students"]


def test_the_plot_of_regions_is_called_after_the_figure_that_is_its_area(tmp_path):
    source = draw_report_source(tmp_path)
    plain = overview(source)["figures"][-1]
    assert (plain.title, plain.caption.partition("; ")[2]) == ("PRO", "AU-PRO 0.3 is the area.")
    for path in [path for path in (source.data_root / "ground_truth").rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / "000.png").write_bytes(content)  # as in MVTec LOCO, a folder of masks for each picture
    kind = DefectKind(name="missing", threshold=20, is_relative=False)
    table = SaturationTable(tmp_path / "defects_config.json", {255: kind})
    pixels = dataclasses.replace(source.pixels, saturation=table)
    saturated = overview(dataclasses.replace(source, pixels=pixels))["figures"][-1]
    assert (saturated.title, saturated.caption.partition("; ")[2]) == ("sPRO", "AU-sPRO 0.3 is the area.")


def test_a_fine_tuned_backbone_has_its_time_and_its_losses(tmp_path):
    source = draw_report_source(tmp_path)
    run_dir = source.run_dir
    run_dir.backbone.write_bytes(b"weights")
    run_dir.loss_curve(run_dir.backbone).write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
    record(run_dir, run_dir.backbone, Recipe(command="finetune-backbone", settings={}), seconds=600)
    content = overview(source)
    assert [(stage.name, stage.duration) for stage in content["stages"]][:2] == [
        ("split", "75 s"),
        ("backbone", "10 min 00 s"),
    ]
    assert content["total_duration"] == "11 min 17 s"
    assert [figure.title for figure in content["training"]] == ["Backbone", "Teacher", "Students"]


def test_the_configuration_is_shown_as_it_is_typed(source):
    assert overview(source)["configuration"]["run"] == {
        "seed": "0",
        "note": "<i>&amp;</i>",
        "scales": "[33]",
        "layers": "null",
        "exact": "true",
    }


def test_defect_types_link_to_their_images(source):
    links = {row["name"]: row["link"] for row in overview(source)["types"]}
    assert links[PLAIN_TYPE] == "evaluation.html#type=cut+100%25%232"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (61, "61 s"), (185, "3 min 05 s"), (7380, "2 h 03 min")]
)
def test_durations_are_told_as_a_person_would(seconds, text):
    assert duration_text(seconds) == text


def test_without_masks_there_is_no_pro_curve_and_the_pages_say_why(tmp_path):
    source = draw_report_source(tmp_path, masks=False)
    report = written(source)
    [images] = handed_over(report / "data" / "images.js")
    assert not any("mask" in one for one in images)
    assert [figure.title for figure in overview(source)["figures"]] == ["Image scores", "ROC", "Precision and recall"]
    assert "no masks in the data set" in (report / "index.html").read_text()


def test_without_maps_and_heatmaps_the_plain_images_are_shown(tmp_path):
    source = draw_report_source(tmp_path, maps=False, heatmaps=False)
    report = written(source)
    _, predictions = handed_over(report / "data" / "predictions.js")
    assert {key for one in predictions for key in one} == {"image", "score"}
    assert list((report / "values").iterdir()) == []


def test_images_that_are_gone_leave_a_gap_and_a_warning(tmp_path, caplog):
    source = draw_report_source(tmp_path)
    (source.data_root / source.samples[0].filename).unlink()
    with caplog.at_level(logging.WARNING):
        report = written(source)
    [images] = handed_over(report / "data" / "images.js")
    assert ["gallery" in one for one in images].count(False) == 1
    assert "train/good/0.png" in caplog.text


def test_a_data_set_that_is_gone_is_an_error_that_names_the_way_out(tmp_path):
    source = draw_report_source(tmp_path)
    shutil.rmtree(source.data_root)
    with pytest.raises(DataError, match=r"none of the 14 images of the split can be read below .*data\.root="):
        written(source)
    assert not (source.run_dir.report / "index.html").exists()


def test_a_prediction_that_is_not_in_the_split_is_left_out_with_a_warning(tmp_path, caplog):
    source = draw_report_source(tmp_path)
    fewer = dataclasses.replace(source, samples=source.samples[:-1])
    with caplog.at_level(logging.WARNING):
        report = written(fewer)
    _, predictions = handed_over(report / "data" / "predictions.js")
    assert len(predictions) == len(source.predictions) - 1
    assert "is not in split.jsonl" in caplog.text


def test_progress_counts_every_image_prediction_and_map(tmp_path):
    source = draw_report_source(tmp_path)
    counted = []
    write_report(source, on_picture=counted.append)
    total = len(source.samples) + len(source.predictions) + len(source.pixels.images)
    assert counted == list(range(1, total + 1))


def test_the_hash_of_the_pages_is_stable():
    assert pages_hash() == pages_hash()
    assert len(pages_hash()) == 64
