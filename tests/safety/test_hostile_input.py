"""Files that somebody else prepared: nothing in them runs, nothing in them leads elsewhere, and one line says why."""

import ast
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from bombs import BOMBS, Bomb, zipped
from conftest import draw_parts
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torture import contents, differences

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
from us_anomaly.commands.results import _unique_stems
from us_anomaly.errors import ArtifactError, DataError, SettingsError, UsadError, WeightsError
from us_anomaly.models.backbones import load_backbone
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import content_hash
from us_anomaly.training.checkpoint import TrainingCheckpoint

PACKAGE = Path(us_anomaly.__file__).parent


@pytest.fixture
def marker(tmp_path):
    """The folder that appears if something runs."""
    marker = tmp_path / "exploded"
    yield marker
    assert not marker.exists(), "a planted file ran code"


@pytest.mark.parametrize("kind", BOMBS)
def test_the_bombs_of_these_tests_do_explode_when_they_are_trusted(tmp_path, kind):
    marker = tmp_path / "exploded"
    content = BOMBS[kind](marker)
    if kind == "bare":
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert marker.exists()


def forge(run_dir: RunDir, name: str, content: bytes) -> None:
    """Plant an artifact together with a provenance that vouches for it everywhere."""
    path = run_dir.root / name
    path.write_bytes(content)
    for note_path in (run_dir.root / "provenance").rglob("*.json"):
        note = json.loads(note_path.read_text())
        if name in note["inputs"]:
            note["inputs"][name] = content_hash(path)
        if note_path == run_dir.provenance(path):
            note["sha256"] = content_hash(path)
        note_path.write_text(json.dumps(note))
    for dependent in ("p33/teacher_statistics.pt", "p33/students.pt", "calibration.json", "predictions.jsonl"):
        if dependent != name:
            assert (run_dir.root / dependent).exists()


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("p33/teacher.pt", normalize),
        ("p33/teacher.pt", train_students),
        ("p33/teacher_statistics.pt", train_students),
        ("p33/students.pt", calibrate),
        ("p33/students.pt", infer),
    ],
)
def test_an_exploding_artifact_is_refused_by_the_stages_that_read_it(
    trained_copy, compose, tiny, marker, name, module, kind
):
    forge(RunDir(trained_copy), name, BOMBS[kind](marker))
    for made in ("p33/teacher_statistics.pt", "p33/students.pt", "calibration.json", "predictions.jsonl"):
        if module is {"p33/teacher_statistics.pt": normalize, "p33/students.pt": train_students}.get(made) or (
            made == "calibration.json" and module is calibrate
        ):
            (trained_copy / made).unlink()  # so that the stage has something to do
    settings = compose("run", *tiny(trained_copy, "overwrite=true"))
    with pytest.raises(ArtifactError, match=rf"{name} is not a checkpoint of tensors and plain values") as caught:
        module.run(settings)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own text advises to switch the protection off


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("name", ["p33/teacher.pt", "p33/teacher_statistics.pt", "p33/students.pt"])
def test_an_exploding_artifact_is_refused_when_a_detector_is_loaded(trained_copy, marker, name, kind):
    forge(RunDir(trained_copy), name, BOMBS[kind](marker))
    with pytest.raises(ArtifactError, match="is not a checkpoint of tensors and plain values"):
        us_anomaly.load(trained_copy, device="cpu")


def test_an_artifact_that_was_exchanged_is_not_even_opened(trained_copy, compose, tiny, marker):
    (trained_copy / "p33" / "students.pt").write_bytes(zipped(marker))
    with pytest.raises(ArtifactError, match="the file was changed after it was made"):
        calibrate.run(compose("run", *tiny(trained_copy)))
    with pytest.raises(ArtifactError, match="is not the file it was made from"):
        us_anomaly.load(trained_copy, device="cpu")


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize(("module", "name"), [(distill_teacher, "teacher"), (train_students, "students")])
def test_an_exploding_training_state_is_refused(trained_copy, compose, tiny, marker, module, name, kind):
    (trained_copy / "p33" / f"{name}.pt").unlink()
    (trained_copy / "p33" / f"{name}.resume.pt").write_bytes(BOMBS[kind](marker))
    with pytest.raises(ArtifactError, match=rf"p33/{name}\.resume\.pt cannot be resumed from"):
        module.run(compose("run", *tiny(trained_copy)))


def test_a_training_state_of_the_right_key_with_a_bomb_inside_is_refused(tmp_path, marker):
    from us_anomaly.settings import CheckpointSettings

    state = {"format_version": 1, "key": "k", "step": 1, "parts": {"network": {"weight": Bomb(marker)}}, "curve": []}
    torch.save(state, tmp_path / "x.resume.pt")
    checkpoint = TrainingCheckpoint(
        tmp_path / "x.resume.pt",
        tmp_path / "x.jsonl",
        key="k",
        parts={"network": torch.nn.Linear(1, 1)},
        settings=CheckpointSettings(every_seconds=1, every_steps=None),
    )
    with pytest.raises(ArtifactError, match="cannot be resumed from"):
        checkpoint.resume()


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_exploding_backbone_weights_are_refused(tmp_path, compose, tiny, marker, kind, suffix):
    weights = tmp_path / f"weights{suffix}"
    weights.write_bytes(BOMBS[kind](marker))
    arguments = tiny(tmp_path / "run", f"backbone.weights={weights}", "teacher.images=generic")
    with pytest.raises(
        WeightsError, match=rf"weights{suffix} is not a state dict of tensors, or it is damaged"
    ) as caught:
        distill_teacher.run(compose("run", *arguments))
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder in which torch keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def default_resnet18(compose, run_dir: Path) -> None:
    settings = compose("run", f"run_dir={run_dir}", "data.root=/nowhere", "backbone=resnet18")
    load_backbone(settings.backbone)


@pytest.mark.parametrize("kind", BOMBS)
def test_exploding_weights_in_the_cache_of_downloads_are_refused(tmp_path, compose, marker, hub, kind):
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    (hub / url.rpartition("/")[2]).write_bytes(BOMBS[kind](marker))
    with pytest.raises(WeightsError, match="the pretrained weights of resnet18 cannot be downloaded") as caught:
        default_resnet18(compose, tmp_path / "run")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_download_with_another_hash_than_its_name_promises_is_refused_and_not_kept(
    tmp_path, compose, hub, monkeypatch, resnet18_weights
):
    """A server that hands out something else, whole and harmless as it may be."""
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "server").mkdir()
    shutil.copy(resnet18_weights, tmp_path / "server" / name)
    genuine = torch.hub.load_state_dict_from_url

    def from_our_server(url, *arguments, **options):
        return genuine((tmp_path / "server" / name).as_uri(), *arguments, **options)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", from_our_server)
    with pytest.raises(WeightsError, match="invalid hash value"):
        default_resnet18(compose, tmp_path / "run")
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_exploding_teacher_checkpoint_is_refused(tmp_path, compose, tiny, marker, kind, suffix):
    checkpoint = tmp_path / f"teacher{suffix}"
    checkpoint.write_bytes(BOMBS[kind](marker))
    with pytest.raises(ArtifactError, match=rf"teacher{suffix}"):
        distill_teacher.run(compose("run", *tiny(tmp_path / "run", f"teacher.checkpoint={checkpoint}")))


def test_no_call_in_the_package_evaluates_or_unpickles_what_it_reads():
    """Every way from data to code that Python, torch, NumPy and Hydra offer; `torch.load` must say weights_only=True."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                where = f"{path}, line {node.lineno}: {called}"
                assert called not in ("eval", "exec", "compile", "__import__", "input", "os.system", "os.popen"), where
                assert not called.startswith(
                    ("pickle.", "marshal.", "shelve.", "dill.", "joblib.", "subprocess.", "yaml.")
                ), where
                assert not called.endswith((".instantiate", ".get_class", ".get_method", ".get_object")), where
                assert arguments.get("allow_pickle", "False") == "False", where
                if called == "torch.load":
                    assert arguments["weights_only"] == "True", where
                if called.endswith("register_new_resolver"):
                    assert ast.unparse(node.args[0]) in ("'usad_job'", "'usad_folder'", "'usad_size'"), (
                        where  # they name folders, and turn one side into two
                    )


# --- files that claim what is not so -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"descriptor_dim": 10**9}, "size mismatch"),
        ({"width": 1e9}, "Storage size calculation overflowed"),
        ({"width": float("nan")}, "cannot convert float NaN to integer"),
        ({"width": float("inf")}, "cannot convert float infinity to integer"),
        ({"patch_size": 10**9}, "there is no patch network for 1000000000 pixels"),
        ({"patch_size": "33; import os"}, "invalid literal for int"),
        ({"patch_size": None}, "int"),
        ({"network": {}}, "Missing key"),
        ({"network": None}, "NoneType"),
        ({"network": {"layers.0.weight": "text"}}, r"layers\.0\.weight is not a tensor of floating-point numbers"),
        ({"format_version": None}, "names no format version"),
        ({"format_version": 99}, "has format version 99, which a newer us_anomaly writes"),
    ],
)
def test_a_teacher_that_claims_the_impossible_is_refused_without_taking_memory(
    trained, tmp_path, compose, tiny, change, reason
):
    state = torch.load(trained / "p33" / "teacher.pt", weights_only=True)
    torch.save(state | change, tmp_path / "teacher.pt")
    with pytest.raises(ArtifactError, match=reason) as caught:
        distill_teacher.run(compose("run", *tiny(tmp_path / "run", f"teacher.checkpoint={tmp_path / 'teacher.pt'}")))
    assert "\n" not in str(caught.value)


def test_students_that_claim_to_be_a_billion_are_refused_without_taking_memory(trained_copy):
    run_dir = RunDir(trained_copy)
    state = torch.load(run_dir.students(33), weights_only=True)
    buffer = io.BytesIO()
    torch.save(state | {"num_students": 10**9}, buffer)
    forge(run_dir, "p33/students.pt", buffer.getvalue())
    with pytest.raises(ArtifactError, match="it claims to hold 1000000000 students in 16 tensors"):
        us_anomaly.load(trained_copy, device="cpu")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"std": torch.zeros(8)}, "every std above 0"),
        ({"std": torch.full((8,), float("nan"))}, "std holds values that are not finite numbers"),
        ({"mean": torch.zeros(7)}, "vectors of one length"),
        ({"mean": torch.zeros(9), "std": torch.ones(9)}, "teacher, statistics and students do not belong together"),
        ({"mean": [0.0] * 8}, "mean is not a tensor"),
    ],
)
def test_statistics_that_cannot_be_are_refused(trained_copy, change, reason):
    run_dir = RunDir(trained_copy)
    state = torch.load(run_dir.teacher_statistics(33), weights_only=True)
    buffer = io.BytesIO()
    torch.save(state | change, buffer)
    forge(run_dir, "p33/teacher_statistics.pt", buffer.getvalue())
    with pytest.raises(ArtifactError, match=reason):
        us_anomaly.load(trained_copy, device="cpu")


def test_weights_that_are_not_finite_are_refused(trained_copy):
    run_dir = RunDir(trained_copy)
    state = torch.load(run_dir.students(33), weights_only=True)
    state["networks"]["students.0.layers.0.bias"][0] = float("inf")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    forge(run_dir, "p33/students.pt", buffer.getvalue())
    with pytest.raises(ArtifactError, match=r"students\.0\.layers\.0\.bias holds values that are not finite numbers"):
        us_anomaly.load(trained_copy, device="cpu")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "its header lacks 'patch_size'"),
        ({"patch_size": "33", "descriptor_dim": "1000000000", "width": "1"}, "size mismatch"),
        (
            {"patch_size": "33", "descriptor_dim": "8", "width": "__import__('os').mkdir('x')"},
            "could not convert string to float",
        ),
    ],
)
def test_a_safetensors_teacher_that_claims_the_impossible_is_refused(tmp_path, trained, compose, tiny, header, reason):
    state = torch.load(trained / "p33" / "teacher.pt", weights_only=True)
    save_file(state["network"], tmp_path / "teacher.safetensors", metadata=header)
    arguments = tiny(tmp_path / "run", f"teacher.checkpoint={tmp_path / 'teacher.safetensors'}")
    with pytest.raises(ArtifactError, match=reason):
        distill_teacher.run(compose("run", *arguments))


# --- names that lead elsewhere -----------------------------------------------------------------------------------

ELSEWHERE = ["../../../../etc/passwd", "/etc/passwd", "maps/../../secret.tiff", "C:\\Windows\\x", "maps\\..\\..\\x"]


def changed_line(path: Path, change) -> bytes:
    """Return a JSONL file with its first line changed."""
    lines = path.read_text().splitlines()
    content = json.loads(lines[0])
    change(content)
    return ("\n".join([json.dumps(content), *lines[1:]]) + "\n").encode()


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
@pytest.mark.parametrize("key", ["map_path", "heatmap_path", "uncertainty_path"])
@pytest.mark.parametrize("module", [evaluate, report])
def test_a_prediction_that_points_out_of_the_run_directory_is_refused(
    trained_copy, compose, tiny, module, key, elsewhere
):
    run_dir = RunDir(trained_copy)
    content = changed_line(run_dir.predictions, lambda line: line["prediction"].update({key: elsewhere}))
    forge(run_dir, "predictions.jsonl", content)
    shutil.rmtree(run_dir.report)
    settings = compose(
        "run", *tiny(trained_copy, "evaluation.bootstrap_samples=10" if module is evaluate else "seed=0")
    )
    with pytest.raises(ArtifactError, match=r"predictions\.jsonl, line 1: .* is no path below the run directory"):
        module.run(settings)


@pytest.mark.parametrize("elsewhere", [*ELSEWHERE, "images/good/../../../../../etc/passwd", ["a list"], None, 5])
@pytest.mark.parametrize("key", ["filename", "mask_path"])
def test_a_split_that_names_files_elsewhere_is_refused_by_every_stage(trained_copy, compose, tiny, key, elsewhere):
    run_dir = RunDir(trained_copy)
    if key == "mask_path" and elsewhere is None:
        pytest.skip("no mask is no path")
    forge(run_dir, "split.jsonl", changed_line(run_dir.split, lambda line: line.update({key: elsewhere})))
    settings = compose("run", *tiny(trained_copy))
    for module in (distill_teacher, normalize, train_students, calibrate, infer, evaluate, report):
        with pytest.raises(ArtifactError, match=r"split\.jsonl (names 1 pictures that|holds labels of no picture)"):
            module.run(settings)


def test_a_split_that_calls_an_anomaly_normal_is_refused(trained_copy, compose, tiny):
    """Who can write the file could otherwise teach the detector that a defect is normal."""
    run_dir = RunDir(trained_copy)

    def lie(line):
        line["label"]["is_anomalous"] = not line["label"]["is_anomalous"]

    forge(run_dir, "split.jsonl", changed_line(run_dir.split, lie))
    with pytest.raises(
        ArtifactError, match=r"split\.jsonl names 1 pictures that the data set does not hold as it says"
    ):
        train_students.run(compose("run", *tiny(trained_copy)))


@pytest.mark.parametrize(
    "transforms",
    [
        [{"name": "Lambda", "params": {"lambd": "__import__('os').mkdir('x')"}}],
        [{"name": "os.system", "params": {"command": "mkdir x"}}],
        [{"name": "__class__", "params": {}}],
        [{"name": "ToDtype", "params": {"dtype": "__import__('os')", "scale": True}}],
        [{"name": "Resize", "params": {"size": "__import__('os')"}}],
        "ToImage",
        [{"_target_": "os.mkdir", "path": "x"}],
    ],
)
def test_a_calibration_cannot_smuggle_code_in_as_transforms(trained_copy, tmp_path, monkeypatch, transforms):
    monkeypatch.chdir(tmp_path)
    run_dir = RunDir(trained_copy)
    content = json.loads(run_dir.calibration.read_text()) | {"transforms": transforms}
    forge(run_dir, "calibration.json", json.dumps(content).encode())
    with pytest.raises((SettingsError, ArtifactError)):
        us_anomaly.load(trained_copy, device="cpu")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_threshold", "0.5"),
        ("image_threshold", None),
        ("score_scale", 0),
        ("score_scale", True),
        ("color_range", [1, 1]),
        ("color_range", [0, "1"]),
        ("format_version", 99),
    ],
)
def test_a_calibration_with_what_is_no_number_is_refused(trained_copy, key, value):
    run_dir = RunDir(trained_copy)
    content = json.loads(run_dir.calibration.read_text())
    content["calibration"][key] = value
    forge(run_dir, "calibration.json", json.dumps(content).encode())
    with pytest.raises(ArtifactError, match=r"calibration\.json"):
        us_anomaly.load(trained_copy, device="cpu")


def test_not_a_number_in_a_calibration_is_refused(trained_copy):
    run_dir = RunDir(trained_copy)
    content = json.loads(run_dir.calibration.read_text())
    content["calibration"]["image_threshold"] = float("nan")
    forge(run_dir, "calibration.json", json.dumps(content).encode())
    with pytest.raises(
        ArtifactError, match=r"calibration\.json is not valid JSON \(it holds NaN, which is no number\)"
    ):
        us_anomaly.load(trained_copy, device="cpu")


@given(st.lists(st.text(alphabet="aAb./\\", min_size=1, max_size=10), unique=True, max_size=8))
def test_results_of_any_names_stay_in_their_folder_and_apart(names):
    stems = _unique_stems(names)
    results = [os.path.normpath(f"/run/maps/{stem}.tiff") for stem in stems.values()]
    assert all(result.startswith("/run/maps/") for result in results)
    assert len({result.casefold() for result in results}) == len(names)  # some file systems take A.png for a.png


@pytest.mark.parametrize("name", ["../../x.png", "....//....//x.png", "/etc/x.png", "..", "a/../../x.png"])
def test_names_made_to_climb_out_do_not(name):
    stem = _unique_stems([name])[name]
    assert os.path.normpath(f"/run/maps/{stem}.tiff").startswith("/run/maps/")


def test_pictures_outside_of_the_root_are_refused_unless_allowed_and_their_results_stay_inside(tmp_path, compose, tiny):
    parts = draw_parts(tmp_path / "elsewhere" / "parts", num_normal=8)
    (tmp_path / "root").mkdir()
    rows = [f"{path},{int('good' not in path.parts)}" for path in sorted(parts.glob("images/*/*.png"))]
    (tmp_path / "root" / "table.csv").write_text("\n".join(["filename,is_anomalous", *rows]))
    arguments = [argument for argument in tiny(tmp_path / "run") if not argument.startswith("data")]
    arguments += ["data=csv", f"data.root={tmp_path / 'root'}", "data.file=table.csv"]
    with pytest.raises(DataError, match=r"outside data\.root=.*allow it with data\.allow_outside_root=true"):
        split.run(compose("split", *arguments))
    before = contents(tmp_path / "elsewhere")
    run.run(compose("run", *arguments, "data.allow_outside_root=true"))
    assert differences(before, contents(tmp_path / "elsewhere")) == []
    maps = [path.resolve() for path in (tmp_path / "run" / "maps").rglob("*.tiff")]
    assert len(maps) > 4
    assert all(path.is_relative_to(tmp_path / "run" / "maps") for path in maps)


def test_every_refusal_is_an_error_of_ours_with_one_line(trained_copy, compose, tiny):
    run_dir = RunDir(trained_copy)
    run_dir.predictions.write_bytes(b"[" * 200_000 + b"\n")
    forge(run_dir, "predictions.jsonl", run_dir.predictions.read_bytes())
    with pytest.raises(UsadError, match=r"predictions\.jsonl, line 1 is not a result") as caught:
        evaluate.run(compose("run", *tiny(trained_copy, "evaluation.bootstrap_samples=10")))
    assert "\n" not in str(caught.value)
