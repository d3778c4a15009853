import pytest

from backends.cuda.kernels import ENTRIES as CUDA
from backends.rocm.kernels import ENTRIES as ROCM
from backends.triton.kernels import MAX_HEAD_DIM, MAX_WIDTH, entries
from portable.core.registry import load_target
from portable.kernel.op import complete_facts


def test_both_makers_have_the_same_rows_of_one_source():
    shared = {(row.op, row.variant, row.target) for row in entries("cuda")}
    for rows, backend in ((CUDA, "cuda"), (ROCM, "rocm")):
        own = [row for row in rows if row.name == "triton"]
        assert {(row.op, row.variant, row.target) for row in own} == shared
        assert {row.backend for row in own} == {backend}


@pytest.mark.parametrize("row", entries("cuda"), ids=lambda row: row.spec.id)
def test_row_names_a_known_op_and_needs_triton(row):
    assert row.spec.id
    assert row.requires == ("triton",)


@pytest.mark.parametrize(
    ("op_id", "fact", "limit"),
    [
        ("rms_norm", "size", MAX_WIDTH),
        ("layer_norm", "size", MAX_WIDTH),
        ("attention", "head_dim", MAX_HEAD_DIM),
    ],
)
def test_constraint_refuses_what_no_program_holds(op_id: str, fact: str, limit: int):
    (row,) = (row for row in entries("cuda") if row.spec.id == op_id)
    assert row.constraint is not None
    assert row.constraint(complete_facts(row.spec, {})) == ""
    assert row.constraint(complete_facts(row.spec, {fact: limit})) == ""
    assert str(limit) in row.constraint(complete_facts(row.spec, {fact: limit + 1}))


@pytest.mark.triton_interpreter
@pytest.mark.parametrize("row", entries("cuda"), ids=lambda row: row.spec.id)
def test_target_exists(row):
    assert callable(load_target(row.target))
