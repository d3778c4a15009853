"""Each rule on code that breaks it, and on code that only looks as if it did.

``  # P01`` at the end of a line says that exactly this rule blames exactly this line.
"""

from __future__ import annotations

import pytest

from portable.lint.rule import SEVERITIES, load_catalogue
from tests.portable.lint.example import expected, found

CATALOGUE = load_catalogue()
CASES = {
    "moves": """
        model.cuda()  # P01
        model.cuda(0)  # P01
        batch.cuda(non_blocking=True)  # P01
        self.layers[0].weight.npu()  # P01
        torch_like(3).xpu(device=1).mean()  # P01
        model.cuda  # an attribute
        cfg.cuda(True, 1, "x", 3)
        plot.cuda(color="green")
    """,
    "methods of its own": """
        import backends
        import torch.nn as nn
        class Wrapper(nn.Module):
            def cuda(self, device=None):
                return super().cuda(device)
            def use(self):
                return self.cuda()
        class Other(nn.Module):
            def use(self):
                return self.cuda()  # P01
        backends.cuda()
        def cuda():
            pass
        cuda()
    """,
    "device texts": """
        import torch
        x.to("cuda")  # P01
        x.to("cuda:1", non_blocking=True)  # P01
        x.to(device="npu")  # P01
        x.type("torch.cuda.FloatTensor")  # P01
        torch.zeros(2, device="cuda")  # P01
        torch.device("cuda", 0)  # P01
        torch.device(f"cuda:{rank}")  # P01
        torch.device("cuda:" + str(rank))  # P01
        torch.device("cuda:%d" % rank)  # P01
        torch.device("cuda:{}".format(rank))  # P01
        torch.set_default_device("mps")  # P01
        load(path, device_map={"": "cuda:0"})  # P01
        torch.load(path, map_location="cuda:0")  # P01
        x.to("cpu")
        x.to("cudalike")
        x.to("meta")
        x.to(dtype)
        x.to(f"{device}:0")
    """,
    "devices by name": """
        device = "cuda"  # P01
        self.device = "cuda:0"  # P01
        target_device: str = "npu"  # P01
        config["device"] = "cuda"  # P01
        def make(size, device="cuda", *, other_device="xpu"):  # P01 P01
            pass
        options = {"device": "cuda", "name": "cuda"}  # P01
        parser.add_argument("-d", "--device", type=str, default="cuda")  # P01
        parser.add_argument("--backend-name", default="cuda")
        device = kwargs.pop("device", "cuda")  # P01
        device = getattr(args, "device", "cuda")  # P01
        device = given or "cuda"  # P01
        if (device := "cuda"):  # P01
            pass
        title = "cuda"
        names = {"cuda": "NVIDIA", "npu": "Huawei"}
        print("no cuda on this machine", "cuda")
        log("device=%s", "cuda")
        "cuda"
    """,
    "constants are blamed where they stand": """
        from dataclasses import dataclass, field
        import torch
        DEV = "cuda"  # P01
        UNUSED = "cuda"
        x.to(DEV)
        y.to(DEV)
        @dataclass
        class Options:
            device: str = field(default="npu")  # P01
    """,
    "modules of a vendor": """
        import torch
        import torch as t
        import torch.cuda
        from torch import cuda
        from torch import cuda as gpu, npu
        from torch.cuda import Stream, current_device as here
        torch.cuda.synchronize()  # P02
        t.cuda.synchronize()  # P02
        cuda.set_device(0)  # P02
        gpu.device_count()  # P02
        npu.synchronize()  # P02
        Stream()  # P02
        here()  # P02
        if torch.cuda.is_available():  # P02
            pass
        getattr(torch, "cuda").synchronize()  # P02
        module = torch.cuda  # P02
        module.set_device(0)  # P02
        torch.cuda.current_stream().wait_stream(torch.npu.default_stream())  # P02 P02
        def f(stream: torch.cuda.Stream | None) -> torch.cuda.Stream:
            held: torch.cuda.Event
        getattr(torch, name)
        hasattr(torch, "npu")
        torch.accelerator.current_accelerator()
        torch.accelerator.set_device_index(0)  # P02
        torch.backends.cuda.is_built()
    """,
    "modules that only share a name": """
        from numba import cuda
        from . import cuda as ours
        import pycuda_like.torch as torch_like
        @cuda.jit
        def kernel(x):
            pass
        ours.synchronize()
        torch_like.cuda.synchronize()
        torch.cuda.synchronize()
        def f(torch):
            torch.cuda.synchronize()
        settings.cuda.enabled
        # torch.cuda.synchronize()
    """,
    "names that are not certain": """
        import torch
        if new:
            cuda = torch.cuda  # P02
        else:
            cuda = make_one()
        cuda.synchronize()
        def f():
            import torch.cuda as c
            def g():
                c.synchronize()  # P02
            c2 = c  # P02
            return [c2.stream for _ in range(3)]  # P02
        for torch_like in (1, 2):
            torch_like.cuda.synchronize()
        try:
            import torch.npu as n
        except ImportError:
            n = None
        n.synchronize()  # P02
        class Holder:
            torch = None
            def f(self):
                torch.cuda.synchronize()  # P02
        def late():
            global there
            import torch.cuda as there
        there.synchronize()  # P02
    """,
    "type checking": """
        from typing import TYPE_CHECKING
        import torch
        if TYPE_CHECKING:
            import triton
            from torch.cuda import Stream
            S = torch.cuda.Stream
        else:
            S = torch.cuda.Event  # P02
    """,
    "mixed precision": """
        import torch
        from torch.cuda import amp
        from torch.cuda.amp import autocast as cast
        from torch.amp import GradScaler
        with torch.cuda.amp.autocast(dtype=torch.float16):  # P03
            pass
        amp.GradScaler()  # P03
        cast()  # P03
        GradScaler()  # P03
        GradScaler(device)
        GradScaler(device=device.type)
        GradScaler("cuda")  # P03
        GradScaler(*args)
        torch.autocast("cuda", dtype=torch.bfloat16)  # P03
        torch.autocast(device_type="npu")  # P03
        torch.autocast(device.type)
        torch.autocast("cpu")
    """,
    "communicators": """
        import torch.distributed as dist
        from torch.distributed import init_process_group, Backend
        dist.init_process_group("nccl")  # P04
        dist.init_process_group(backend="cpu:gloo,npu:hccl", rank=0)  # P04
        dist.init_process_group("gloo")  # P04
        init_process_group(backend="nccl" if there else "gloo")  # P04
        start(backend="nccl")  # P04
        dist_backend = "hccl"  # P04
        BACKEND = "nccl"  # P04
        dist.new_group(ranks, backend="nccl")  # P04
        dist.new_group(ranks, backend="gloo")
        dist.init_process_group()
        dist.init_process_group(backend=name)
        dist.init_process_group(Backend.NCCL)  # P04
        if dist.get_backend(group) == "nccl":  # P04
            pass
        if "nccl" in words:
            pass
        log("the nccl backend timed out")
        backend = "inductor"
    """,
    "reductions": """
        import torch.distributed as dist
        from torch.distributed import ReduceOp as Op
        dist.all_reduce(x, op=dist.ReduceOp.AVG)  # P06
        dist.all_reduce(x, Op.PREMUL_SUM)  # P06
        dist.all_reduce(x, Op.SUM)
        Mine.ReduceOp.AVG
        layer.set_reduce_scatter_divide_factor(4)  # P06
        dist.gather(x)  # P07
        dist.gather_object(x, out)  # P07
        gather(x)
        torch_gather = dist.gather
    """,
    "float64": """
        import torch
        torch.zeros(3, dtype=torch.float64, device=device)  # P08
        torch.zeros(3, dtype=torch.float64, device="cpu")
        torch.zeros(3, dtype=torch.float64, device=torch.device("cpu"))
        torch.zeros(3, dtype=torch.float64)
        x.to(device, torch.float64)  # P08
        x.to(torch.float64)
        x.to(dtype=torch.double, device=y.device)  # P08
        x.to(device).double()  # P08
        x.double().to(device)  # P08
        x.double().cuda()  # P08 P01
        x.cpu().double()
        x.double().to("cpu")
        x.double().to(torch.float32)
        x.double()
    """,
    "complex numbers": """
        import torch
        torch.polar(a, b)  # P09
        torch.view_as_complex(x)  # P09
        torch.zeros(2, dtype=torch.cfloat)  # P09
        x.to(torch.complex64)  # P09
        x.cpu().to(torch.complex64)
        SIZES = {torch.complex64: 8, torch.complex128: 16}
        if x.dtype in (torch.complex64, torch.complex128):
            pass
        torch.view_as_real(x)
        maths.polar(a, b)
    """,
    "eight bits": """
        import torch
        x.to(torch.float8_e4m3fn)  # P11
        x.view(torch.float8_e5m2)  # P11
        torch.empty(2, dtype=torch.float8_e4m3fnuz)  # P11
        NAMES = {"fp8": torch.float8_e4m3fn}
        x.to(torch.bfloat16)
    """,
    "attention packages": """
        import flash_attn  # P13
        from flash_attn.bert_padding import unpad_input  # P13
        def f():
            import flash_attn_interface  # P13
        try:
            import flash_attn
        except (ImportError, OSError):
            flash_attn = None
        if is_flash_attn_2_available():
            from flash_attn import flash_attn_func
        from .flash_attn import ours
        from mine.flash_attn import more
        load(attn_implementation="flash_attention_2")  # P13
        load(attn_implementation="eager")
    """,
    "random numbers": """
        import torch
        torch.cuda.manual_seed(0)  # P16
        torch.cuda.manual_seed_all(0)  # P16
        torch.npu.get_rng_state()  # P16
        torch.cuda.random.set_rng_state_all(states)  # P16
        torch.manual_seed(0)
        torch.Generator(device="cuda")  # P17
        torch.Generator("npu")  # P17
        torch.Generator(device=device)
        torch.Generator()
    """,
    "memory": """
        import torch
        torch.cuda.memory_allocated()  # P18
        torch.cuda.max_memory_reserved(0)  # P18
        torch.cuda.mem_get_info()  # P18
        torch.cuda.reset_peak_memory_stats()  # P18
        torch.cuda.empty_cache()  # P18
        torch.cuda.memory.memory_snapshot()  # P18
        torch.accelerator.memory_stats()  # P18
        torch.get_device_module(device).empty_cache()
        psutil.memory_allocated()
    """,
    "pinning": """
        DataLoader(data, pin_memory=True)  # P19
        torch_like.empty(2, pin_memory=True)  # P19
        x.pin_memory()  # P19
        x.pin_memory(device)
        DataLoader(data, pin_memory=False)
        DataLoader(data, pin_memory=pinned)
        DataLoader(data, pin_memory=1)
        def f(pin_memory=True):
            pass
    """,
    "visible devices": """
        import os
        from os import environ
        VISIBLE = "CUDA_VISIBLE_DEVICES"
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"  # P20
        os.environ.get("HIP_VISIBLE_DEVICES")  # P20
        os.getenv("ASCEND_RT_VISIBLE_DEVICES", "")  # P20
        del environ["CUDA_VISIBLE_DEVICES"]  # P20
        "CUDA_VISIBLE_DEVICES" in os.environ  # P20
        run(command, env={**os.environ, "ROCR_VISIBLE_DEVICES": "0"})  # P20
        env = dict(os.environ, CUDA_VISIBLE_DEVICES="0")  # P20
        os.environ.update(CUDA_VISIBLE_DEVICES="0")  # P20
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # P20
        os.environ[VISIBLE]  # P20
        print("CUDA_VISIBLE_DEVICES is empty")
        os.environ["MY_VISIBLE_DEVICES"]
        if name == "CUDA_VISIBLE_DEVICES":
            pass
    """,
    "compilers": """
        import torch
        import re
        from torch import compile as c
        torch.compile(f)  # P21
        c(f, dynamic=True)  # P21
        torch.compile(f, backend="inductor")  # P21
        torch.compile(f, backend=backend)
        torch.compile(f, backend="eager")
        torch.compile(f, **options)
        torch.compile(f, disable=not fast)
        re.compile("x")
        model.compile()
        @torch.compile  # P21
        def step(x):
            pass
        @torch.compile(fullgraph=True)  # P21
        def other(x):
            pass
    """,
    "graphs": """
        import torch
        graph = torch.cuda.CUDAGraph()  # P22
        with torch.cuda.graph(graph):  # P22
            pass
        torch.cuda.graphs.graph_pool_handle()  # P22
        torch.fx.Graph()
    """,
    "private formats": """
        def f(x):
            import torch_npu
            torch_npu.npu_format_cast(x, 29)  # P25
            torch_npu.npu_format_cast_(x, 29)  # P25
            torch_npu.npu_swiglu(x)
    """,
    "checkpoints": """
        import torch
        from torch import load
        torch.load(path)  # P28
        torch.load(path, weights_only=True)  # P28
        load(path)  # P28
        torch.load(path, "cpu")
        torch.load(path, map_location=device)
        torch.load(path, **options)
        json.load(path)
        self.torch.load(path)
    """,
    "profilers": """
        import torch
        from torch.profiler import ProfilerActivity as Activity, profile
        import nvtx  # P29
        torch.cuda.nvtx.range_push("x")  # P29
        torch.cuda.profiler.start()  # P29
        profile(activities=[Activity.CPU, Activity.CUDA])  # P29
        torch.profiler.record_function("x")
    """,
    "determinism": """
        import os
        import torch
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # P30
        torch.backends.cudnn.deterministic = True  # P30
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    """,
    "late variables": """
        import os
        os.environ["HCCL_BUFFSIZE"] = "200"
        import torch
        os.environ["HCCL_BUFFSIZE"] = "200"  # P31
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "x")  # P31
        os.putenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")  # P31
        os.environ["NCCL_DEBUG"] = "INFO"
        os.environ["MASTER_PORT"] = "1"
        child["HCCL_BUFFSIZE"] = "200"
        os.environ.get("HCCL_BUFFSIZE")
        def main():
            os.environ["PYTORCH_NPU_ALLOC_CONF"] = "x"  # P31
    """,
    "rewriting imports": """
        try:
            from torch_npu.contrib import transfer_to_npu  # P32
        except ImportError:
            pass
        def f():
            import torch_mlu.utils.gpu_migration  # P32
            import torch_npu
    """,
    "operators in the wrong place": """
        import torch
        torch.npu_rms_norm(x, w)  # P33
        torch.npu_format(x)  # P33
        torch.numel(x)
        ops.npu_rms_norm(x)
    """,
    "questions of identity": """
        if x.is_cuda:  # P34
            pass
        ok = all(t.is_npu for t in ts)  # P34
        platform.is_cuda()
        is_cuda = True
        x.device.type == "cuda"  # P34
        "cuda" != device_type  # P34
        self.device in ("cuda", "xpu")  # P34
        "cuda" in str(device)  # P34
        device.startswith("cuda")  # P34
        str(x.device).startswith(("cuda", "npu"))  # P34
        device.type != "cpu"
        device == other_device
        "cuda" in extras
        name == "cuda"
        name.startswith("cuda")
        match device.type:
            case "cuda" | "npu":  # P34 P34
                pass
            case "cpu":
                pass
            case x:
                pass
    """,
    "guessed features": """
        import torch
        major, minor = torch.cuda.get_device_capability()  # P35
        torch.cuda.get_device_name(0)  # P35
        if torch.version.hip:  # P35
            pass
        HIP = torch.version.hip is not None  # P35
        x = 1 if not torch.version.cuda else 2  # P35
        assert torch.version.cuda  # P35
        found = [v for v in vs if torch.version.cuda]  # P35
        print(torch.version.cuda)
        record = {"cuda": torch.version.cuda}
        if torch.__version__ > "2":
            report(torch.version.cuda)
    """,
    "optimizers": """
        import torch
        from torch.optim import AdamW
        AdamW(ps, fused=True)  # P38
        torch.optim.SGD(ps, fused=True)  # P38
        AdamW(ps, fused=False)
        AdamW(ps, fused=flag)
        layer(x, fused=True)
        def f():
            from apex.optimizers import FusedAdam
            FusedAdam(ps)  # P38
    """,
    "shared memory": """
        from torch.multiprocessing import reductions
        from torch.multiprocessing.reductions import reduce_tensor
        reduce_tensor(x)  # P41
        reductions.rebuild_cuda_tensor(x)  # P41
        x._typed_storage()._share_cuda_()  # P41
        x.share_memory_()
    """,
    "packages at import": """
        import triton  # P42
        import triton.language as tl  # P42
        from deepspeed.ops.adam import FusedAdam  # P42
        import torch_npu  # P42
        class Holder:
            import vllm  # P42
        with contextlib.suppress(ImportError):
            import bitsandbytes
        try:
            import apex  # P42
        except ValueError:
            pass
        else:
            import xformers  # P42
        try:
            import apex
        except:
            import cupy
        try:
            import numpy
        except ImportError:
            pass
        else:
            import cupy  # P42
        def f():
            import colossalai
        if has_vllm():
            import vllm
        import tritonclient
        from .triton import kernel
    """,
    "a file of kernels": """
        import triton
        import triton.language as tl
        @triton.autotune(configs=[triton.Config({})], key=[])
        @triton.jit
        def kernel(x, BLOCK: tl.constexpr):
            pass
    """,
}


def test_a_name_with_two_meanings_has_none():
    names = [f"name_{number}" for number in range(16)]  # many, so that no order of a set hides a guess
    lines = [f"import torch.cuda as {name}\nimport other as {name}\n{name}.synchronize()" for name in names]
    assert found("\n".join(lines)) == []


@pytest.mark.parametrize("name", CASES)
def test_found_is_what_the_comments_say(name: str):
    wanted = [(line, rule) for line, rule in expected(CASES[name]) if rule in CATALOGUE]
    assert sorted(found(CASES[name])) == sorted(wanted)


@pytest.mark.parametrize("rule", CATALOGUE.values(), ids=CATALOGUE)
def test_examples_of_the_rule(rule):
    for code in rule.bad:
        assert rule.id in {name for _, name in found(code)}, code
    for code in rule.good:
        assert not found(code), code


def test_every_rule_with_checks_has_a_case_and_examples():
    blamed = {rule for code in CASES.values() for _, rule in expected(code)}
    assert blamed >= {rule.id for rule in CATALOGUE.values() if rule.checks}
    assert all(rule.bad and rule.good for rule in CATALOGUE.values() if rule.checks)


def test_texts_are_complete():
    for rule in CATALOGUE.values():
        assert rule.severity in SEVERITIES
        assert rule.title[0].islower() or rule.title[0].isdigit(), rule.id
        assert rule.consequence.endswith("."), rule.id
        assert len(rule.remedy) > 20, rule.id
