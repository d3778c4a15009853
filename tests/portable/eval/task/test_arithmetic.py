from collections.abc import Callable
from dataclasses import replace

from portable.eval.config import EvalConfig
from portable.eval.task.arithmetic import Arithmetic
from portable.eval.task.protocol import Subject


def test_all_problems_are_asked_and_only_exact_answers_count(
    config: EvalConfig, with_rule: Callable[..., Subject]
):
    subject = with_rule(
        lambda prompt: f"{eval(prompt[:-1]):02d}" if prompt[0] in "34" else str(eval(prompt[:-1]))
    )
    estimate = Arithmetic(config).run(subject).estimate
    # 20 of the padded ones, and of the others those whose sum has two digits anyway.
    wanted = 20 + sum(a + b >= 10 for a in range(10) for b in range(10) if a not in (3, 4))
    assert (estimate.value, estimate.count) == (wanted / 100, 100)
    assert estimate.low < estimate.value < estimate.high


def test_samples_are_drawn_and_carry_the_answer(config: EvalConfig, with_rule: Callable[..., Subject]):
    result = Arithmetic(replace(config, num_samples=5)).run(with_rule(lambda prompt: "07"))
    assert len({sample.prompt for sample in result.samples}) == 5
    assert {sample.answer for sample in result.samples} == {"07"}
    assert all(int(sample.reference) == eval(sample.prompt[:-1]) for sample in result.samples)


def test_the_answer_has_room_for_its_digits_and_the_end(
    config: EvalConfig, with_rule: Callable[..., Subject]
):
    subject = with_rule(lambda prompt: "")
    Arithmetic(config).run(subject)
    assert subject.engine.requests[0].sampling.max_new_tokens == 3  # pyright: ignore
