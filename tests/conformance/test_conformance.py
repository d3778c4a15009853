"""The fast part runs with every change; the whole database is ``slow`` and writes docs/conformance.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# A few of every family: arithmetic, reductions, views, indexing, products, layers, losses, random, factories.
FAST = (
    "add,mul,div,exp,where,clamp,sum,mean,amax,cumsum,sort,topk,mm,bmm,addmm,einsum,view,transpose,expand,squeeze,"
    "as_strided,cat,split,index_select,index_put,gather,scatter_add,masked_fill,empty_like,full_like,arange,bernoulli,"
    "uniform,to,conj,view_as_complex,softmax,log_softmax,nn.functional.layer_norm,nn.functional.silu,"
    "nn.functional.linear,nn.functional.conv2d,nn.functional.embedding,nn.functional.dropout,"
    "nn.functional.scaled_dot_product_attention,linalg.cholesky"
)


def conformance(tmp_path: Path, dtype: str, ops: str | None = None) -> dict:
    """Run the suite on the simulated device, in own processes: a device type is for a whole process."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.conformance.run", "--device", "sim", "--dtype", dtype]
    command += ["--json", str(report), *(["--ops", ops, "--slice", "100"] if ops else [])]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert report.exists(), outcome.stderr
    return json.loads(report.read_text())


def check(report: dict, num_ops: int) -> None:
    """The bar: nothing differs, at least 97 % are equal, and ``num_ops`` operators were looked at."""
    totals = report["totals"]
    different = {name: op["reasons"] for name, op in report["ops"].items() if op["counts"].get("different")}
    assert not different
    assert not [name for name, op in report["ops"].items() if "failed" in op]
    equal = totals.get("exact", 0) + totals.get("close", 0)
    assert equal >= 0.97 * (equal + totals.get("refused", 0))
    assert report["num_ops"] >= num_ops


def test_operators_of_every_family_agree_with_the_cpu(tmp_path):
    check(conformance(tmp_path, "float32", FAST), num_ops=FAST.count(",") + 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_whole_database_agrees_with_the_cpu(tmp_path, dtype):
    check(conformance(tmp_path, dtype), num_ops=500)
