"""How well a model predicts held-out text."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

from portable.core.artefact import open_artefact
from portable.data.shard import ShardWriter, TokenShards
from portable.eval.config import EvalConfig
from portable.eval.interval import bootstrap_ratio
from portable.eval.task.protocol import Subject, TaskResult
from portable.model.tokenizer import Tokenizer
from portable.model.weights import load_model
from portable.train.evaluate import bits_per_byte

logger = logging.getLogger(__name__)


class BitsPerByte:
    """Bits that the model needs per byte of held-out text; the interval comes from resampling documents."""

    name = "bits_per_byte"
    title = "Held-out text"
    unit = "bits per byte"
    higher_is_better = False

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        corpus = open_artefact(Path(config.corpus), "corpus").path
        self.shards = TokenShards.open(corpus / "tokens" / "heldout")
        self.tokenizer = Tokenizer.load(corpus / "tokenizer")

    def run(self, subject: Subject) -> TaskResult:
        """Score the corpus's tokens, or the same text in the model's own if its tokenizer is another."""
        runtime = subject.runtime
        dtype = runtime.precision.param_dtype.torch()
        model, model_config = load_model(subject.path, runtime.kernels, dtype, runtime.torch_device)
        tokenizer = Tokenizer.load(subject.path)
        shards = self.shards
        if tokenizer.inner.to_str() != self.tokenizer.inner.to_str():
            logger.info("%s has a tokenizer of its own; the held-out text is encoded with it", subject.name)
            shards = _encode_again(shards, self.tokenizer, tokenizer, subject.scratch / "tokens")
        score = bits_per_byte(
            model,
            shards,
            runtime,
            seq_len=min(self.config.seq_len, model_config.max_seq_len),
            max_documents=self.config.num_documents or None,
        )
        bits_D, bytes_D = (score.document_nats / math.log(2)).tolist(), score.document_bytes.tolist()
        estimate = bootstrap_ratio(
            bits_D, bytes_D, seed=self.config.seed, num_resamples=self.config.num_resamples
        )
        return TaskResult(estimate)


def _encode_again(shards: TokenShards, old: Tokenizer, new: Tokenizer, path: Path) -> TokenShards:
    shutil.rmtree(path, ignore_errors=True)
    with ShardWriter(path, vocab_size=new.vocab_size, end_of_text_id=new.end_of_text_id) as writer:
        for number in range(len(shards)):
            text = old.decode(shards.document(number)[:-1].tolist(), skip_special=False)
            writer.add([*new.encode(text), new.end_of_text_id], int(shards.byte_counts_D[number]))
    return TokenShards.open(path)
