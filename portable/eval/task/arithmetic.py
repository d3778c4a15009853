"""Sums, all of them."""

from __future__ import annotations

from portable.core.record import Message
from portable.data.task.arithmetic import ArithmeticTask
from portable.eval.config import EvalConfig
from portable.eval.generate import Question, answer_questions, draw_sample
from portable.eval.interval import wilson
from portable.eval.task.protocol import Sample, Subject, TaskResult


class Arithmetic:
    """Share of all problems whose greedy answer is exactly right."""

    name = "arithmetic"
    title = "Arithmetic, a+b="
    unit = "exact match"
    higher_is_better = True

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        self.task = ArithmeticTask(config.arithmetic_num_digits)
        self.problems = self.task.problems()

    def run(self, subject: Subject) -> TaskResult:
        """Answer every problem greedily."""
        questions = [
            Question((Message("user", problem.prompt),), problem.answer) for problem in self.problems
        ]
        # Up to one token a digit, and the end of the turn.
        max_new_tokens = self.config.arithmetic_num_digits + 2
        answers = answer_questions(subject.engine, questions, max_new_tokens=max_new_tokens)
        pairs = list(zip(self.problems, answers, strict=True))
        num_right = sum(self.task.reward(problem, answer) for problem, answer in pairs)
        samples = [Sample(problem.prompt, problem.answer, answer) for problem, answer in pairs]
        shown = draw_sample(samples, self.config.num_samples, self.config.seed)
        return TaskResult(wilson(int(num_right), len(pairs)), shown)
