from backends.cpu import findings as module
from backends.cpu.capability import cpu_capability
from backends.cpu.findings import cpu_findings
from portable.device.backend import Level


def told(subject, monkeypatch, *, cores=4, nodes=1, threads=4, instructions=(), compiler=True):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: dict.fromkeys(instructions, True))
    monkeypatch.setattr("backends.cpu.capability.has_compiler", lambda: compiler)
    for name, value in (("usable_cores", cores), ("numa_nodes", nodes), ("num_threads", threads)):
        monkeypatch.setattr(module, name, lambda value=value: value)
    return [finding for finding in cpu_findings(cpu_capability("avx2")) if finding.subject == subject]


def test_a_plain_machine(monkeypatch):
    (processor,) = told("processor", monkeypatch)
    assert processor.level is Level.good
    assert "4 usable cores" in processor.text
    assert told("memory", monkeypatch) == told("compiler", monkeypatch) == []


def test_more_threads_than_cores(monkeypatch):
    assert told("threads", monkeypatch)[0].level is Level.good
    (threads,) = told("threads", monkeypatch, threads=8)
    assert threads.level is Level.bad
    assert threads.remedy == "export OMP_NUM_THREADS=4"


def test_several_memory_nodes(monkeypatch):
    (memory,) = told("memory", monkeypatch, nodes=2)
    assert memory.level is Level.note
    assert "2 NUMA nodes" in memory.text
    assert "numactl" in memory.remedy


def test_emulated_formats(monkeypatch):
    (both,) = told("precision", monkeypatch)
    assert both.text.startswith("bf16 and fp16 matmuls are emulated on avx2")
    (one,) = told("precision", monkeypatch, instructions=("amx_bf16",))
    assert one.text.startswith("fp16 matmuls")
    assert told("precision", monkeypatch, instructions=("amx_bf16", "amx_fp16")) == []


def test_no_compiler(monkeypatch):
    (compiler,) = told("compiler", monkeypatch, compiler=False)
    assert "g++" in compiler.remedy
