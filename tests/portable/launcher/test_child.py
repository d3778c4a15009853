"""A job in a process of its own: its words reach us, and our signals reach it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from portable.launcher import child
from portable.launcher.child import run_child
from portable.launcher.failure import RankError


def test_the_words_and_the_code_of_a_failed_child_are_told(tmp_path: Path):
    with pytest.raises(RankError, match=r"rank 3: data.source=.*matches no file") as caught:
        run_child(["data", "source=/no/such/*.txt", f"hydra.run.dir={tmp_path}/run"], tmp_path, 3)
    assert caught.value.exit_code == 2


def test_a_stop_signal_goes_to_the_child_and_then_to_who_handled_it_before(tmp_path: Path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\n"
        "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))\n"
        "os.kill(os.getppid(), signal.SIGUSR2)\nsignal.pause()\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(script))
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    try:
        with pytest.raises(RankError, match="rank 0: ended with exit code 75") as caught:
            run_child(["pretrain"], tmp_path, 0)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [signal.SIGUSR2]
    assert caught.value.exit_code == os.EX_TEMPFAIL
