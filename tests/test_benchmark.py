"""`scripts/benchmark.py` runs through everything it measures, at sizes that say nothing about speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import unmeasured

SCRIPTS = Path(__file__).parents[1] / "scripts"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--quick", "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=unmeasured())


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmarks.networks
    import benchmarks.plain

    return benchmarks


@pytest.mark.slow
@pytest.mark.timeout(1800)  # fifteen seconds, if the machine has nothing else to do
def test_every_measurement_gives_a_line_with_time_rate_and_memory(tmp_path):
    ended = benchmark("--json", str(tmp_path / "b.json"))
    assert ended.returncode == 0, ended.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["machine"]["clock"] == "processor time"
    assert content["machine"]["float32_tflop_per_second"] > 0
    rows = {row["name"]: row for row in content["measurements"]}
    assert {name.split(",")[0] for name in rows} == {
        "map p=33 d=16", "image p=33", "teacher step", "student step", "infer", "metrics",
    }  # fmt: skip
    for name, row in rows.items():
        assert min(row["seconds"], row["runs"], row["base_mib"]) > 0, name
        assert row["base_mib"] <= row["peak_mib"], name
        is_arithmetic = not name.startswith(("infer", "metrics"))
        assert (row["gflop"] > 0) == (row["matrix_share"] > 0) == is_arithmetic, name
    assert rows["map p=33 d=16, stride 4"]["gflop"] < rows["map p=33 d=16"]["gflop"] / 2
    assert rows["student step, grid"]["gflop"] < rows["student step, dense"]["gflop"] / 4
    assert rows["student step, dense"]["gflop"] < rows["student step, plain way"]["gflop"]
    compared = {name for name, row in rows.items() if row["speed_up"] is not None}
    assert {"map p=33 d=16", "image p=33", "teacher step, patches", "student step, grid"} <= compared
    assert "pictures/s" in rows["infer"]["note"]
    assert "speed-up" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "bananas"], "no measurement begins with bananas: map p=33 d=16"),
        (["--without", "complied"], "no measurement holds complied: map p=33 d=16"),
        (
            ["--only", "metrics", "--without", "exact", "streaming"],
            "every measurement that was chosen holds exact or streaming",
        ),
    ],
)
def test_a_choice_of_no_measurement_is_refused(benchmarks, monkeypatch, capsys, arguments, said):
    from benchmark import main

    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--quick", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_to_be_left_out_is_not_measured(tmp_path):
    ended = benchmark("--only", "map", "--without", "plain", "stride", "--json", str(tmp_path / "b.json"))
    assert ended.returncode == 0, ended.stderr
    assert [row["name"] for row in json.loads((tmp_path / "b.json").read_text())["measurements"]] == ["map p=33 d=16"]


@pytest.mark.parametrize("patch_size", [17, 33, 65])
def test_the_plain_way_is_the_network_crop_by_crop(benchmarks, patch_size):
    from us_anomaly.models.patch_network import PatchNetwork
    from us_anomaly.models.windows import reflect_pad

    torch.manual_seed(0)
    network, image = PatchNetwork(patch_size, descriptor_dim=4, width=0.1), torch.randn(1, 3, 37, 42)
    with torch.no_grad():
        dense = benchmarks.plain.plain_dense(network, image)
        padded = reflect_pad(image, patch_size // 2)
        for row, col in ((0, 0), (36, 41), (5, 30), (18, 1)):
            expected = network(padded[..., row : row + patch_size, col : col + patch_size])[0]
            torch.testing.assert_close(dense[0, :, row, col], expected, atol=1e-5, rtol=0)


def test_a_plain_way_with_other_values_stops_the_benchmark(benchmarks):
    values = torch.randn(5, 5)
    benchmarks.networks.require_equal(values, values * (1 + 1e-6))
    with pytest.raises(SystemExit, match=r"the plain way gives other values: they differ by 0\.0\d+ of "):
        benchmarks.networks.require_equal(values, values * 1.01)
