import dataclasses
import os

import pytest
import torch

from us_anomaly.errors import SettingsError
from us_anomaly.models.compute import Compute, available_cores, choose_compute, multiplies_bfloat16, num_threads
from us_anomaly.run_dir.said import forget_what_was_said
from us_anomaly.settings import Precision, RuntimeSettings

CPU = torch.device("cpu")
NAMED_SINCE_2_9 = hasattr(torch.backends.cudnn, "conv")


@pytest.fixture
def runtime():
    num_threads = torch.get_num_threads()
    yield RuntimeSettings(
        device="cpu",
        precision=Precision.float32,
        compile=False,
        num_threads=1,
        num_workers=0,
        num_drawing_processes=None,
        progress=False,
        log_level="info",
    )
    torch.set_num_threads(num_threads)


def test_device_precision_and_threads_are_those_of_the_settings(runtime):
    assert choose_compute(runtime) == Compute(CPU, torch.float32)
    assert torch.get_num_threads() == 1
    coarse = dataclasses.replace(runtime, precision=Precision.bfloat16)
    assert choose_compute(coarse) == Compute(CPU, torch.bfloat16)


def test_automatic_precision_is_bfloat16_where_the_processor_multiplies_it(runtime, monkeypatch):
    automatic = dataclasses.replace(runtime, precision=Precision.auto)
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("us_anomaly.models.compute.multiplies_bfloat16", lambda device, answer=supported: answer)
        assert choose_compute(automatic).dtype is dtype


def test_one_of_the_instruction_sets_is_enough_for_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert not multiplies_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert multiplies_bfloat16(CPU)


def test_a_torch_without_these_questions_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert not multiplies_bfloat16(CPU)


def test_networks_compute_in_the_chosen_format_and_keep_float32_weights():
    layer = torch.nn.Linear(4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with Compute(CPU, dtype).autocast():
            assert layer(torch.ones(1, 4)).dtype is dtype
    assert layer.weight.dtype is torch.float32


def test_automatic_device_is_the_processor_without_a_graphics_card(runtime, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_compute(dataclasses.replace(runtime, device="auto")).device == CPU


def test_a_graphics_card_that_is_not_there_is_refused_with_the_way_out(runtime, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        SettingsError, match=r"`runtime.device` is cuda:1, but torch sees no CUDA device: use runtime.dev"
    ):
        choose_compute(dataclasses.replace(runtime, device="cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"`runtime.device` is cuda:1, but there are only 1 CUDA devices"):
        choose_compute(dataclasses.replace(runtime, device="cuda:1"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense"}, 3),
        ({}, 3),
    ],
)
def test_a_container_takes_no_more_threads_than_it_is_given_time_for(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr("us_anomaly.models.compute._physical_cores", lambda allowed: 3)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(cgroup=tmp_path) == expected


def test_functions_are_compiled_once_and_only_where_it_is_wanted(runtime, monkeypatch):
    asked = []

    def double(value):
        return 2 * value

    def compile_(function):
        asked.append(function)
        return lambda value: function(value)

    monkeypatch.setattr(torch, "compile", compile_)
    assert choose_compute(runtime).compiled(double) is double
    compute = choose_compute(dataclasses.replace(runtime, compile=True))
    assert [compute.compiled(double)(3), compute.compiled(double)(4)] == [6, 8]
    assert asked == [double]


def told_of_convolutions():
    cudnn = torch.backends.cudnn
    return [cudnn.benchmark, *([cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision] if NAMED_SINCE_2_9 else [])]


@pytest.mark.parametrize("is_exact", [False, True])
def test_how_a_graphics_card_computes_convolutions_is_put_back_after_scoring(is_exact):
    cudnn = torch.backends.cudnn
    before, benchmark = cudnn.allow_tf32, cudnn.benchmark
    try:
        cudnn.allow_tf32, cudnn.benchmark = not is_exact, is_exact
        told = told_of_convolutions()
        with Compute(torch.device("cuda"), torch.float32).alone():
            assert (cudnn.allow_tf32, cudnn.benchmark) == (False, True)
        assert (cudnn.allow_tf32, cudnn.benchmark) == (not is_exact, is_exact)
        assert told_of_convolutions() == told
        with Compute(CPU, torch.float32).alone():
            assert told_of_convolutions() == told
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before, benchmark


def test_of_threads_that_score_at_once_the_last_puts_back_what_the_first_found():
    cudnn, compute = torch.backends.cudnn, Compute(torch.device("cuda"), torch.float32)
    before = cudnn.allow_tf32
    try:
        cudnn.allow_tf32 = True
        first, second = compute.alone(), compute.alone()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not cudnn.allow_tf32
        second.__exit__(None, None, None)
        assert cudnn.allow_tf32
    finally:
        cudnn.allow_tf32 = before


@pytest.mark.skipif(not NAMED_SINCE_2_9, reason="torch has one name for all")
@pytest.mark.parametrize(("conv", "rnn"), [("tf32", "ieee"), ("ieee", "tf32")])
def test_a_program_that_tells_convolutions_by_the_newer_names_finds_them_as_they_were(conv, rnn):
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    try:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = conv, rnn
        with Compute(torch.device("cuda"), torch.float32).alone():
            assert cudnn.conv.fp32_precision == "ieee"
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == (conv, rnn)
    finally:
        cudnn.allow_tf32 = before


def test_pictures_arrive_channels_last_in_the_format_asked_for():
    images = torch.randn(2, 3, 5, 4)
    moved = Compute(CPU, torch.bfloat16).to_device(images, dtype=torch.bfloat16)
    assert moved.dtype is torch.bfloat16
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(Compute(CPU, torch.bfloat16).to_device(images), images)


def test_the_number_of_cores_is_between_one_and_the_processors_of_this_process():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [(None, "2", 2), (None, "2,1", 2), (None, "99", 6), (None, "", 6), (None, "0", 6), (None, "many", 6), (4, "2", 4)],
)
def test_threads_are_no_more_than_the_environment_allows_unless_the_settings_say_so(
    runtime, monkeypatch, given, variable, expected
):
    monkeypatch.setattr("us_anomaly.models.compute.available_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert num_threads(dataclasses.replace(runtime, num_threads=given)) == expected


def test_a_graphics_card_that_cannot_be_used_is_told_once(runtime, monkeypatch, tmp_path, caplog):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("us_anomaly.models.compute.DEVICES", tmp_path)
    automatic = dataclasses.replace(runtime, device="auto")

    def told(settings):
        caplog.clear()
        forget_what_was_said()
        choose_compute(settings)
        choose_compute(settings)
        return [record.getMessage() for record in caplog.records]

    assert told(automatic) == []
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (message,) = told(automatic)
    assert "there seems to be a graphics card: torch sees no CUDA device; `nvidia-smi`" in message
    monkeypatch.setattr(torch.version, "cuda", None)
    (message,) = told(automatic)
    assert "this torch was built without CUDA" in message
    assert told(runtime) == []  # the processor is what was asked for
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert told(automatic) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia0").unlink()
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert len(told(automatic)) == 1
