from pathlib import Path

import pytest

from us_anomaly.data.memory import available_memory_bytes


def test_the_machine_decides_where_no_container_limits(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    12 kB\n")
    assert available_memory_bytes(meminfo=tmp_path / "meminfo", cgroup=tmp_path) == 12 * 1024


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [("7000", "3000", 4000), ("100", "300", 0), ("max", "5", 12288)]
)
def test_a_lower_limit_of_the_container_wins(tmp_path: Path, limit: str, used: str, expected: int) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 12 kB\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    assert available_memory_bytes(meminfo=tmp_path / "meminfo", cgroup=tmp_path) == expected


@pytest.mark.parametrize(("old_files", "expected"), [("2500", 6500), ("3000", 7000), ("9000", 7000), ("many", 4000)])
def test_files_that_are_kept_in_memory_until_it_is_needed_do_not_count(
    tmp_path: Path, old_files: str, expected: int
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 12 kB\n")
    (tmp_path / "memory.max").write_text("7000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text(f"anon 400\ninactive_file {old_files}\nactive_file 10\n")
    assert available_memory_bytes(meminfo=tmp_path / "meminfo", cgroup=tmp_path) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("7000", 5500), ("100", 0), ("9223372036854771712", 12288), ("much", 12288)]
)
def test_a_container_of_version_1_limits_as_well(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 12 kB\n")
    (tmp_path / "memory").mkdir()
    for name, text in (
        ("limit_in_bytes", limit),
        ("usage_in_bytes", "3000"),
        ("stat", "inactive_file 5\ntotal_inactive_file 1500"),
    ):
        (tmp_path / "memory" / f"memory.{name}").write_text(text + "\n")
    assert available_memory_bytes(meminfo=tmp_path / "meminfo", cgroup=tmp_path) == expected


def test_machines_without_that_table_report_something_positive(tmp_path: Path) -> None:
    assert available_memory_bytes(meminfo=tmp_path / "missing", cgroup=tmp_path) > 0
