"""What the numbers say, in sentences. Nothing here praises: a comparison that is lost is reported as lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from portable.core.text import format_bytes, format_count, format_seconds

Summary = Mapping[str, Any]  # Any: JSON values of a stage's summary

VERB_TITLES = {
    "data": "Data",
    "pretrain": "Pretraining",
    "synth": "Synthesis",
    "sft": "Fine-tuning",
    "rl": "Reinforcement learning",
    "eval": "Evaluation",
    "export": "Export",
}


def headline(verb: str, summary: Summary) -> str:
    """Return one line on what a stage made: words made for it, else the first numbers of its summary."""
    said = _HEADLINES[verb](summary) if verb in _HEADLINES else ""
    return said or ", ".join(_plain_item(key, value) for key, value in list(summary.items())[:3])


def counted(count: int, noun: str) -> str:
    """Return e.g. ``1 seed`` or ``3 seeds``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _plain_item(key: str, value: object) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{key.replace('_', ' ')} {shown}"


def _join(summary: Summary, *parts: tuple[str, Callable[[Any], str]]) -> str:
    """Say those parts whose key the summary has."""
    return ", ".join(say(summary[key]) for key, say in parts if summary.get(key) is not None)


def _data(summary: Summary) -> str:
    return _join(
        summary,
        ("documents", lambda count: f"{count:,} documents"),
        ("train_tokens", lambda count: f"{format_count(count)} training tokens"),
        ("vocab_size", lambda count: f"vocabulary of {count:,}"),
    )


def _pretrain(summary: Summary) -> str:
    return _join(
        summary,
        ("parameters", lambda count: f"{format_count(count)} parameters"),
        ("bits_per_byte", lambda value: f"{value:.3f} bits per byte on held-out text"),
    )


def _synth(summary: Summary) -> str:
    return _join(
        summary,
        ("train", lambda count: f"{count:,} question-answer pairs"),
        ("heldout", lambda count: f"{count:,} more held out"),
    )


def _sft(summary: Summary) -> str:
    if "f1_before" in summary and "f1_after" in summary:
        return f"answer F1 {summary['f1_before']:.2f} → {summary['f1_after']:.2f} on held-out questions"
    return ""


def _rl(summary: Summary) -> str:
    if summary.get("reward_start") and summary.get("reward_end"):
        start, end = (sum(summary[key]) / len(summary[key]) for key in ("reward_start", "reward_end"))
        return (
            f"sampled reward {start:.2f} → {end:.2f}, mean of {counted(len(summary['reward_end']), 'seed')}"
        )
    return ""


def _eval(summary: Summary) -> str:
    if not summary or not all(isinstance(scores, dict) for scores in summary.values()):
        return ""
    models = {model for scores in summary.values() for model in scores}
    return f"{counted(len(models), 'model')} on {counted(len(summary), 'task')}"


def _export(summary: Summary) -> str:
    if "max_logit_difference" in summary:
        return f"Hugging Face folder; logits agree within {summary['max_logit_difference']:.1e}"
    return ""


_HEADLINES: dict[str, Callable[[Summary], str]] = {
    "data": _data,
    "pretrain": _pretrain,
    "synth": _synth,
    "sft": _sft,
    "rl": _rl,
    "eval": _eval,
    "export": _export,
}


def compression_sentence(summary: Summary) -> str:
    """Say where the model's bits per byte stand against the two baselines, whichever way it went."""
    model, unigram, xz, xz_alone = (
        summary.get(prefix + "bits_per_byte") for prefix in ("", "unigram_", "xz_", "xz_alone_")
    )
    if model is None:
        return ""
    text = f"The model spends {model:.3f} bits on a byte of text it has never seen."
    if unigram is not None:
        share = 1 - model / unigram
        verdict = f"so the model saves {share:.0%}" if share > 0 else "and the model has not beaten even that"
        text += f" Knowing only how often each byte occurs costs {unigram:.3f}, {verdict}."
    if xz is None:
        return text
    alone = f" ({xz_alone:.3f} without it)" if xz_alone is not None else ""
    text += f" xz -9, with the training text at hand, needs {xz:.3f}{alone}"
    if model < xz:
        return f"{text}, so the model is ahead by {1 - model / xz:.0%}."
    return (
        f"{text}: it is still the better compressor, by {1 - xz / model:.0%}."
        " A model this small, trained this briefly, is not expected to beat it."
    )


def reward_sentence(seeds: list[Mapping[str, Any]]) -> str:
    """Say from where to where the sampled reward went, worst seed included."""
    starts = [seed["reward_start"] for seed in seeds]
    ends = [seed["reward_end"] for seed in seeds]
    if len(seeds) == 1:
        return f"One seed was run: its mean reward went from {_range(starts)} to {_range(ends)}."
    return (
        f"All {len(seeds)} seeds are shown. The mean reward of sampled answers begins between "
        f"{_range(starts)}, and ends between {_range(ends)}."
    )


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if len(values) == 1 else f"{low} and {high}"


TEACHERS = {
    "extractive": "rules, no language model",
    "openai": "a language model behind an OpenAI-compatible endpoint",
}


def teacher_line(name: str) -> str:
    """Say what the teacher of the synthetic data is."""
    return f"{name} ({TEACHERS[name]})" if name in TEACHERS else name


def shown_command(command: str) -> str:
    """Return a command as a person would type it: without the folder that its program happens to lie in."""
    program, _, rest = command.partition(" ")
    name = program.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{'python -m portable' if name == '__main__.py' else name} {rest}".rstrip()


def when(text: str) -> str:
    """Return e.g. ``24 November 2026, 14:05 UTC``."""
    moment = datetime.fromisoformat(text)
    zone = moment.tzname() or ""
    return f"{moment.day} {moment:%B %Y, %H:%M} {zone}".rstrip()


def device_line(device: Summary) -> str:
    """Describe the device: name, architecture, cores, memory, as far as they are known."""
    return _join(
        device,
        ("name", str),
        ("arch", str),
        ("num_cores", lambda count: f"{count} cores" if count != 1 else "1 core"),
        ("total_bytes", format_bytes),
    )


_ENDS = {"rl": "an RL-tuned model", "sft": "a fine-tuned model", "pretrain": "a pretrained model"}


def opening(report: Mapping[str, Any]) -> str:
    """Return the sentence under the title."""
    stages = report["stages"]
    verbs = [stage["verb"] for stage in stages]
    end = next((words for verb, words in _ENDS.items() if verb in verbs), None)
    what = f"From raw text to {end}" if "data" in verbs and end else counted(len(verbs), "stage")
    time, memory = (
        _unbroken(format_seconds(report["total_time_s"])),
        _unbroken(format_bytes(report["peak_memory_bytes"])),
    )
    text = f"{what} in {time}, with at most {memory} of memory."
    reused = sum(bool(stage["reused"]) for stage in stages)
    if reused:
        known, verb = counted(reused, "stage"), "counts" if reused == 1 else "count"
        text += f" {known} stood ready from an earlier run, and {verb} with the time taken then."
    return text


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def number(value: float) -> str:
    """Return a count in full as long as that can be read at a glance."""
    return f"{value:,.0f}" if abs(value) < 1e6 else format_count(value)
