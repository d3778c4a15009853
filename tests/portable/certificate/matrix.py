"""Layouts through the certificate, several in one start of processes.

Run: PYTHONPATH=. python tests/portable/certificate/matrix.py [four] [hf]   prints the worst figures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from portable.certificate.bisect import find_departure
from portable.certificate.certify import certify
from portable.certificate.foreign import asked_model
from portable.certificate.measure import bars_of
from portable.certificate.shrink import make_trial
from portable.config.load import load
from portable.core.errors import ConfigError
from portable.core.storage import write_json
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.selection import SETTINGS
from portable.train.config import AdamWConfig

DENSE, UNTIED, MOE = (
    "model=quickstart_mini model.num_layers=5 model.vocab_size=1023",
    "model=quickstart_mini model.num_layers=4 model.tie_embeddings=false model.qk_norm=false",
    "model=moe_mini",
)
TWO = {  # one axis at a time
    "dp": f"{DENSE} strategy=ddp",
    "fsdp": f"{DENSE} strategy=fsdp",
    "zero2": f"{DENSE} strategy=zero2",
    "tp": f"{DENSE} parallel.tp=2",
    "tp, untied": f"{UNTIED} parallel.tp=2 parallel.enable_sequence_parallel=false",
    "tp, mla and experts": f"{MOE} parallel.tp=2",
    "tp, mla and experts, whole tokens": f"{MOE} parallel.tp=2 parallel.enable_sequence_parallel=false",
    "pp": f"{DENSE} parallel.pp=2",
    "cp": f"{DENSE} parallel.cp=2",
    "cp, ulysses": f"{DENSE} parallel.cp=2 parallel.context_parallel_method=ulysses",
    "cp, odd rows": f"{DENSE} parallel.cp=2 seq_len=253",
    "tp, odd rows": f"{DENSE} parallel.tp=2 seq_len=253",
    "ep": f"{MOE} parallel.ep=2 strategy=ddp",
    "cp, experts": f"{MOE} parallel.cp=2",
}
FOUR = {  # every pair of axes
    "dp × fsdp": f"{DENSE} strategy=hsdp parallel.dp=2",
    "dp × tp": f"{DENSE} strategy=ddp parallel.tp=2",
    "dp × cp": f"{DENSE} strategy=ddp parallel.cp=2",
    "dp × ep": f"{MOE} strategy=ddp parallel.ep=2",
    "fsdp × tp": f"{DENSE} strategy=fsdp parallel.tp=2",
    "fsdp × cp": f"{DENSE} strategy=fsdp parallel.cp=2",
    "fsdp × ep": f"{MOE} strategy=fsdp parallel.ep=2",
    "tp × cp": f"{DENSE} parallel.tp=2 parallel.cp=2",
    "tp × ep": f"{MOE} strategy=ddp parallel.tp=2 parallel.ep=2",
    "cp × ep": f"{MOE} strategy=ddp parallel.cp=2 parallel.ep=2",
    "tp 2d": f"{UNTIED} parallel.tp=4 parallel.tensor_parallel_mode=2d",
    "tp, more ranks than key-value heads": f"{DENSE} parallel.tp=4",
    # Last: calls are numbered by axis name as long as a process lives, and stages make unequally many.
    "dp × pp": f"{DENSE} strategy=ddp parallel.pp=2",
    "fsdp × pp": f"{DENSE} strategy=fsdp parallel.pp=2",
    "tp × pp": f"{DENSE} parallel.tp=2 parallel.pp=2",
    "pp × cp": f"{DENSE} parallel.pp=2 parallel.cp=2",
    "pp × ep": f"{MOE} strategy=ddp parallel.pp=2 parallel.ep=2",
}


# Models of transformers, as a user has them: large, of which the certificate takes a small copy.
LLAMA: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 31_999,
}
FOREIGN = {
    "llama": {"model_type": "llama", **LLAMA},
    "qwen3": {"model_type": "qwen3", **LLAMA, "tie_word_embeddings": True},
    "mixtral": {"model_type": "mixtral", **LLAMA, "num_local_experts": 8, "num_experts_per_tok": 2},
}
_PAIRS = {
    "dp × fsdp": "strategy=hsdp parallel.dp=2",
    "dp × tp": "strategy=ddp parallel.tp=2",
    "dp × cp": "strategy=ddp parallel.cp=2",
    "dp × pp": "strategy=ddp parallel.pp=2",
    "fsdp × tp": "strategy=fsdp parallel.tp=2",
    "fsdp × cp": "strategy=fsdp parallel.cp=2",
    "fsdp × pp": "strategy=fsdp parallel.pp=2",
    "tp × cp": "parallel.tp=2 parallel.cp=2",
    "tp × pp": "parallel.tp=2 parallel.pp=2",
    "pp × cp": "parallel.pp=2 parallel.cp=2",
}
_EXPERTS = {
    "dp × ep": "strategy=ddp parallel.ep=2",
    "fsdp × ep": "strategy=fsdp parallel.ep=2",
    "tp × ep": "strategy=ddp parallel.tp=2 parallel.ep=2",
    "cp × ep": "strategy=ddp parallel.cp=2 parallel.ep=2",
    "pp × ep": "strategy=ddp parallel.pp=2 parallel.ep=2",
}
HF = {
    f"{kind}: {name}": f"model_path={{folder}}/{kind} model_source=transformers {words}"
    for kind in FOREIGN
    for name, words in (_PAIRS | _EXPERTS if kind == "mixtral" else _PAIRS).items()
}
LAYOUTS = {"two": TWO, "four": FOUR, "hf": HF}
SIM_FOUR = "sim.num_devices=4"


def write_configs(folder: Path) -> None:
    """Write the config.json of each model of ``FOREIGN``; a certificate reads no weights."""
    for kind, config in FOREIGN.items():
        write_json(folder / kind / "config.json", config)


def certificates(layouts: str, folder: str = "", backend: str = "cpu") -> dict[str, Any]:
    """Return the verdict on each layout, and that of the search for a departure, which must find none."""
    if backend == "sim":
        os.environ[SETTINGS] = SIM_FOUR
    runtime = make_runtime(backend, "ddp")
    told: dict[str, Any] = {}
    for name, words in LAYOUTS[layouts].items():
        job = load("pretrain", [*words.format(folder=folder).split(), "hardware=cpu"])
        asked = asked_model(job.model, job.model_path, job.model_source)
        try:
            trial = make_trial(
                asked.model, job.parallel, seq_len=job.seq_len, full=False, foreign=asked.foreign
            )
        except ConfigError as error:  # the same on all ranks, before anything runs
            told[name] = {"refused": str(error)}
            continue
        try:
            own = with_strategy(runtime, job.strategy.name, parallel=trial.parallel)
            verdict = certify(trial, own, AdamWConfig(), 2)
            departure, compared = find_departure(
                trial, own, AdamWConfig(), bars_of(own.precision.compute_dtype)
            )
        except Exception as error:
            raise RuntimeError(f"layout '{name}' failed: {traceback.format_exc()}") from error
        told[name] = {
            "agrees": verdict.agrees,
            "lines": [asdict(line) for line in verdict.lines],
            "departure": str(departure) if departure else "",
            "compared": compared,
        }
    runtime.group.close()
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("layouts", nargs="*", choices=sorted(LAYOUTS), default=["four", "hf"])
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    print("| layout | loss | gradient norm | gradients | scores | weights | verdict |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for layouts in options.layouts:
        with tempfile.TemporaryDirectory() as folder:
            write_configs(Path(folder))
            ranks = 2 if layouts == "two" else 4
            words = (layouts, folder, options.backend)
            target = "tests.portable.certificate.matrix:certificates"
            told = run_processes(target, ranks, Path(folder), *words, timeout_s=3000.0)[0]
        for name, found in told.items():
            lines = found.get("lines", [])[1:]
            figures = " | ".join(f"{line['difference']:.1e}" for line in lines) or " | | | | "
            word = "refused" if "refused" in found else "agrees" if found["agrees"] else "DEPARTS"
            print(f"| {name} | {figures} | {word} |", flush=True)


if __name__ == "__main__":
    main()
