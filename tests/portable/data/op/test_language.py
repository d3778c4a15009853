"""Foreign prose goes; code and what is too short to tell stay."""

import pytest

from portable.core.errors import ConfigError
from portable.core.record import Document
from portable.data.op.language import Language, identify, prose_of
from portable.data.op.protocol import Rejection

ENGLISH = "The harbour was quiet when the last ships came in, and nobody on the shore spoke about the storm."
GERMAN = "Der Hafen war still, als die letzten Schiffe einliefen, und niemand am Ufer sprach über den Sturm."
SPANISH = "El puerto estaba en silencio cuando llegaron los últimos barcos y nadie hablaba de la tormenta."
CODE = "\n".join(f">>> der_hafen[{n}] = letzte_schiffe.und_niemand(sprach={n})" for n in range(20))


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (GERMAN, "de"), (SPANISH, "es")])
def test_prose_is_recognised(text, language):
    found, confidence = identify(text, 50)
    assert found == language
    assert confidence > 0.9


def test_only_the_languages_asked_for_pass():
    german, english = Document(GERMAN, "a"), Document(ENGLISH, "b")
    assert Language()(german) == Rejection("language_de")
    assert Language()(english) is english
    assert Language(languages=["de"])(english) == Rejection("language_en")
    assert Language(languages=["de", "en"])(german) is german


def test_code_and_short_texts_pass():
    for text in (CODE, "Guten Tag", "", "```\n" + GERMAN + "\n```", "    " + GERMAN):
        document = Document(text, "a")
        assert Language()(document) is document


def test_prose_around_code_is_judged():
    assert Language()(Document(f"{GERMAN}\n\n{CODE}\n\n```\n{ENGLISH}\n```", "a")) == Rejection("language_de")


def test_doubt_lets_a_document_pass():
    document = Document(GERMAN, "a")
    assert Language(min_confidence=1.1)(document) is document
    assert Language(min_letters=10_000)(document) is document


def test_what_looks_like_code_is_set_aside():
    text = "Call `json.dumps` with obj_name or f(x).\n>>> f(1)\n    y = 2\nThe end."
    assert prose_of(text) == "Call with or The end."


def test_an_unknown_language_is_named():
    with pytest.raises(ConfigError, match="names 'english', which the identifier does not know"):
        Language(languages=["english"])(Document(GERMAN, "a"))
