"""A run as the stages would leave it: made-up numbers, the real file formats."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from portable.core.artefact import seal

CONFIG = "name: quickstart\nstages: [data, pretrain, synth, sft, rl, eval, export]\nhardware:\n  name: cpu\n"
SUMMARIES: dict[str, dict[str, Any]] = {
    "data": {
        "documents": 12841,
        "train_documents": 12199,
        "heldout_documents": 642,
        "train_tokens": 1_904_331,
        "heldout_tokens": 98_211,
        "train_bytes": 7_103_991,
        "heldout_bytes": 372_114,
        "vocab_size": 4096,
    },
    "pretrain": {
        "parameters": 4_982_016,
        "steps": 320,
        "train_tokens_seen": 1_310_720,
        "bits_per_byte": 2.143,
        "unigram_bits_per_byte": 4.713,
        "xz_bits_per_byte": 1.902,
        "xz_alone_bits_per_byte": 2.617,
        "beats_unigram": True,
    },
    "synth": {
        "teacher": "extractive",
        "train": 4120,
        "heldout": 212,
        "requested": 5100,
        "accepted": 4332,
        "rejected": 768,
        "failed": 0,
    },
    "sft": {
        "num_train": 4520,
        "num_heldout": 212,
        "parameters_trained": 4_982_016,
        "heldout_loss_before": 4.871,
        "heldout_loss_after": 2.012,
        "f1_before": 0.041,
        "f1_after": 0.352,
    },
    "rl": {
        "steps": 120,
        "reward_start": [0.05, 0.0625, 0.045],
        "reward_end": [0.71, 0.64, 0.77],
        "seeds": [0, 1, 2],
    },
    "eval": {
        "bits_per_byte": {"base": 2.36, "rl": 2.7, "sft": 2.75},
        "doc_qa": {"base": 0.01, "rl": 0.1, "sft": 0.2},
        "arithmetic": {"base": 0.0, "rl": 0.9, "sft": 0.05},
    },
    "export": {"parameters": 4_982_016, "max_logit_difference": 3.1e-6, "dtype": "fp32"},
}
COSTS = {
    "data": (41.3, 912_000_000),
    "pretrain": (138.2, 1_704_000_000),
    "synth": (6.1, 604_000_000),
    "sft": (64.9, 1_512_000_000),
    "rl": (121.4, 1_333_000_000),
    "eval": (22.8, 1_204_000_000),
    "export": (9.3, 1_104_000_000),
}


def make_run(root: Path, verbs: tuple[str, ...] = tuple(SUMMARIES)) -> tuple[Path, dict[str, Any]]:
    """Write the artefacts of ``verbs`` below ``root``; return the run's folder and its manifest."""
    rows: list[dict[str, Any]] = []
    for verb in verbs:
        folder = root / "store" / f"{verb}-0123456789abcdef"
        folder.mkdir(parents=True)
        WRITERS.get(verb, lambda _: None)(folder)
        (folder / "payload.bin").write_text(verb)
        artefact = seal(folder, "model", ["payload.bin"], SUMMARIES[verb])
        time_s, peak = COSTS[verb]
        rows.append(
            {
                "name": verb,
                "verb": verb,
                "artefact": str(folder),
                "digest": artefact.digest,
                "key": "0" * 64,
                "reused": verb == "data",
                "time_s": time_s,
                "peak_memory_bytes": peak,
                "summary": artefact.summary,
            }
        )
    manifest = {
        "recipe": "quickstart",
        "command": "/home/somebody/.venv/bin/portable run recipe=quickstart",
        "started": "2026-11-24T14:00:11+00:00",
        "finished": "2026-11-24T14:06:54+00:00",
        "git_revision": "391cf13a9be1+",
        "versions": {"python": "3.11.7", "portable-llm": "0.1.0", "torch": "2.13.0"},
        "device": {"name": "cpu", "vendor": "x86", "arch": "avx2", "num_cores": 2, "total_bytes": 16 * 2**30},
        "config": CONFIG,
        "stages": rows,
    }
    run_dir = root / "runs" / "quickstart"
    run_dir.mkdir(parents=True)
    return run_dir, manifest


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A whole quickstart."""
    return make_run(tmp_path)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def step(
    op: str, kind: str, before: int, after: int, dropped: dict[str, int], *samples: tuple[str, str, str]
) -> dict[str, Any]:
    texts = [{"id": identity, "text": text, "reason": reason} for identity, text, reason in samples]
    sizes = {"bytes_in": before * 580, "bytes_out": after * 580, "time_s": before / 9000}
    return {
        "op": op,
        "kind": kind,
        "documents_in": before,
        "documents_out": after,
        **sizes,
        "dropped": dropped,
        "samples": texts,
    }


def write_data(folder: Path) -> None:
    steps = [
        step("read", "read", 18204, 18204, {}),
        step("normalise", "mapper", 18204, 18204, {}, ("json", "“quoted”", "changed")),
        step(
            "length_filter",
            "filter",
            18204,
            15433,
            {"too_short": 2766, "too_long": 5},
            ("torch.Tensor.add_", "In-place version of :meth:`~Tensor.add`", "too_short"),
            ("numpy.char.less", "Return (x1 < x2) element-wise.", "too_short"),
        ),
        step(
            "language_filter",
            "filter",
            15433,
            15390,
            {"not_english": 43},
            ("codecs.rot_13", "<b>Cebgmc</b> & gur erfg", "not_english"),
        ),
        step("repetition_filter", "filter", 15390, 15102, {"duplicate_lines": 211, "top_bigram": 77}),
        step(
            "symbol_filter",
            "filter",
            15102,
            14980,
            {"symbol_ratio": 122},
            ("curses.ascii", "^@ ^A ^B ^C ^D ^E ^F ^G " * 30, "symbol_ratio"),
        ),
        step("exact_dedup", "dedup", 14980, 13611, {"exact_duplicate": 1369}),
        step("split", "split", 13611, 13611, {}),
        step(
            "minhash_dedup",
            "dedup",
            13611,
            12841,
            {"near_duplicate": 741, "near_heldout": 29},
            (
                "numpy.ma.cumsum",
                "Return the cumulative sum of the array elements over the given axis.",
                "near_duplicate",
            ),
        ),
    ]
    (folder / "funnel.json").write_text(json.dumps({"documents_in": 18204, "steps": steps, "quarantined": 1}))


def write_training(folder: Path, steps: int, top: float, low: float) -> None:
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(1, steps + 1):
        value = low + (top - low) * math.exp(-number / (steps / 6)) + rng.gauss(0, 0.09)
        row = {
            "step": number,
            "time": 1.7e9 + number,
            "loss": value,
            "grad_norm": 1.1,
            "lr": 1e-3,
            "tokens_per_s": 9500.0 + number,
            "mfu": None,
        }
        rows.append(row)
        if number % 40 == 0:
            rows.append(
                {
                    "step": number,
                    "time": 1.7e9,
                    "heldout_bits_per_byte": 2.1 + 2.9 * math.exp(-number / (steps / 5)),
                }
            )
    write_lines(folder / "metrics.jsonl", rows)


def write_synth(folder: Path) -> None:
    pairs = [
        ("What does str.join do?", "Concatenate any number of strings.", "str.join"),
        (
            "What is the purpose of the module heapq?",
            "Heap queue algorithm (a.k.a. priority queue).",
            "heapq",
        ),
        (
            "What does torch.cumsum return?",
            "Returns the cumulative sum of elements of input in the dimension dim.",
            "torch.cumsum",
        ),
        ("Which function removes and returns the last item of a list?", "list.pop", "list.pop"),
        ("What is a <generator>?", "A function which returns a generator iterator & more.", "glossary"),
        ("How is os.path.join called?", "os.path.join(a, *p)", "os.path.join"),
    ]
    samples = [
        {
            "split": "train",
            "id": f"train-{n:06d}",
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "metadata": {"document_id": document, "rule": "purpose", "teacher": "extractive"},
        }
        for n, (question, answer, document) in enumerate(pairs)
    ]
    (folder / "samples.json").write_text(json.dumps(samples))
    counts = {"documents": 3000, "requested": 4800, "accepted": 4120, "rejected": 680, "failed": 0}
    (folder / "summary.json").write_text(
        json.dumps({"teacher": "extractive", "train": counts, "heldout": counts})
    )


def write_rl(folder: Path) -> None:
    seeds: list[dict[str, Any]] = []
    for seed, (start, end, pace) in enumerate(((0.05, 0.71, 22), (0.0625, 0.64, 30), (0.045, 0.77, 26))):
        rng = random.Random(seed)
        noise = [rng.gauss(0, 0.03) for _ in range(120)]
        reward = [
            max(0.0, start + (end - start) / (1 + math.exp(-(n - 50) / pace * 2.2)) + noise[n])
            for n in range(120)
        ]
        kl = [0.35 * (1 - math.exp(-n / 60)) * (1 + 0.1 * seed) + 0.01 * abs(noise[n]) for n in range(120)]
        seeds.append(
            {"seed": seed, "reward": reward, "kl": [None, *kl[1:]], "reward_start": start, "reward_end": end}
        )
    (folder / "curves.json").write_text(json.dumps({"seeds": seeds}))


def score(value: float, half: float, count: int) -> dict[str, Any]:
    return {"value": value, "count": count, "low": max(0, value - half), "high": value + half}


def write_eval(folder: Path) -> None:
    tasks = [
        {
            "name": "bits_per_byte",
            "title": "Held-out text",
            "unit": "bits per byte",
            "higher_is_better": False,
            "scores": {
                "base": score(2.143, 0.041, 642),
                "sft": score(2.611, 0.05, 642),
                "rl": score(2.655, 0.05, 642),
            },
        },
        {
            "name": "doc_qa",
            "title": "Questions on held-out documents",
            "unit": "token F1",
            "higher_is_better": True,
            "scores": {
                "base": score(0.041, 0.012, 200),
                "sft": score(0.352, 0.04, 200),
                "rl": score(0.348, 0.041, 200),
            },
        },
        {
            "name": "arithmetic",
            "title": "Sums of two digits",
            "unit": "exact match, greedy",
            "higher_is_better": True,
            "scores": {
                "base": score(0.0, 0.036, 100),
                "sft": score(0.05, 0.045, 100),
                "rl": score(0.76, 0.084, 100),
            },
        },
    ]
    samples = [
        {
            "task": "doc_qa",
            "prompt": "What does str.casefold do?",
            "reference": "Return a version of the string suitable for caseless comparisons.",
            "answers": {
                "base": "\n    .. versionadded:: 3.3\n\n    The :meth:`str.split` method of the",
                "sft": "Return a copy of the string with the given characters.",
                "rl": "Return a copy of the string suitable for the given characters.",
            },
        },
        {
            "task": "arithmetic",
            "prompt": "7+5=",
            "reference": "12",
            "answers": {"base": "", "sft": "03", "rl": "12"},
        },
        {
            "task": "arithmetic",
            "prompt": "<i>&",
            "reference": "12",
            "answers": {"base": "<script>alert(1)</script>", "sft": "03", "rl": "12"},
        },
    ]
    samples += [{**samples[1], "prompt": f"{n}+1="} for n in range(4)]
    (folder / "scores.json").write_text(
        json.dumps({"models": ["base", "sft", "rl"], "tasks": tasks, "samples": samples})
    )


WRITERS = {
    "data": write_data,
    "pretrain": lambda folder: write_training(folder, 320, 8.3, 3.4),
    "synth": write_synth,
    "sft": lambda folder: write_training(folder, 200, 5.1, 1.9),
    "rl": write_rl,
    "eval": write_eval,
}
