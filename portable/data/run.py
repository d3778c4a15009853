"""The data stage: from a source to a sealed corpus of documents, a tokenizer and token shards.

It takes less than a minute on the quickstart's input and starts over when it is called on an unfinished
folder; the payload depends on config and input alone, so a run that was killed ends with the same bytes as
one that was not.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portable.core.artefact import SEAL, Artefact, seal
from portable.core.errors import DataError
from portable.core.storage import explain_os_errors, write_json
from portable.core.text import format_bytes
from portable.core.workspace import Workspace
from portable.data.clean.funnel import FunnelStep
from portable.data.clean.quarantine import QuarantineFile
from portable.data.clean.select import select_documents, write_selection
from portable.data.clean.sift import sift_documents
from portable.data.config import DataConfig
from portable.data.format.corpus import LineWriter, read_documents
from portable.data.op.build import build_ops
from portable.data.pack import pack_documents
from portable.data.shard import TokenShards
from portable.data.tokenizer import train_tokenizer
from portable.model.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

PAYLOAD = ("documents", "tokenizer", "tokens")
FUNNEL, QUARANTINE, REJECTED, WORK = "funnel.json", "quarantine.jsonl", "rejected", "work"


def run_data(config: DataConfig, workspace: Workspace) -> Artefact:
    """Build the corpus in ``workspace.dir`` and seal it.

    Raises: ConfigError or DataError for whatever the user can mend: unknown ops, no file, nothing left, a
    vocabulary larger than the text allows.
    """
    root = workspace.dir
    ops = build_ops(config.ops)
    tokenizer = Tokenizer.load(Path(config.tokenizer.path)) if config.tokenizer.path else None
    _clear(root)
    quarantine = QuarantineFile(root / QUARANTINE, strict=config.strict)
    sifted, steps = sift_documents(config, ops, quarantine, root / WORK, root / REJECTED)
    logger.info("%d documents after the ops; looking for duplicates", len(sifted))
    selection = select_documents(sifted, config)
    train_file, heldout_file = (
        root / "documents" / "train.jsonl.zst",
        root / "documents" / "heldout.jsonl.zst",
    )
    with LineWriter(train_file) as train, LineWriter(heldout_file) as heldout:
        write_selection(sifted, selection, train, heldout)
    _write_funnel(workspace, [*steps, *selection.steps], quarantine.count)

    if tokenizer is None:
        logger.info("learning a tokenizer of %d tokens", config.tokenizer.vocab_size)
        texts = (document.text for document in read_documents(train_file))
        tokenizer = train_tokenizer(texts, config.tokenizer)
    tokenizer.save(root / "tokenizer")
    shards = {
        side: pack_documents(
            read_documents(root / "documents" / f"{side}.jsonl.zst"),
            tokenizer,
            root / "tokens" / side,
            shard_tokens=config.shard_tokens,
        )
        for side in ("train", "heldout")
    }
    shutil.rmtree(root / WORK)
    summary = _summary(shards["train"], shards["heldout"])
    logger.info(
        "%d training documents, %s, %d tokens",
        summary["train_documents"],
        format_bytes(summary["train_bytes"]),
        summary["train_tokens"],
    )
    return seal(root, "corpus", PAYLOAD, summary)


def _summary(train: TokenShards, heldout: TokenShards) -> dict[str, int]:
    return {
        "documents": len(train) + len(heldout),
        "train_documents": len(train),
        "heldout_documents": len(heldout),
        "train_tokens": train.num_tokens,
        "heldout_tokens": heldout.num_tokens,
        "train_bytes": train.num_bytes,
        "heldout_bytes": heldout.num_bytes,
        "vocab_size": train.vocab_size,
    }


def _clear(root: Path) -> None:
    """Remove what an earlier, unfinished call left; the seal goes first."""
    with explain_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for name in (SEAL, *PAYLOAD, FUNNEL, QUARANTINE, REJECTED, WORK):
            item = root / name
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)
            for half in root.glob(f".{name}.*.tmp"):
                half.unlink()


def _write_funnel(workspace: Workspace, steps: Sequence[FunnelStep], quarantined: int) -> None:
    rows: list[dict[str, Any]] = [step.to_json() for step in steps]  # Any: JSON values
    first, last = steps[0].count, steps[-1].count
    if last.documents_out > first.documents_out:
        raise DataError("a data op made documents out of nothing; ops may only keep, change or drop")
    write_json(
        workspace.dir / FUNNEL,
        {"documents_in": first.documents_in, "steps": rows, "quarantined": quarantined},
    )
    for number, step in enumerate(steps):
        values = {
            "documents": step.count.documents_out,
            "bytes": step.count.bytes_out,
            "time_s": step.count.time_s,
        }
        workspace.metrics.write(number, values)
