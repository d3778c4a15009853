from pathlib import Path

import pytest

from tests.portable.train.test_pretrain import learn, make_corpus, sentences


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {"train": sentences()[::2], "heldout": sentences()[1::24]}
    return make_corpus(tmp_path_factory.mktemp("corpus"), texts, learn(texts["train"], 290))


@pytest.fixture(scope="session")
def faulty_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with a plug-in, ``metrics.sinks=[jsonl,fault]``, that fails on rank 1 only."""
    site = tmp_path_factory.mktemp("site")
    (site / "fault.py").write_text(
        "from portable.collective.place import read_place\n"
        "from portable.core.errors import DataError\n"
        "from portable.core.metric import NullSink\n\n"
        "if read_place().rank == 1:\n"
        "    raise DataError('the disk of this rank is empty')\n\n\n"
        "def open_sink(folder, project, settings):\n"
        "    return NullSink()\n"
    )
    metadata = site / "fault-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fault\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[portable.metric_sinks]\nfault = fault:open_sink\n")
    return site
