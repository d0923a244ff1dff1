"""The number of cores that a process may use, on made-up cgroup trees."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnet.runtime import threads
from nnet.runtime.threads import available_cores, cgroup_folders, cpu_quota

NESTED = "0::/pod/container\n"
V1 = "12:cpu,cpuacct:/docker/ab12\n4:memory:/docker/ab12\n1:name=systemd:/docker/ab12\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(threads, "_affinity", lambda: 8)


@pytest.fixture
def tree(tmp_path):
    """Writes files of a system; their paths are relative to /sys/fs/cgroup."""

    def write(own_cgroup, files):
        paths = {"proc/self/cgroup": own_cgroup} | {f"sys/fs/cgroup/{path}": text for path, text in files.items()}
        for path, text in paths.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


def v1(folder, quota, period=100_000):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    "own_cgroup, files, cores",
    [
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="v2"),
        pytest.param("0::/\n", {"cpu.max": "250000 100000\n"}, 3, id="v2, a fraction is rounded up"),
        pytest.param("0::/\n", {"cpu.max": "10000 100000\n"}, 1, id="v2, less than a core"),
        pytest.param("0::/\n", {"cpu.max": "150000 50000\n"}, 3, id="v2, another period"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 8, id="v2, no limit"),
        pytest.param("0::/\n", {"cpu.max": "6400000 100000\n"}, 8, id="v2, more than the affinity"),
        pytest.param(NESTED, {"pod/container/cpu.max": "300000 100000\n", "cpu.max": "max 100000\n"}, 3, id="v2, own"),
        pytest.param(
            NESTED, {"pod/container/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"}, 4, id="v2, a parent's"
        ),
        pytest.param(
            NESTED,
            {"pod/container/cpu.max": "500000 100000\n", "pod/cpu.max": "200000 100000\n"},
            2,
            id="v2, the lower of own and parent's",
        ),
        pytest.param("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2, id="v2, a path outside the container"),
        pytest.param("0::/../../other\n", {"cpu.max": "200000 100000\n"}, 2, id="v2, outside the namespace"),
        pytest.param("0::/\n", {"other/cpu.max": "100000 100000\n"}, 8, id="v2, of another cgroup"),
        pytest.param(V1, v1("cpu,cpuacct/docker/ab12", 300_000), 3, id="v1"),
        pytest.param(V1, v1("cpu,cpuacct", 300_000), 3, id="v1, top of the container"),
        pytest.param(V1, v1("cpu/docker/ab12", 150_000), 2, id="v1, mounted as cpu"),
        pytest.param(V1, v1("cpu", -1), 8, id="v1, no limit"),
        pytest.param(V1, v1("memory/docker/ab12", 100_000), 8, id="v1, of another controller"),
        pytest.param(V1 + "0::/\n", v1("cpu/docker/ab12", 200_000) | {"unified/cpu.max": "max 1\n"}, 2, id="v1 and v2"),
    ],
)
def test_cpu_quota(tree, own_cgroup, files, cores):
    assert available_cores(tree(own_cgroup, files)) == cores


@pytest.mark.parametrize("own_cgroup", ["", "\n", "no colons\n", "0::\n", "0:cpu\n", "0::/\n5:cpu:/\n"])
@pytest.mark.parametrize("limit", ["", "max", "1 2 3", "2 0", "-1 100000", "0 100000", "nan 1", "\ufffd"])
def test_files_of_another_form_are_no_limit(tree, own_cgroup, limit):
    files = {"cpu.max": limit, "cpu/cpu.cfs_quota_us": limit, "cpu/cpu.cfs_period_us": limit}
    assert available_cores(tree(own_cgroup, files)) == 8


def test_bytes_that_are_no_text_are_no_limit(tree):
    root = tree("0::/\n", {"cpu.max": ""})
    (root / "sys/fs/cgroup/cpu.max").write_bytes(b"\xff\xfe\x00")
    assert available_cores(root) == 8
    (root / "proc/self/cgroup").write_bytes(b"\xff\xfe\x00")
    assert available_cores(root) == 8


def test_system_without_cgroups(tmp_path):
    assert available_cores(tmp_path) == 8
    assert cpu_quota(tmp_path) == float("inf")
    assert list(cgroup_folders("cpu", tmp_path)) == []


def test_folders_of_the_process_and_its_parents(tree):
    root = tree("0::/a/b\n3:memory:/m\n", {})
    top = root / "sys/fs/cgroup"
    unified = [top / "unified/a/b", top / "unified/a", top / "unified"]
    assert list(cgroup_folders("cpu", root)) == [top / "a/b", top / "a", top, *unified]
    memory = [top / "memory/m", top / "memory"]
    assert list(cgroup_folders("memory", root)) == [top / "a/b", top / "a", top, *unified, *memory]


class TestAffinity:
    @pytest.fixture(autouse=True)
    def unlimited(self, monkeypatch, eight_cores):
        monkeypatch.undo()  # the real _affinity
        monkeypatch.setattr(threads, "cpu_quota", lambda root: float("inf"))
        monkeypatch.delattr(os, "process_cpu_count", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 6)

    def test_cores_that_the_process_may_be_scheduled_on(self):
        assert available_cores() == 3

    def test_process_cpu_count_where_python_has_it(self, monkeypatch):
        monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
        assert available_cores() == 2
        monkeypatch.setattr(os, "process_cpu_count", lambda: None)
        assert available_cores() == 6

    def test_system_without_affinity(self, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity")
        assert available_cores() == 6
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert available_cores() == 1

    def test_affinity_that_cannot_be_read(self, monkeypatch):
        def refuse(pid):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "sched_getaffinity", refuse)
        assert available_cores() == 6


def test_this_machine(monkeypatch):
    monkeypatch.undo()
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("given", [None, "5"])
@pytest.mark.parametrize("script", ["train", "test", "detect"])
def test_waiting_threads_sleep_soon(script, given):
    """The variable is set when PyTorch is first looked for."""
    program = f"""
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ["GOMP_SPINCOUNT"], flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
import {script}
"""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": given} if given else {}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip() == (given or "1000")
