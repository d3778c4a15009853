"""The rows as they are listed: targets with the reference's parameters, reasons with documented numbers."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from backends.ascend.kernels import ENTRIES
from portable.core.registry import load_target
from portable.kernel.entry import KernelEntry
from portable.kernel.op import complete_facts

ROOT = Path(__file__).parents[3]
ROWS = {entry.spec.id: entry for entry in ENTRIES}


def test_one_row_an_op():
    assert len(ROWS) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.spec.id)
def test_target_has_the_parameters_of_the_reference(entry: KernelEntry):
    """Read as text: to import it takes torch_npu."""
    module, name = entry.target.split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    (found,) = (x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == name)
    arguments = found.args
    ours = [x.arg for x in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    wanted = inspect.signature(load_target(entry.spec.target)).parameters
    assert ours == list(wanted)
    defaults = [ast.literal_eval(x) for x in (*arguments.defaults, *arguments.kw_defaults) if x is not None]
    assert defaults == [x.default for x in wanted.values() if x.default is not inspect.Parameter.empty]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("attention", {"head_dim": 769}, "head_dim 769 > 768"),
    ("attention", {"num_heads": 257}, "num_heads 257 > 256"),
    ("attention", {"align": "start", "window": 4}, "align 'start'"),
    ("attention__with_lse", {"sink": True}, "not documented"),
    ("attention__with_lse", {"head_dim": 769}, "head_dim 769 > 768"),
    ("decode_attention", {"sink": True}, "no sink"),
    ("decode_attention", {"head_dim": 513}, "head_dim 513 > 512"),
    ("decode_attention", {"num_heads": 130, "num_kv_heads": 2}, "130 query heads for 2"),
    ("paged_attention", {"page_size": 24}, "multiples of 16"),
    ("paged_attention", {"page_size": 528}, "up to 512"),
    ("paged_attention", {"num_kv_heads": 128, "head_dim": 512}, "exceed 65535"),
    ("paged_attention", {"sink": True}, "no sink"),
    ("rope__half", {"rotary_dim": 896}, "rotary_dim 896 > 894"),
    ("rope__interleave", {"rotary_dim": 896}, "rotary_dim 896 > 894"),
    ("token_log_probs", {"vocab_size": 127}, "vocab_size 127 < 128"),
    ("moe_gate__softmax", {"top_k": 1025}, "top_k 1025 > 1024"),
    ("moe_gate__sigmoid", {"num_experts": 2}, "3 to 2048"),
    ("moe_gate__sigmoid", {"num_experts": 2049}, "3 to 2048"),
    ("moe_permute", {"top_k": 513}, "top_k 513 > 512"),
    ("moe_unpermute", {"top_k": 513}, "top_k 513 > 512"),
    ("grouped_matmul", {"num_experts": 1025}, "num_experts 1025 > 1024"),
]


@pytest.mark.parametrize(("op", "facts", "reason"), REFUSED)
def test_what_the_operator_does_not_take_is_refused_with_its_limit(
    op: str, facts: dict[str, Any], reason: str
):
    entry = ROWS[op]
    assert reason in entry.refusal(entry.dtypes[0], complete_facts(entry.spec, facts))


TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("attention", {"head_dim": 768, "num_heads": 256, "window": 4, "sink": True}),
    ("attention", {"align": "start"}),
    ("attention__with_lse", {"window": 4}),
    ("decode_attention", {"num_heads": 128, "num_kv_heads": 2, "head_dim": 512, "window": 7}),
    ("paged_attention", {"page_size": 512, "num_kv_heads": 8, "head_dim": 128, "num_heads": 64}),
    ("rope__half", {"head_dim": 1024, "rotary_dim": 894}),
    ("token_log_probs", {"vocab_size": 128}),
    ("moe_gate__sigmoid", {"num_experts": 2048, "top_k": 8}),
]


@pytest.mark.parametrize(("op", "facts"), TAKEN)
def test_what_it_takes_is_not(op: str, facts: dict[str, Any]):
    entry = ROWS[op]
    assert entry.refusal(entry.dtypes[0], complete_facts(entry.spec, facts)) == ""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.spec.id)
def test_nobody_objects_to_what_is_unknown(entry: KernelEntry):
    assert entry.refusal(entry.dtypes[0], complete_facts(entry.spec, {})) == ""


@pytest.mark.parametrize("op", ["decode_attention", "paged_attention", "token_log_probs", "int8_matmul"])
def test_operators_of_16_bits_do_not_offer_themselves_to_float32(op: str):
    assert "not fp32" in ROWS[op].refusal("fp32", complete_facts(ROWS[op].spec, {}))
