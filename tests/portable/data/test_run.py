"""The whole stage on small input: the same bytes however it is run, and errors that a user understands."""

import json

import pytest

from portable.core.artefact import open_artefact
from portable.core.errors import ArtefactError, ConfigError, DataError
from portable.core.workspace import Workspace
from portable.data.config import DataConfig, TokenizerConfig
from portable.data.format.corpus import read_documents
from portable.data.run import PAYLOAD, run_data
from portable.data.shard import TokenShards
from portable.model.tokenizer import Tokenizer

OPS = {"normalise": {}, "length": {"min_chars": 20}, "language": {}, "repetition": {}, "symbol": {}}


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.fixture
def source(tmp_path, make_documents):
    """150 documents, three of them twice, one too short, and one broken line."""
    rows = [{"text": document.text, "id": document.id, "n": 1} for document in make_documents(150)]
    lines = [json.dumps(row) for row in [*rows, *({**row, "id": f"copy-{row['id']}"} for row in rows[:3])]]
    lines[7:7] = ["{broken", json.dumps({"text": "tiny", "id": "tiny"})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return tmp_path / "in.jsonl"


def _config(file, **settings):
    chosen = {
        "source": str(file),
        "id_field": "id",
        "ops": OPS,
        "heldout_fraction": 0.1,
        "tokenizer": TokenizerConfig(vocab_size=300),
        "num_workers": 1,
        "num_samples": 3,
        **settings,
    }
    return DataConfig(**chosen)


def test_a_corpus_has_all_its_parts(source, tmp_path):
    artefact = run_data(_config(source), Workspace(tmp_path / "out"))
    root = artefact.path
    assert open_artefact(root, "corpus", verify=True) == artefact
    train, heldout = (
        list(read_documents(root / "documents" / f"{side}.jsonl.zst")) for side in ("train", "heldout")
    )
    shards = {side: TokenShards.open(root / "tokens" / side) for side in ("train", "heldout")}
    tokenizer = Tokenizer.load(root / "tokenizer")
    assert artefact.summary == {
        "documents": 150,
        "train_documents": len(train),
        "heldout_documents": len(heldout),
        "train_tokens": shards["train"].num_tokens,
        "heldout_tokens": shards["heldout"].num_tokens,
        "train_bytes": sum(len(document.text.encode()) for document in train),
        "heldout_bytes": sum(len(document.text.encode()) for document in heldout),
        "vocab_size": 300,
    }
    assert 3 <= len(heldout) <= 30
    assert tokenizer.decode(shards["heldout"].document(0).tolist()) == heldout[0].text
    assert train[0].metadata["n"] == 1
    assert not (root / "work").exists()


def test_the_funnel_tells_every_loss(source, tmp_path):
    run_data(_config(source), Workspace(tmp_path / "out"))
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert (funnel["documents_in"], funnel["quarantined"]) == (155, 1)
    steps = {step["op"]: step for step in funnel["steps"]}
    assert list(steps) == ["read", *OPS, "heldout_split", "exact_dedup", "near_dedup"]
    assert [step["kind"] for step in funnel["steps"][-3:]] == ["split", "dedup", "dedup"]
    assert steps["length"]["dropped"] == {"too_short": 1}
    assert sum(steps["exact_dedup"]["dropped"].values()) == 3
    for before, after in zip(funnel["steps"], funnel["steps"][1:], strict=False):
        assert before["documents_out"] == after["documents_in"]
        assert before["bytes_out"] == after["bytes_in"]
    for step in funnel["steps"]:
        assert step["documents_in"] - step["documents_out"] == sum(step["dropped"].values())
    (row,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert (row["file"], row["line"]) == (str(source), 8)


def test_copies_of_heldout_documents_are_not_trained_on(source, tmp_path):
    run_data(_config(source, heldout_fraction=0.5), Workspace(tmp_path / "out"))
    texts = [
        {document.text for document in read_documents(tmp_path / "out" / "documents" / f"{side}.jsonl.zst")}
        for side in ("train", "heldout")
    ]
    assert not texts[0] & texts[1]
    assert len(texts[0] | texts[1]) == 150


def test_the_payload_does_not_depend_on_workers_samples_or_times(source, tmp_path):
    digests = {
        run_data(_config(source, **settings), Workspace(tmp_path / f"out{number}")).digest
        for number, settings in enumerate([{}, {"num_workers": 2}, {"num_samples": 0, "keep_rejected": True}])
    }
    assert len(digests) == 1


def test_seed_changes_the_split(source, tmp_path):
    digests = {
        run_data(_config(source, seed=seed), Workspace(tmp_path / f"out{seed}")).digest for seed in (0, 1)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("moment", ["select_documents", "train_tokenizer", "pack_documents", "seal"])
def test_a_killed_run_called_again_ends_the_same(source, tmp_path, monkeypatch, moment):
    expected = run_data(_config(source), Workspace(tmp_path / "whole"))

    def kill(*_args, **_kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(f"portable.data.run.{moment}", kill)
        with pytest.raises(KilledError):
            run_data(_config(source), Workspace(tmp_path / "out"))
    again = run_data(_config(source), Workspace(tmp_path / "out"))
    assert again.digest == expected.digest
    names = [{str(f.relative_to(root)) for f in root.rglob("*")} for root in (again.path, expected.path)]
    assert names[0] == names[1]


def test_nothing_of_an_earlier_run_stays(source, tmp_path):
    root = tmp_path / "out"
    for name in (
        "documents/old.zst",
        "tokens/train/00009.bin",
        "rejected/x",
        "work/y",
        "quarantine.jsonl",
        ".funnel.json.q.tmp",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("old")
    (root / "log.txt").write_text("the job's own file")
    run_data(_config(source), Workspace(root))
    left = {file.name for file in root.rglob("*") if file.is_file()}
    assert not left & {"old.zst", "00009.bin", "x", "y", ".funnel.json.q.tmp"}
    assert "log.txt" in left
    assert len((root / "quarantine.jsonl").read_text().splitlines()) == 1


def test_numbers_of_each_step_go_to_the_metrics(source, tmp_path):
    class Sink:
        rows: list = []  # noqa: RUF012

        def write(self, step, values):
            self.rows.append((step, dict(values)))

        def close(self):
            pass

    run_data(_config(source), Workspace(tmp_path / "out", metrics=Sink()))
    assert [row[0] for row in Sink.rows] == list(range(9))
    assert Sink.rows[0][1]["documents"] == 154
    assert Sink.rows[-1][1]["documents"] == 150


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"source": "gone/*.txt"}, DataError, r"data\.source=gone/\*\.txt matches no file"),
        ({"text_field": "body"}, DataError, r"data\.text_field=body is no column .* found are text, id, n"),
        ({"strict": True}, DataError, r"in\.jsonl, line 8 cannot be read: broken JSON"),
        (
            {"tokenizer": TokenizerConfig(vocab_size=90_000)},
            ConfigError,
            r"vocab_size=90000 is more than the data allows",
        ),
        ({"ops": {"normalize": {}}}, ConfigError, r"Did you mean 'normalise'"),
        ({"ops": {"length": {"min_chars": 10_000}}}, DataError, r"leave none of the 154 documents"),
    ],
)
def test_errors_a_user_can_mend(source, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run_data(_config(source, **settings), Workspace(tmp_path / "out"))
    assert not (tmp_path / "out" / "artefact.json").exists()


def test_without_heldout_documents_that_side_is_empty_but_there(source, tmp_path):
    artefact = run_data(_config(source, heldout_fraction=0.0), Workspace(tmp_path / "out"))
    assert artefact.summary["heldout_documents"] == 0
    assert len(TokenShards.open(tmp_path / "out" / "tokens" / "heldout")) == 0


def test_text_files_work_as_well(tmp_path, make_documents):
    for document in make_documents(20):
        (tmp_path / f"{document.id}.txt").write_text(document.text)
    config = _config(tmp_path / "*.txt", id_field=None, tokenizer=TokenizerConfig(vocab_size=280))
    artefact = run_data(config, Workspace(tmp_path / "out"))
    assert artefact.summary["documents"] == 20
    assert sorted(PAYLOAD) == sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())


def test_a_tokenizer_can_be_taken_from_another_corpus(source, tmp_path):
    first = run_data(_config(source), Workspace(tmp_path / "first")).path
    taken = TokenizerConfig(path=str(first / "tokenizer"))
    second = run_data(_config(source, tokenizer=taken, seed=1), Workspace(tmp_path / "second")).path
    files = [root / "tokenizer" / "tokenizer.json" for root in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert TokenShards.open(second / "tokens" / "train").vocab_size == 300


def test_a_tokenizer_that_is_not_there_is_missed_before_anything_is_read(source, tmp_path):
    config = _config(source, tokenizer=TokenizerConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(ArtefactError, match=r"nowhere holds no tokenizer.json"):
        run_data(config, Workspace(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
