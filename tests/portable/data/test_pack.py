"""Documents on disk: what the tokenizer says, closed by the end of text."""

from portable.core.record import Document
from portable.data.pack import pack_documents


def test_each_document_is_its_ids_and_an_end(tokenizer, make_documents, tmp_path):
    documents = make_documents(5)
    shards = pack_documents(documents, tokenizer, tmp_path)
    for number, document in enumerate(documents):
        assert shards.document(number).tolist() == [
            *tokenizer.encode(document.text),
            tokenizer.end_of_text_id,
        ]
    assert shards.vocab_size == tokenizer.vocab_size


def test_bytes_are_those_of_the_text(tokenizer, tmp_path):
    shards = pack_documents([Document("naïve 你好", "a"), Document("x", "b")], tokenizer, tmp_path)
    assert shards.byte_counts_D.tolist() == [len("naïve 你好".encode()), 1]


def test_a_spelled_out_end_of_text_does_not_end_the_document(tokenizer, tmp_path):
    shards = pack_documents([Document("a <|endoftext|> b", "a")], tokenizer, tmp_path)
    assert (shards.document(0) == tokenizer.end_of_text_id).sum() == 1


def test_more_documents_than_a_batch_keep_their_order(tokenizer, tmp_path):
    documents = [Document(f"number {number}", str(number)) for number in range(600)]
    shards = pack_documents(documents, tokenizer, tmp_path, shard_tokens=500)
    assert len(list(tmp_path.glob("*.bin"))) > 1
    for number in (0, 255, 256, 511, 599):
        assert tokenizer.decode(shards.document(number).tolist()) == f"number {number}"


def test_no_document_makes_an_empty_folder(tokenizer, tmp_path):
    assert len(pack_documents([], tokenizer, tmp_path)) == 0
