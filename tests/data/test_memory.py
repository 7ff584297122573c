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


def test_machines_without_that_table_report_something_positive(tmp_path: Path) -> None:
    assert available_memory_bytes(meminfo=tmp_path / "missing", cgroup=tmp_path) > 0
