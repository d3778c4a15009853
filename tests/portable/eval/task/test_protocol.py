from portable.eval.task.protocol import TASKS, Subject


def test_the_engine_is_built_once(subject: Subject):
    assert "engine" not in subject.__dict__
    assert subject.engine is subject.engine
    assert subject.engine.max_seq_len == 64


def test_the_built_in_tasks_are_registered_under_their_own_names():
    assert {name: TASKS.get(name).name for name in TASKS} == {
        name: name for name in ("arithmetic", "bits_per_byte", "doc_qa")
    }
