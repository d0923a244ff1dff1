"""The memory that a test may use, on made-up system files."""

import pytest

from nnet.runtime.memory import available_memory

MEMINFO = "MemTotal:       32000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"
V1 = "4:memory:/docker/ab12\n"
AVAILABLE = 20_000_000 * 1024


@pytest.mark.parametrize(
    "own_cgroup, files, expected",
    [
        pytest.param("0::/\n", {}, AVAILABLE, id="no limit file"),
        pytest.param(
            "0::/\n", {"memory.max": "max", "memory.current": "7", "memory.stat": ""}, AVAILABLE, id="v2, no limit"
        ),
        pytest.param(
            "0::/a/b\n",
            {"a/memory.max": "9000", "a/memory.current": "4000", "a/memory.stat": "anon 9\ninactive_file 1500\n"},
            6500,
            id="v2, the limit of a parent; page cache is reclaimable",
        ),
        pytest.param(
            V1,
            {
                "memory/docker/ab12/memory.limit_in_bytes": "9000",
                "memory/docker/ab12/memory.usage_in_bytes": "4000",
                "memory/docker/ab12/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
            },
            5500,
            id="v1",
        ),
        pytest.param(
            "0::/\n", {"memory.max": "9000", "memory.current": "9500", "memory.stat": ""}, 0, id="above the limit"
        ),
    ],
)
def test_available_memory(tmp_path, own_cgroup, files, expected):
    paths = {"proc/self/cgroup": own_cgroup, "proc/meminfo": MEMINFO}
    for path, text in (paths | {f"sys/fs/cgroup/{path}": text for path, text in files.items()}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert available_memory(tmp_path) == expected


def test_system_that_does_not_tell(tmp_path):
    assert available_memory(tmp_path) == float("inf")
