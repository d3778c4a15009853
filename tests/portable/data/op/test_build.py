"""Ops out of a config: in order, typed, and helpful about typos."""

import pickle

import pytest

from portable.core.errors import ConfigError
from portable.data.op.build import build_ops
from portable.data.op.length import Length
from portable.data.op.repetition import Repetition
from portable.data.op.symbol import Symbol


def test_ops_keep_their_order_and_take_overrides():
    ops = build_ops({"symbol": {}, "length": {"min_chars": 7}, "repetition": None})
    assert list(ops) == ["symbol", "length", "repetition"]
    assert ops["symbol"] == Symbol()
    assert ops["length"] == Length(min_chars=7)
    assert ops["repetition"] == Repetition()


def test_lists_and_numbers_are_converted_to_the_fields_types():
    ops = build_ops({"repetition": {"max_top_ngrams": [1, "0.5"]}, "length": {"min_chars": "12"}})
    assert ops["repetition"].max_top_ngrams == [1.0, 0.5]
    assert ops["length"].min_chars == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lenght": {}}, "no data op is called 'lenght'. Did you mean 'length'"),
        ({"length": {"min_char": 3}}, "no setting 'min_char'. Did you mean 'min_chars'"),
        ({"length": {"min_chars": "many"}}, "data.ops.length cannot be set to .*many"),
        ({"length": 30}, "data.ops.length=30 is no mapping; write its settings as fields"),
        ({"length": {"min_chars": 9, "max_chars": 3}}, "min_chars=9 exceeds max_chars=3"),
        ({"repetition": {"max_top_ngrams": [2.0]}}, "max_top_ngrams holds 2.0"),
        ({"symbol": {"min_letters": 50}}, "min_letters=50"),
        ({"language": {"languages": []}}, "name at least one"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_ops(settings)


def test_ops_travel_to_other_processes():
    ops = build_ops({"normalise": {}, "length": {}, "language": {}, "repetition": {}, "symbol": {}})
    assert pickle.loads(pickle.dumps(ops)) == ops
