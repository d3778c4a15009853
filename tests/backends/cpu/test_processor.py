import os

from backends.cpu.processor import num_threads, numa_nodes, usable_cores


def test_usable_cores_follow_the_affinity():
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    try:
        os.sched_setaffinity(0, {one})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_memory_nodes_are_counted_in_the_systems_folder(tmp_path):
    assert numa_nodes(tmp_path) == 1
    for name in ("node0", "node1", "online", "nodes"):
        (tmp_path / name).mkdir()
    assert numa_nodes(tmp_path) == 2


def test_threads_are_as_the_environment_says(monkeypatch):
    for given, expected in [("3", 3), ("2,1", 2), ("", usable_cores()), ("0", usable_cores())]:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert num_threads() == expected
