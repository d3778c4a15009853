"""A training that a launcher starts: one rank dies in the first attempt."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.portable.train import case_train
from tests.portable.train.support import weights_hash


def main(folder: Path, strategy: str, die_after: int) -> None:
    trainer = case_train.build(folder, strategy)
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and die_after and trainer.runtime.group.rank == 1:
        case_train.after_each_step(
            trainer, lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == die_after else None
        )
    trainer.resume()
    began = trainer.step
    trainer.fit()
    weights = trainer.model.whole_weights()
    if trainer.runtime.group.rank == 0:
        report = {"hash": weights_hash(weights), "began": began, "first": first}
        (folder / "report.json").write_text(json.dumps(report))
    trainer.runtime.group.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
