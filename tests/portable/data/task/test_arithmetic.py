import random
from collections import Counter

import pytest

from portable.data.task.arithmetic import ArithmeticTask, Problem


def test_every_sum_of_two_digits_is_asked_once() -> None:
    problems = ArithmeticTask().problems()
    assert len(problems) == len({problem.prompt for problem in problems}) == 100
    assert Problem("9+9=", "18") in problems
    assert Problem("3+4=", "07") in problems


@pytest.mark.parametrize(
    ("answer", "reward"), [("07", 1.0), ("7", 0.0), ("08", 0.0), ("07 ", 0.0), ("", 0.0)]
)
def test_only_the_exact_answer_is_rewarded(answer: str, reward: float) -> None:
    assert ArithmeticTask().reward(Problem("3+4=", "07"), answer) == reward


def test_format_examples_say_nothing_about_sums() -> None:
    task, rng = ArithmeticTask(), random.Random(0)
    problem = Problem("3+4=", "07")
    answers = Counter(task.format_example(problem, rng, i).messages[1].content for i in range(1900))
    assert sorted(answers) == [f"{value:02d}" for value in range(19)]
    assert max(answers.values()) < 2 * min(answers.values())


def test_more_digits_widen_the_answer() -> None:
    task = ArithmeticTask(num_digits=2)
    assert len(task.problems()) == 10_000
    assert task.problems()[-1] == Problem("99+99=", "198")
