"""Every registered name leads to something of its kind."""

import pytest

from portable.core.errors import ConfigError
from portable.data.op.protocol import DataOp, OpKind
from portable.data.registry import DATA_FORMATS, DATA_OPS, DATA_SOURCES


@pytest.mark.parametrize("name", sorted(DATA_OPS))
def test_every_op_can_be_made_from_its_defaults(name):
    op = DATA_OPS.get(name)()
    assert isinstance(op, DataOp)
    assert isinstance(op.kind, OpKind)


@pytest.mark.parametrize("name", ["text", "txt", "rst", "md", "markdown", "jsonl", "ndjson", "parquet"])
def test_every_format_is_a_function(name):
    assert callable(DATA_FORMATS.get(name))


def test_sources_and_their_unknown_neighbours():
    assert callable(DATA_SOURCES.get("python_docs"))
    with pytest.raises(ConfigError, match="Did you mean 'python_docs'"):
        DATA_SOURCES.get("python_doc")
