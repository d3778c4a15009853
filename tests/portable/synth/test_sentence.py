from portable.synth.sentence import Span, first_sentence, fold, is_prose, paragraphs, words


def sentence(text: str) -> str | None:
    found = first_sentence(text, Span(0, len(text)))
    return None if found is None else found.of(text)


def test_the_first_sentence_ends_at_its_full_stop():
    assert sentence("Return a copy. Then stop.") == "Return a copy."
    assert sentence('He said "go!" Then left.') == 'He said "go!"'


def test_a_line_break_inside_a_sentence_is_folded():
    assert sentence("Return\n    a copy. Then") == "Return a copy."


def test_abbreviations_versions_and_dotted_names_do_not_end_a_sentence():
    assert sentence("Use a tree, e.g. a birch. Or not.") == "Use a tree, e.g. a birch."
    assert sentence("Needs os.path and 3.11 here. Yes.") == "Needs os.path and 3.11 here."


def test_cjk_full_stops_need_no_blank():
    assert sentence("返回一个副本。然后停止。") == "返回一个副本。"


def test_a_text_without_an_end_has_no_sentence():
    assert sentence("Return a copy") is None


def test_paragraphs_are_spans_of_the_text():
    text = "  one\ntwo\n\n \n  three  \n"
    assert [text[span.start : span.end] for span in paragraphs(text)] == ["one\ntwo", "three"]
    assert [text[span.start : span.end] for span in paragraphs(text, 10)] == ["three"]


def test_markup_is_not_prose():
    assert is_prose("A plain sentence.")
    assert is_prose("“Quoted” words.")
    for block in (
        "* item",
        "- item",
        ">>> 1 + 1",
        "1. first",
        ".. note::",
        ":param x: y",
        "| a | b |",
        "```",
    ):
        assert not is_prose(block), block


def test_words_keep_dotted_names_and_split_cjk():
    assert words("Use os.path.join, 好吗?") == ["use", "os.path.join", "好", "吗"]
    assert fold(" a\n\t b ") == "a b"
