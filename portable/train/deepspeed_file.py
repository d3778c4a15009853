"""The DeepSpeed JSON of a run: checked when one was given, and written down in any case."""

from __future__ import annotations

from portable.core.storage import write_json
from portable.core.workspace import Workspace
from portable.parallel.runtime import Runtime
from portable.parallel.strategies.deepspeed.document import TrainingFacts, to_json
from portable.parallel.strategies.deepspeed.importer import check_training
from portable.parallel.strategies.deepspeed.strategy import DeepspeedStrategy
from portable.train.config import AdamWConfig, TrainConfig


def settle_deepspeed(
    config: TrainConfig,
    runtime: Runtime,
    workspace: Workspace,
    *,
    micro_batch_size: int,
    grad_accum_steps: int | None,
) -> None:
    """Compare what ``strategy.config_file`` says of the training with what the run does, and leave
    ``deepspeed.json``. Other strategies and optimisers are passed over.

    ``grad_accum_steps`` is None where steps differ in it.

    Raises: ConfigError that lists every difference.
    """
    strategy = runtime.new_strategy()
    if not isinstance(strategy, DeepspeedStrategy) or not isinstance(config.optim, AdamWConfig):
        return
    optim = config.optim
    facts = TrainingFacts(
        micro_batch_size=micro_batch_size,
        grad_accum_steps=grad_accum_steps,
        num_readers=runtime.readers.size,
        max_grad_norm=config.max_grad_norm,
        optimizer=optim.name,
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    check_training(strategy.config, facts)
    if runtime.group.rank == 0:
        write_json(workspace.dir / "deepspeed.json", to_json(strategy.config, strategy.precision, facts))
