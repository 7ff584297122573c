"""Every artifact names its format version; another one is refused with what to do; another origin is told."""

import json
import logging
import shutil
from pathlib import Path

import pytest

import us_anomaly
from us_anomaly.commands import (
    calibrate,
    distill_teacher,
    evaluate,
    infer,
    normalize,
    report,
    run,
    split,
    train_students,
)
from us_anomaly.errors import ArtifactError, StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, read_tensors, write_tensors
from us_anomaly.run_dir.environment import environment
from us_anomaly.run_dir.provenance import content_hash
from us_anomaly.run_dir.said import forget_what_was_said
from us_anomaly.version import __version__

ARTIFACTS = {
    "split.jsonl": split,
    "p33/teacher.pt": distill_teacher,
    "p33/teacher_statistics.pt": normalize,
    "p33/students.pt": train_students,
    "calibration.json": calibrate,
    "predictions.jsonl": infer,
    "evaluation.json": evaluate,
}
PRECIOUS = ("split.jsonl", "p33/teacher.pt", "p33/teacher_statistics.pt", "p33/students.pt")
"""Statistics are, once students have learned from them."""


def edit_note(root: Path, name: str, **changes: object) -> None:
    path = root / "provenance" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_artifact_of_a_run_names_its_format_version_and_the_version_that_wrote_it(trained):
    for name in ARTIFACTS:
        note = read_json(trained / "provenance" / f"{name}.json")
        assert note["format_version"] == 1
        assert note["us_anomaly"] == __version__
    for name in ("teacher", "teacher_statistics", "students"):
        assert read_tensors(trained / "p33" / f"{name}.pt")["format_version"] == 1
    assert read_json(trained / "calibration.json")["calibration"]["format_version"] == 1
    assert read_json(trained / "evaluation.json")["format_version"] == 1


@pytest.mark.parametrize("name", PRECIOUS)
def test_a_precious_artifact_of_an_older_format_is_refused_with_what_to_do(trained_copy, compose, tiny, name):
    edit_note(trained_copy, name, format_version=0)
    with pytest.raises(StaleArtifactError) as caught:
        ARTIFACTS[name].run(compose("run", *tiny(trained_copy)))
    command = read_json(trained_copy / "provenance" / f"{name}.json")["command"]
    assert f"its format is version 0, and this us_anomaly ({__version__}) reads version 1: make it again with " in str(
        caught.value
    )
    assert f"`usad {command} overwrite=true`" in str(caught.value)


@pytest.mark.parametrize("name", PRECIOUS)
def test_a_precious_artifact_of_a_newer_format_is_refused_with_the_advice_to_update(trained_copy, compose, tiny, name):
    before = (trained_copy / name).read_bytes()
    edit_note(trained_copy, name, format_version=2)
    with pytest.raises(StaleArtifactError, match=r"which a newer us_anomaly writes .* update us_anomaly"):
        ARTIFACTS[name].run(compose("run", *tiny(trained_copy)))
    assert (trained_copy / name).read_bytes() == before


@pytest.mark.parametrize("name", [name for name in ARTIFACTS if name not in PRECIOUS])
def test_what_takes_minutes_is_made_again_from_an_older_format_with_a_word(trained_copy, compose, tiny, caplog, name):
    edit_note(trained_copy, name, format_version=0)
    with caplog.at_level(logging.INFO):
        ARTIFACTS[name].run(compose("run", *tiny(trained_copy)))
    assert "is made again: its format is version 0" in caplog.text
    assert read_json(trained_copy / "provenance" / f"{name}.json")["format_version"] == 1


@pytest.mark.parametrize("name", ["teacher", "teacher_statistics", "students"])
@pytest.mark.parametrize(
    ("version", "advice"), [(0, "make it again with `usad"), (2, "update us_anomaly"), (None, "names no format")]
)
def test_weights_of_another_format_are_refused_by_their_own_version(trained_copy, name, version, advice):
    path = trained_copy / "p33" / f"{name}.pt"
    state = read_tensors(path)
    del state["format_version"]
    write_tensors(path, state if version is None else {**state, "format_version": version})
    inputs = read_json(trained_copy / "provenance" / "calibration.json.json")["inputs"]
    edit_note(trained_copy, "calibration.json", inputs=inputs | {f"p33/{name}.pt": content_hash(path)})
    with pytest.raises(ArtifactError, match=advice):
        us_anomaly.load(trained_copy, device="cpu")


def test_every_loss_curve_lies_beside_the_artifact_whose_note_names_its_version(trained):
    curves = sorted(trained.rglob("*.losses.jsonl"))
    assert [curve.name for curve in curves] == ["students.losses.jsonl", "teacher.losses.jsonl"]
    for curve in curves:
        artifact = curve.relative_to(trained).as_posix().replace(".losses.jsonl", ".pt")
        assert read_json(trained / "provenance" / f"{artifact}.json")["format_version"] == 1


@pytest.mark.parametrize("name", ["teacher", "students"])
@pytest.mark.parametrize(("version", "advice"), [(0, "make it again with `usad"), (2, "update us_anomaly")])
def test_a_loss_curve_of_another_version_is_refused_before_it_is_drawn(
    trained_copy, compose, tiny, name, version, advice
):
    (trained_copy / "p33" / f"{name}.losses.jsonl").write_text("of another format")
    edit_note(trained_copy, f"p33/{name}.pt", format_version=version)
    shutil.rmtree(trained_copy / "report")
    with pytest.raises(StaleArtifactError, match=rf"p33/{name}\.pt .* its format is version {version}, .*{advice}"):
        report.run(compose("run", *tiny(trained_copy)))


@pytest.fixture
def _quiet_before():
    forget_what_was_said()
    yield
    forget_what_was_said()


@pytest.mark.usefixtures("_quiet_before")
def test_another_torch_or_processor_is_told_once_per_command(trained_copy, compose, tiny, caplog):
    then = environment() | {"torch": "1.0.0", "processor": "Abacus 3000"}
    for name in ARTIFACTS:
        edit_note(trained_copy, name, environment=then)
    settings = compose("run", *tiny(trained_copy))
    run.run(settings)
    said = [record.getMessage() for record in caplog.records if "was made elsewhere" in record.getMessage()]
    now = environment()
    assert said == [
        f"split.jsonl was made elsewhere (torch 1.0.0 then, {now['torch']} now; processor Abacus 3000 then, "
        f"{now['processor']} now): the same settings can give slightly other results here"
    ]


@pytest.mark.usefixtures("_quiet_before")
def test_a_detector_from_elsewhere_is_loaded_with_a_word(trained_copy, caplog):
    edit_note(trained_copy, "calibration.json", environment=environment() | {"torch": "1.0.0"})
    us_anomaly.load(trained_copy, device="cpu")
    assert "calibration.json was made elsewhere (torch 1.0.0 then" in caplog.text


def edit_calibration(root: Path, **changes: object) -> None:
    """Change `calibration.json` and what vouches for it; None removes a key."""
    path = root / "calibration.json"
    content = {key: value for key, value in (read_json(path) | changes).items() if value is not None}
    path.write_text(json.dumps(content))
    edit_note(root, "calibration.json", sha256=content_hash(path))


def test_a_calibration_says_in_which_number_format_it_was_made(trained):
    assert read_json(trained / "calibration.json")["precision"] == "float32"


@pytest.mark.usefixtures("_quiet_before")
def test_scoring_in_another_number_format_than_that_of_the_calibration_is_told(trained_copy, compose, tiny, caplog):
    settings = compose("infer", *tiny(trained_copy, "overwrite=true", "runtime.precision=bfloat16"))
    infer.run(settings)
    said = [record.getMessage() for record in caplog.records if "calibrated in" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"{trained_copy} was calibrated in float32 and now computes in bfloat16: scores differ")


@pytest.mark.usefixtures("_quiet_before")
def test_a_detector_that_computes_in_another_number_format_than_it_was_calibrated_in_says_so(
    trained_copy, caplog, monkeypatch
):
    monkeypatch.setattr("us_anomaly.models.compute.multiplies_bfloat16", lambda device: False)
    edit_calibration(trained_copy, precision="bfloat16")
    us_anomaly.load(trained_copy, device="cpu", precision="auto")
    assert "was calibrated in bfloat16 and now computes in float32" in caplog.text


@pytest.mark.usefixtures("_quiet_before")
@pytest.mark.parametrize(("calibrated", "used"), [("float32", "float32"), ("bfloat16", "bfloat16"), (None, "bfloat16")])
def test_a_detector_computes_in_the_number_format_that_it_was_calibrated_in(
    trained_copy, caplog, monkeypatch, calibrated, used
):
    monkeypatch.setattr("us_anomaly.models.compute.multiplies_bfloat16", lambda device: True)
    edit_calibration(trained_copy, precision=calibrated)
    assert us_anomaly.load(trained_copy, device="cpu").compute.precision == used
    assert "calibrated in" not in caplog.text


@pytest.mark.usefixtures("_quiet_before")
def test_a_detector_that_was_calibrated_anew_says_again_that_it_computes_in_another_number_format(trained_copy, caplog):
    for calibrated in ("bfloat16", "float32", "bfloat16"):
        edit_calibration(trained_copy, precision=calibrated)
        us_anomaly.load(trained_copy, device="cpu", precision="float32")
    said = [record.getMessage() for record in caplog.records if "calibrated in" in record.getMessage()]
    assert len(said) == 2


@pytest.mark.usefixtures("_quiet_before")
def test_a_calibration_from_before_it_said_its_number_format_is_still_read(trained_copy, caplog):
    edit_calibration(trained_copy, precision=None)
    assert us_anomaly.load(trained_copy, device="cpu").calibration is not None
    assert "calibrated in" not in caplog.text


def test_a_number_format_that_is_none_is_refused(trained_copy):
    edit_calibration(trained_copy, precision="float8")
    with pytest.raises(
        ArtifactError, match=r"does not follow its schema \(precision 'float8'\); delete it and run `usad c"
    ):
        us_anomaly.load(trained_copy, device="cpu")


@pytest.mark.usefixtures("_quiet_before")
def test_at_home_nothing_is_said(trained_copy, compose, tiny, caplog):
    run.run(compose("run", *tiny(trained_copy)))
    us_anomaly.load(trained_copy, device="cpu")
    assert "elsewhere" not in caplog.text


def test_a_run_directory_of_before_the_list_of_files_is_still_read(trained_copy, compose, tiny):
    """Notes without `files` and `runtime` were written until November 2026."""
    for path in (trained_copy / "provenance").rglob("*.json"):
        note = json.loads(path.read_text())
        del note["files"], note["runtime"]
        path.write_text(json.dumps(note))
    before = RunDir(trained_copy).predictions.stat().st_mtime_ns
    run.run(compose("run", *tiny(trained_copy)))
    assert RunDir(trained_copy).predictions.stat().st_mtime_ns == before
