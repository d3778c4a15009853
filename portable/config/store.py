"""The schemas that YAML files are checked against, by text target, so that listing them imports nothing."""

from dataclasses import dataclass

from portable.core.registry import load_target


@dataclass(frozen=True, slots=True)
class Schema:
    """``name`` is what a YAML file's defaults list says; ``group`` and ``package`` are Hydra's."""

    name: str
    target: str
    group: str | None = None
    package: str | None = None


VERBS = ("data", "pretrain", "synth", "sft", "rl", "eval", "export", "serve", "chat", "run")

SCHEMAS = (
    *(Schema(f"base_{verb}", f"portable.job.schema:{verb.capitalize()}Job") for verb in VERBS),
    Schema("base_hardware", "portable.hardware.spec:HardwareConfig", "hardware", "hardware"),
    Schema("base_kernel", "portable.kernel.config:KernelConfig", "kernel"),
    Schema("base_single", "portable.parallel.config:SingleConfig", "strategy"),
    Schema("base_ddp", "portable.parallel.config:DdpConfig", "strategy"),
    Schema("base_zero", "portable.parallel.config:ZeroConfig", "strategy"),
    Schema("base_fsdp", "portable.parallel.config:FsdpConfig", "strategy"),
    Schema("base_accelerate", "portable.parallel.strategies.accelerate.config:AccelerateConfig", "strategy"),
    Schema("base_deepspeed", "portable.parallel.strategies.deepspeed.config:DeepspeedConfig", "strategy"),
    Schema("base_parallel", "portable.parallel.config:ParallelConfig", "parallel"),
    Schema("base_precision", "portable.parallel.config:PrecisionConfig", "precision"),
    Schema("base_communicator", "portable.parallel.config:CommunicatorConfig", "communicator"),
    Schema("base_local_launcher", "portable.launcher.config:LocalLauncherConfig", "launcher"),
    Schema("base_slurm_launcher", "portable.launcher.config:SlurmLauncherConfig", "launcher", "launcher"),
    Schema("base_ray_launcher", "portable.launcher.config:RayLauncherConfig", "launcher"),
    Schema("base_native_engine", "portable.engine.config:NativeEngineConfig", "engine"),
    Schema("base_hf_engine", "portable.engine.config:HfEngineConfig", "engine"),
    Schema("base_vllm_engine", "portable.engine.config:VllmEngineConfig", "engine"),
    Schema("base_lmdeploy_engine", "portable.engine.config:LmdeployEngineConfig", "engine"),
    Schema("base_model", "portable.model.config:ModelConfig", "model"),
    Schema("base_adamw", "portable.train.config:AdamWConfig", "optim"),
    Schema("base_adamw8bit", "portable.train.config:AdamW8bitConfig", "optim"),
    Schema("base_muon", "portable.train.config:MuonConfig", "optim"),
    Schema("base_schedule", "portable.train.config:ScheduleConfig", "schedule"),
    Schema("base_extractive_teacher", "portable.synth.teacher.config:ExtractiveTeacherConfig", "teacher"),
    Schema("base_openai_teacher", "portable.synth.teacher.config:OpenAiTeacherConfig", "teacher"),
)

_FUNCTIONS = {"device_request": "portable.launcher.config:device_request"}


def register_schemas() -> None:
    """Hand all schemas to Hydra, and OmegaConf the functions that files call; twice does no harm."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    for schema in SCHEMAS:
        store.store(schema.name, load_target(schema.target), group=schema.group, package=schema.package)
    for name, target in _FUNCTIONS.items():
        OmegaConf.register_new_resolver(name, load_target(target), replace=True)
