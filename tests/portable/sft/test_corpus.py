import json
from collections import Counter
from pathlib import Path

import pytest

from portable.core.errors import ArtefactError, DataError
from portable.core.record import Conversation
from portable.sft.corpus import arithmetic_format, read_splits


def write(path: Path, conversations: list[Conversation]) -> Path:
    path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in conversations))
    return path


def test_a_sealed_folder_has_its_own_splits(data_dir: Path, conversations: list[Conversation]):
    train, heldout = read_splits(data_dir, seed=0)
    assert train == conversations[:16]
    assert [item.id for item in heldout] == [f"heldout-conversation-{number}" for number in range(8)]


def test_a_users_file_is_split_by_id(tmp_path: Path, conversations: list[Conversation]):
    train, heldout = read_splits(write(tmp_path / "mine.jsonl", conversations), seed=0)
    assert sorted(item.id for item in train + heldout) == sorted(item.id for item in conversations)
    assert 0 < len(heldout) < 12
    fewer, _ = read_splits(write(tmp_path / "fewer.jsonl", conversations[:-1]), seed=0)
    assert [item for item in train if item.id != "conversation-63"] == fewer


def test_two_conversations_are_enough(tmp_path: Path, conversations: list[Conversation]):
    train, heldout = read_splits(write(tmp_path / "two.jsonl", conversations[:2]), seed=0)
    assert len(train) == len(heldout) == 1
    with pytest.raises(DataError, match="no held-out conversation"):
        read_splits(write(tmp_path / "one.jsonl", conversations[:1]), seed=0)


def test_another_kind_of_folder_is_refused(model_dir: Path):
    with pytest.raises(ArtefactError):
        read_splits(model_dir, seed=0)


def test_the_arithmetic_form_says_nothing_about_sums():
    items = arithmetic_format(1, 3800, seed=0)
    prompts = Counter(item.messages[0].content for item in items)
    assert len(prompts) == 100
    assert set(prompts.values()) == {38}
    answers = Counter(item.messages[1].content for item in items)
    assert sorted(answers) == [f"{number:02d}" for number in range(19)]
    assert all(150 < count < 250 for count in answers.values())  # uniform: 200 each, give or take 14
    right = sum(eval(item.messages[0].content[:-1]) == int(item.messages[1].content) for item in items)
    assert 0.03 < right / len(items) < 0.08  # 1 of 19
    assert items == arithmetic_format(1, 3800, seed=0)
    assert items != arithmetic_format(1, 3800, seed=1)
