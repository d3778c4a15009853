"""Settings are checked where they are made."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from portable.core.errors import ConfigError
from portable.data.config import DataConfig, DedupConfig, PythonDocsConfig, TokenizerConfig


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(max_documents=-1), "data.max_documents=-1; use 0 or more"),
        (lambda: DataConfig(num_workers=-2), "data.num_workers=-2"),
        (lambda: DataConfig(num_samples=-1), "data.num_samples=-1"),
        (lambda: DataConfig(shard_tokens=0), "data.shard_tokens=0; use 1 or more"),
        (lambda: DataConfig(heldout_fraction=-0.1), "data.heldout_fraction=-0.1; use a fraction"),
        (lambda: DataConfig(heldout_fraction=1.0), "leaves nothing to train on"),
        (lambda: DedupConfig(ngram=0), "data.dedup.ngram=0"),
        (lambda: DedupConfig(num_bands=0), "data.dedup.num_bands=0"),
        (lambda: DedupConfig(rows_per_band=0), "data.dedup.rows_per_band=0"),
        (lambda: DedupConfig(min_jaccard=1.5), "data.dedup.min_jaccard=1.5"),
        (lambda: TokenizerConfig(vocab_size=0), "data.tokenizer.vocab_size=0"),
        (lambda: TokenizerConfig(min_frequency=0), "data.tokenizer.min_frequency=0"),
        (lambda: TokenizerConfig(model_max_length=0), "data.tokenizer.model_max_length=0"),
        (
            lambda: PythonDocsConfig(max_documents_per_package=-1),
            "data.python_docs.max_documents_per_package=-1",
        ),
        (lambda: PythonDocsConfig(min_doc_chars=-1), "data.python_docs.min_doc_chars=-1"),
    ],
)
def test_values_out_of_range_name_field_value_and_remedy(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_config_composes_with_ops_in_order_and_a_source_still_missing():
    schema = OmegaConf.structured(DataConfig)
    merged = OmegaConf.merge(schema, {"ops": {"normalise": {}, "length": {"min_chars": 3}}})
    config = OmegaConf.to_object(OmegaConf.merge(merged, {"source": "a/*.txt", "id_field": "key"}))
    assert list(config.ops) == ["normalise", "length"]
    assert config.ops["length"] == {"min_chars": 3}
    assert (config.source, config.id_field) == ("a/*.txt", "key")


def test_importing_the_config_loads_nothing_heavy():
    code = (
        "import sys, portable.data.config, portable.data.registry;"
        "print(sorted({'torch', 'numpy', 'tokenizers', 'pyarrow', 'trafilatura'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
