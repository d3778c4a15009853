from portable.core.record import Document
from portable.synth.teacher.draft import described_sentence, prose_drafts, reference_drafts

JOIN = Document(
    "str.join(iterable, /)\n\nConcatenate any number of strings,\nin order.\n\nThe result is a new string.",
    "join",
    {"name": "str.join", "module": "builtins", "kind": "method"},
)


def page(text: str, name: str, module: str, kind: str = "function") -> Document:
    return Document(text, name, {"name": name, "module": module, "kind": kind})


def reference(document: Document, *, unique: bool = True) -> dict[str, str]:
    drafts = reference_drafts(document, sentence_is_unique=unique)
    return {draft.rule: draft.answer.of(document.text) for draft in drafts}


def prose(text: str, **metadata: str) -> list[tuple[str, str, str]]:
    document = Document(text, "x", metadata)
    return [(draft.rule, draft.questions[0], draft.answer.of(text)) for draft in prose_drafts(document)]


def test_a_reference_page_is_asked_for_purpose_signature_and_name():
    assert reference(JOIN) == {
        "purpose": "Concatenate any number of strings, in order.",
        "signature": "str.join(iterable, /)",
        "reverse": "str.join",
    }
    purpose = reference_drafts(JOIN, sentence_is_unique=True)[0]
    assert "What does str.join do?" in purpose.questions


def test_package_and_module_are_asked_for_where_the_name_shows_them():
    assert (
        reference(page("os.path.join(a, *p)\n\nJoin paths.", "os.path.join", "os.path"))["module"]
        == "os.path"
    )
    assert reference(page("os.path.join(a, *p)\n\nJoin paths.", "os.path.join", "os.path"))["package"] == "os"
    top = reference(page("json.dumps(x)\n\nMake JSON of it.", "json.dumps", "json"))
    assert top["package"] == "json"
    assert "module" not in top


def test_a_name_too_long_to_be_told_from_its_neighbours_is_passed_over():
    name = "pack.age." + "x" * 40
    assert reference(page(f"{name}(a)\n\nDo it all at once.", name, "pack.age")) == {}


def test_the_reversed_question_needs_a_sentence_of_its_own():
    assert "reverse" not in reference(JOIN, unique=False)


def test_a_headline_word_before_the_name_is_not_part_of_the_answer():
    assert reference(page("class abc.ABC(x)\n\nHelper class of many.", "abc.ABC", "abc", "class")) == {
        "purpose": "Helper class of many.",
        "signature": "abc.ABC(x)",
        "package": "abc",
        "reverse": "abc.ABC",
    }


def test_a_one_line_docstring_needs_no_full_stop():
    assert reference(page("f.g()\n\nReturn the whole lot", "f.g", "f"))["purpose"] == "Return the whole lot"


def test_a_list_a_signature_or_an_endless_sentence_describes_nothing():
    for body in (
        "* one\n* two",
        "g(x) -> int\n",
        "Yes.",
        "word " * 60 + "end.",
        "two lines\nwithout an end",
        "It is like this:",
    ):
        assert described_sentence(page(f"f.g()\n\n{body}", "f.g", "f")) is None, body


def test_a_long_signature_is_not_asked_for():
    arguments = ", ".join(f"argument{number}" for number in range(12))
    assert "signature" not in reference(page(f"f.g({arguments})\n\nDo it all at once.", "f.g", "f"))


def test_a_document_without_a_name_is_no_reference_page():
    assert reference_drafts(Document("Some text.", "x"), sentence_is_unique=True) == []


def test_sections_definitions_and_continuations_are_asked_of_prose():
    text = (
        "# Trees\n\nMany trees grow here. They do.\n\nA fern is a plant without flowers. So it is.\n\n"
        "## Birds\nBirds sing at dawn. Yes."
    )
    assert prose(text) == [
        ("section", 'What does the section "Trees" say?', "Many trees grow here."),
        ("definition", "What is a fern?", "A fern is a plant without flowers."),
        ("section", 'What does the section "Birds" say?', "Birds sing at dawn."),
    ]


def test_a_pronoun_defines_nothing():
    assert [rule for rule, *_ in prose("This is a very fine day for all of us. Yes.")] == ["cloze"]


def test_chinese_is_cut_between_characters():
    assert prose("树林里的鸟在清晨唱歌。然后飞走。") == [("cloze", "Continue: 树林里的鸟", "在清晨唱歌。")]


def test_code_is_skipped():
    assert prose(
        "```\nThis is not a sentence.\n\nNor is this one here.\n```\n\nBut this is one of them."
    ) == [("cloze", "Continue: But this is one", "of them.")]
