from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def confined(code: str, file_bytes: int = 0) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has confined itself."""
    start = f"from qcaps.importers.confinement import confine; confine({file_bytes});"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize(("file_bytes", "allowed"), [(0, 150_000_000), (100_000_000, 350_000_000)])
def test_memory_is_limited_to_twice_the_file_and_a_constant(file_bytes: int, allowed: int) -> None:
    run = confined(f"x = bytearray({allowed}); print('enough'); del x; bytearray({allowed + 100_000_000})", file_bytes)
    assert run.stdout == "enough\n"
    assert "MemoryError" in run.stderr


def test_a_file_far_larger_than_the_one_read_cannot_be_written(tmp_path: Path) -> None:
    code = f"f = open({str(tmp_path / 'large')!r}, 'wb'); f.truncate(200_000_000); print('enough'); f.truncate(10**9)"
    run = confined(code)
    assert run.stdout == "enough\n"
    assert "File too large" in run.stderr


def test_a_crash_leaves_no_core_dump_and_the_limits_cannot_be_raised() -> None:
    code = "import resource; assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0);"
    assert confined(code + "print(resource.getrlimit(resource.RLIMIT_CPU))").stdout == "(15, 15)\n"
