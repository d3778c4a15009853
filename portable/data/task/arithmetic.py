"""Sums of two numbers, ``a+b=``, answered with a fixed number of digits: a task whose reward is a rule.

The *format* can be taught without the sums (``random_answer``), so a policy starts near chance and whatever
it gains was learnt from reward alone.
"""

import random
from dataclasses import dataclass

from portable.core.record import Conversation, Message


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt and its only right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class ArithmeticTask:
    """All sums of two numbers of at most ``num_digits`` digits.

    Answers are zero-padded to ``num_digits + 1``.
    """

    num_digits: int = 1

    def problems(self) -> list[Problem]:
        """Return every problem, in order: 100 of them for one digit."""
        limit = 10**self.num_digits
        return [Problem(f"{a}+{b}=", self._format(a + b)) for a in range(limit) for b in range(limit)]

    def random_answer(self, rng: random.Random) -> str:
        """Return an answer of the right form, drawn uniformly from the possible sums."""
        return self._format(rng.randrange(2 * 10**self.num_digits - 1))

    def format_example(self, problem: Problem, rng: random.Random, index: int) -> Conversation:
        """Return a conversation that shows the form of the answer and says nothing about sums."""
        turns = (Message("user", problem.prompt), Message("assistant", self.random_answer(rng)))
        return Conversation(turns, f"arithmetic-format-{index}", {"task": "arithmetic_format"})

    def reward(self, problem: Problem, answer: str) -> float:
        """Return 1 for the exact answer, else 0."""
        return float(answer == problem.answer)

    def _format(self, total: int) -> str:
        return f"{total:0{self.num_digits + 1}d}"
