"""Questions about documents that no training text held."""

from __future__ import annotations

from pathlib import Path

from portable.core.artefact import open_artefact
from portable.core.errors import DataError
from portable.eval.config import EvalConfig
from portable.eval.generate import answer_questions, draw_sample, read_conversations, to_questions
from portable.eval.interval import bootstrap_mean
from portable.eval.scorer.match import token_f1
from portable.eval.task.protocol import Sample, Subject, TaskResult


class DocQa:
    """Mean token F1 of greedy answers to held-out questions."""

    name = "doc_qa"
    title = "Questions about held-out documents"
    unit = "token F1"
    higher_is_better = True

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        folder = open_artefact(Path(config.conversations), "conversations").path
        conversations = read_conversations(folder / "conversations" / "heldout.jsonl")
        self.questions = draw_sample(to_questions(conversations), config.num_questions, config.seed)
        if not self.questions:
            raise DataError(f"{folder} holds no held-out question; run the synth stage on more documents")

    def run(self, subject: Subject) -> TaskResult:
        """Answer greedily and score."""
        config = self.config
        answers = answer_questions(subject.engine, self.questions, max_new_tokens=config.max_new_tokens)
        pairs = list(zip(self.questions, answers, strict=True))
        scores = [token_f1(answer, question.reference) for question, answer in pairs]
        estimate = bootstrap_mean(scores, seed=config.seed, num_resamples=config.num_resamples)
        samples = [Sample(question.text, question.reference, answer) for question, answer in pairs]
        return TaskResult(estimate, samples[: config.num_samples])
