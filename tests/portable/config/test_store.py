from dataclasses import is_dataclass

from portable.config.search_path import conf_dir
from portable.config.store import SCHEMAS, VERBS, register_schemas
from portable.core.registry import load_target


def test_every_schema_is_a_dataclass() -> None:
    for schema in SCHEMAS:
        assert is_dataclass(load_target(schema.target)), schema


def test_every_verb_has_its_file() -> None:
    for verb in VERBS:
        assert (conf_dir() / f"{verb}.yaml").is_file()


def test_every_schema_name_is_used_by_some_file() -> None:
    used = "\n".join(file.read_text() for file in conf_dir().rglob("*.yaml"))
    assert [schema.name for schema in SCHEMAS if schema.name not in used] == []


def test_registering_twice_does_no_harm() -> None:
    register_schemas()
    register_schemas()
