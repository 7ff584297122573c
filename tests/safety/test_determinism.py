"""Same seed, same machine, same settings: the same bytes, however many threads read pictures."""

import itertools
import json

import pytest
import torch
from torture import contents, differences

from us_anomaly.commands import calibrate, distill_teacher, evaluate, infer, normalize, split, train_students
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.run_dir import RunDir
from us_anomaly.training.artifacts import load_students

STAGES = (split, distill_teacher, normalize, train_students, calibrate, infer, evaluate)


def results(run_dir) -> dict[str, bytes]:
    return {name: content for name, content in contents(run_dir).items() if "report/" not in name}


@pytest.mark.parametrize(("num_workers", "num_processes"), [(0, 0), (4, 0), (0, 2)])
def test_a_second_run_gives_the_same_bytes_for_any_number_of_workers(
    trained, tmp_path, compose, tiny, num_workers, num_processes
):
    workers = f"runtime.num_workers={num_workers}", f"runtime.num_drawing_processes={num_processes}"
    settings = compose("run", *tiny(tmp_path / "run", *workers))
    for stage in STAGES:
        stage.run(settings)
    assert json.loads((trained / "provenance/p33/teacher.pt.json").read_text())["runtime"]["runtime.num_workers"] == 1
    expected, found = results(trained), results(tmp_path / "run")
    assert differences(expected, found) == []
    assert {"p33/teacher.pt", "p33/students.pt", "calibration.json", "predictions.jsonl"} <= found.keys()
    assert sum(name.startswith("maps/") for name in found) >= 10


def test_the_random_numbers_of_the_caller_change_nothing(trained, trained_copy, compose, tiny):
    """Whoever calls us from Python may have drawn random numbers before."""
    torch.manual_seed(12345)
    torch.rand(7)
    settings = compose("run", *tiny(trained_copy))
    (trained_copy / "p33" / "students.pt").unlink()
    train_students.run(settings)
    assert (trained_copy / "p33" / "students.pt").read_bytes() == (trained / "p33" / "students.pt").read_bytes()


def test_another_seed_gives_other_teachers_and_students(trained, tmp_path, compose, tiny):
    settings = compose("run", *tiny(tmp_path / "run", "seed=1"))
    for stage in STAGES[:4]:
        stage.run(settings)
    for name in ("p33/teacher.pt", "p33/students.pt"):
        assert (tmp_path / "run" / name).read_bytes() != (trained / name).read_bytes()


def test_students_begin_with_different_weights():
    ensemble = StudentEnsemble(3, patch_size=33, descriptor_dim=8, width=0.1, seed=0)
    for first, second in itertools.combinations(ensemble.networks, 2):
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            if one.ndim > 1:  # biases begin with zero
                assert not torch.equal(one, other)
                correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
                assert correlation.abs() < 6 / one.numel() ** 0.5


def test_trained_students_still_differ_so_that_their_disagreement_means_something(trained, parts):
    ensemble = load_students(RunDir(trained).students(33))
    patches = torch.rand(4, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = [network(patches) for network in ensemble.networks]
    assert len(answers) == 2
    spread = (answers[0] - answers[1]).abs().mean()
    assert spread > 0.05 * answers[0].abs().mean()


def test_a_student_does_not_depend_on_how_many_others_there_are():
    few = StudentEnsemble(1, patch_size=17, descriptor_dim=4, width=0.1, seed=5)
    many = StudentEnsemble(3, patch_size=17, descriptor_dim=4, width=0.1, seed=5)
    for one, other in zip(few.networks[0].parameters(), many.networks[0].parameters(), strict=True):
        assert torch.equal(one, other)
