"""Other projects' names for our settings: users bring habits, we bring one meaning.

Megatron-LM's flags (with underscores), torchtitan's and DeepSpeed's dotted keys. What has no meaning here is
in no table, and is refused as any unknown setting is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from portable.core.errors import ConfigError, did_you_mean

_GROUP, _TITAN_GROUP = "parallel.", "parallelism."  # torchtitan's word for it

_MEGATRON = {
    "tensor_model_parallel_size": "parallel.tensor_parallel_degree",
    "pipeline_model_parallel_size": "parallel.pipeline_parallel_degree",
    "virtual_pipeline_model_parallel_size": "parallel.pipeline_parallel_stages_per_rank",
    "num_virtual_stages_per_pipeline_rank": "parallel.pipeline_parallel_stages_per_rank",
    "context_parallel_size": "parallel.context_parallel_degree",
    "expert_model_parallel_size": "parallel.expert_parallel_degree",
    "sequence_parallel": "parallel.enable_sequence_parallel",
    "recompute_num_layers": "parallel.recompute.num_layers",
    "initial_loss_scale": "precision.loss_scale.initial",
    "min_loss_scale": "precision.loss_scale.minimum",
    "loss_scale_window": "precision.loss_scale.growth_interval",
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "adam_eps": "optim.eps",
    "clip_grad": "max_grad_norm",
    "lr_warmup_iters": "schedule.warmup_steps",
    "train_iters": "steps",
    "seq_length": "seq_len",
    "save_interval": "checkpoint.every_steps",
    "log_interval": "log_every_steps",
}
_DEEPSPEED = {
    "autotp_size": "parallel.tensor_parallel_degree",
    "tensor_parallel.autotp_size": "parallel.tensor_parallel_degree",
    "mics_shard_size": "parallel.data_parallel_shard_degree",
    "zero_hpz_partition_size": "parallel.data_parallel_shard_degree",
    "zero_optimization.mics_shard_size": "parallel.data_parallel_shard_degree",
    "zero_optimization.zero_hpz_partition_size": "parallel.data_parallel_shard_degree",
    "gradient_clipping": "max_grad_norm",
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "fp16.loss_scale_window": "precision.loss_scale.growth_interval",
    "fp16.min_loss_scale": "precision.loss_scale.minimum",
}
_TITAN = {
    "compile.enable": "parallel.compile.enable",
    "activation_checkpoint.memory_budget": "parallel.recompute.budget",
    "optimizer.lr": "optim.lr",
    "optimizer.weight_decay": "optim.weight_decay",
    "optimizer.beta1": "optim.beta1",
    "optimizer.beta2": "optim.beta2",
    "optimizer.eps": "optim.eps",
    "lr_scheduler.warmup_steps": "schedule.warmup_steps",
    "lr_scheduler.min_lr_factor": "schedule.min_factor",
    "training.max_norm": "max_grad_norm",
    "training.steps": "steps",
    "training.seq_len": "seq_len",
    "training.local_batch_size": "micro_batch_size",
    "training.global_batch_size": "global_batch_size",
    "checkpoint.interval": "checkpoint.every_steps",
    "checkpoint.keep_latest_k": "checkpoint.keep",
    "checkpoint.create_seed_checkpoint": "checkpoint.create_seed",
    "comm.train_timeout_seconds": "communicator.timeout_s",
}
_COLOSSAL = {
    "tp_size": "parallel.tensor_parallel_degree",
    "pp_size": "parallel.pipeline_parallel_degree",
}
_SHORT = {
    "pp": "parallel.pipeline_parallel_degree",
    "dp": "parallel.data_parallel_replicate_degree",
    "fsdp": "parallel.data_parallel_shard_degree",
    "cp": "parallel.context_parallel_degree",
    "tp": "parallel.tensor_parallel_degree",
    "ep": "parallel.expert_parallel_degree",
}
ALIASES = {**_MEGATRON, **_DEEPSPEED, **_TITAN, **_COLOSSAL, **_SHORT}

_STAGES = {"0": "ddp", "1": "zero1", "2": "zero2", "3": "zero3"}
_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_DECAYS = {"constant": "constant", "linear": "linear", "cosine": "cosine"}
WORDS: dict[str, tuple[str, Mapping[str, str | None]]] = {
    # Megatron-LM
    "cp_comm_type": (
        "parallel.context_parallel_method",
        {"p2p": "ring", "a2a": "ulysses", "a2a+p2p": "hybrid"},
    ),
    "recompute_granularity": ("parallel.recompute.mode", {"full": "full", "selective": "selective"}),
    "use_distributed_optimizer": ("strategy", {"true": "zero1", "false": None}),
    "data_parallel_sharding_strategy": (
        "strategy",
        {"no_shard": "ddp", "optim": "zero1", "optim_grads": "zero2", "optim_grads_params": "zero3"},
    ),
    "bf16": ("precision", {"true": "bf16", "false": None}),
    "fp16": ("precision", {"true": "fp16", "false": None}),
    "optimizer": ("optim", {"adam": "adamw", "muon": "muon"}),
    "lr_decay_style": ("schedule.decay", _DECAYS | {"WSD": "wsd"}),
    # DeepSpeed
    "zero_optimization.stage": ("strategy", _STAGES),
    "bf16.enabled": ("precision", {"true": "bf16", "false": None}),
    "fp16.enabled": ("precision", {"true": "fp16", "false": None}),
    "fp16.initial_scale_power": ("precision.loss_scale.initial", {str(n): str(2**n) for n in range(33)}),
    # torchtitan
    "activation_checkpoint.mode": (
        "parallel.recompute.mode",
        {"none": "none", "full": "full", "selective": "selective", "memory_budget": "budget"},
    ),
    "parallel.fsdp_reshard_after_forward": (
        "strategy.reshard_after_forward",
        {"always": "true", "never": "false", "default": None},
    ),
    "training.mixed_precision_param": ("precision.compute_dtype", _FORMATS),
    "training.mixed_precision_reduce": ("precision.reduce_dtype", _FORMATS),
    "training.dtype": ("precision.param_dtype", _FORMATS),
    "optimizer.name": ("optim", {"AdamW": "adamw"}),
    "lr_scheduler.decay_type": ("schedule.decay", {"linear": "linear", "cosine": "cosine"}),
}
"""Aliases whose values have other words, too: our setting, our word for each (None: what we do anyway)."""
_METHOD, _LAYERS = "recompute_method", "recompute_num_layers"


def resolve_aliases(overrides: Sequence[str]) -> list[str]:
    """Return the command line with every ``ALIAS=`` or ``parallel.ALIAS=`` under our name; Hydra then checks
    it as ours.

    Raises: ConfigError for a value that has no meaning here.
    """
    return [word for given in _without_method(overrides) for word in _resolve(given)]


def alias_names() -> Iterator[str]:
    """Yield every name that is understood."""
    for name, target in (*ALIASES.items(), *((name, target) for name, (target, _) in WORDS.items())):
        yield name
        if target.startswith(_GROUP) and "." not in name:
            yield _GROUP + name
    yield from (_METHOD, _GROUP + _METHOD)


def _resolve(word: str) -> Iterator[str]:
    prefix, path, equals, value = _parts(word)
    name = _bare(path)
    if not equals:
        yield word
    elif name in ALIASES:
        yield f"{prefix}{ALIASES[name]}{equals}{value}"
    elif name in WORDS:
        target, words = WORDS[name]
        found = [_translate(path, choice, words) for choice in value.split(",")]
        if None not in found:
            yield f"{prefix}{target}{equals}{','.join(filter(None, found))}"
    else:
        yield f"{prefix}{path}{equals}{value}"


def _translate(path: str, value: str, words: Mapping[str, str | None]) -> str | None:
    known = {word.lower(): word for word in words}
    if value.lower() not in known:
        raise ConfigError(
            f"{path}={value} has no meaning here.{did_you_mean(value, words)} Known: {', '.join(words)}"
        )
    return words[known[value.lower()]]


def _without_method(overrides: Sequence[str]) -> list[str]:
    """Check Megatron-LM's recompute_method, which says what its recompute_num_layers counts, and drop it."""
    given = {_bare(_parts(word)[1]): _parts(word)[3] for word in overrides}
    method, layers = given.get(_METHOD), given.get(_LAYERS)
    if method is None and layers is None:
        return list(overrides)
    if method not in ("block", "uniform"):
        raise ConfigError(
            f"{_LAYERS}={layers} with {_METHOD}={method}: what is counted depends on the method; use "
            f"{_METHOD}=block (the first layers of a stage recompute) or uniform (all do, one by one)"
        )
    if method == "uniform" and layers not in (None, "1"):
        raise ConfigError(
            f"{_METHOD}=uniform with {_LAYERS}={layers} keeps the input of every {layers}th layer only; here "
            f"each keeps its own: use {_LAYERS}=1, or parallel.recompute.mode=full"
        )
    dropped = {_METHOD} if method == "block" else {_METHOD, _LAYERS}
    return [word for word in overrides if _bare(_parts(word)[1]) not in dropped]


def _parts(word: str) -> tuple[str, str, str, str]:
    """Return Hydra's prefix, the path in our group of parallelism, the sign and the value."""
    key, equals, value = word.partition("=")
    path = key.lstrip("+~")
    prefix = key[: len(key) - len(path)]
    if path.startswith(_TITAN_GROUP):
        path = _GROUP + path.removeprefix(_TITAN_GROUP)
    return prefix, path, equals, value


def _bare(path: str) -> str:
    """Return the name in the tables: they lack the group that users may put before parallelism's."""
    bare = path.removeprefix(_GROUP)
    target = ALIASES.get(bare) or WORDS.get(bare, ("",))[0]
    return bare if bare == _METHOD or target.startswith((_GROUP, "strategy")) else path
