from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from portable.core.artefact import seal
from portable.core.errors import DataError
from portable.eval.config import EvalConfig
from portable.eval.task.doc_qa import DocQa
from portable.eval.task.protocol import Subject


def test_the_score_is_the_mean_f1(config: EvalConfig, with_rule: Callable[..., Subject]):
    # Right for even numbers, and "fox number" alone for odd ones: 2 of 3 words.
    subject = with_rule(
        lambda prompt: (
            f"The fox number {prompt.strip('?')[-1]}."
            if int(prompt.strip("?")[-1]) % 2 == 0
            else "fox number"
        )
    )
    result = DocQa(config).run(subject)
    assert result.estimate.value == pytest.approx((5 + 5 * 0.8) / 10)
    assert result.estimate.count == 10
    assert 0.8 <= result.estimate.low < result.estimate.value < result.estimate.high <= 1
    assert [(sample.prompt, sample.reference, sample.answer) for sample in result.samples[:2]] == [
        ("Who is number 0?", "The fox number 0.", "The fox number 0."),
        ("Who is number 1?", "The fox number 1.", "fox number"),
    ]
    assert len(result.samples) == config.num_samples


def test_every_model_gets_the_same_drawn_questions(config: EvalConfig):
    config = replace(config, num_questions=4)
    assert DocQa(config).questions == DocQa(config).questions
    assert len(DocQa(config).questions) == 4
    assert DocQa(replace(config, seed=1)).questions != DocQa(config).questions


def test_no_held_out_question_is_an_error(config: EvalConfig, tmp_path: Path):
    (tmp_path / "conversations").mkdir()
    (tmp_path / "conversations" / "heldout.jsonl").write_text("")
    seal(tmp_path, "conversations", ["conversations"])
    with pytest.raises(DataError, match="no held-out question"):
        DocQa(replace(config, conversations=str(tmp_path)))
