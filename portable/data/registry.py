"""What a data config may name: ops, sources, and the formats that file endings stand for."""

from portable.core.registry import Registry

DATA_OPS = Registry(
    "data op",
    {
        "normalise": "portable.data.op.normalise:Normalise",
        "length": "portable.data.op.length:Length",
        "language": "portable.data.op.language:Language",
        "repetition": "portable.data.op.repetition:Repetition",
        "symbol": "portable.data.op.symbol:Symbol",
    },
    entry_group="portable.data_ops",
)

DATA_SOURCES = Registry(
    "data source",
    {"python_docs": "portable.data.python_docs.source:read_python_docs"},
    entry_group="portable.data_sources",
)

DATA_FORMATS = Registry(
    "data format",
    {
        "txt": "portable.data.format.text:read_text",
        "text": "portable.data.format.text:read_text",
        "rst": "portable.data.format.text:read_text",
        "md": "portable.data.format.markdown:read_markdown",
        "markdown": "portable.data.format.markdown:read_markdown",
        "html": "portable.data.format.html:read_html",
        "htm": "portable.data.format.html:read_html",
        "jsonl": "portable.data.format.jsonl:read_jsonl",
        "ndjson": "portable.data.format.jsonl:read_jsonl",
        "parquet": "portable.data.format.parquet:read_parquet",
    },
    entry_group="portable.data_formats",
)
