"""The root config of every verb: the machine, and the settings of one stage (or, for ``run``, of several)."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from portable.data.config import DataConfig
from portable.engine.config import EngineConfig
from portable.engine.serve_config import ChatConfig, ServeConfig
from portable.eval.config import EvalConfig
from portable.hardware.spec import HardwareConfig, SimConfig
from portable.job.sinks import MetricsConfig
from portable.kernel.config import KernelConfig
from portable.launcher.config import LauncherConfig
from portable.model.export_config import ExportConfig
from portable.parallel.config import CommunicatorConfig, ParallelConfig, PrecisionConfig, StrategyConfig
from portable.rl.config import RlConfig
from portable.sft.config import SftConfig
from portable.synth.config import SynthConfig
from portable.train.pretrain_config import PretrainConfig


@dataclass(kw_only=True)  # no slots: a job inherits from this and from a slotted stage config
class MachineConfig:
    """What a job runs on and with. ``hardware`` chooses the defaults of the others.

    ``sim`` shapes simulated hardware and says nothing to other. ``deterministic`` asks for the same bits in
    every run, at whatever cost in speed.
    ``dry_run`` composes, validates and prints the choice. ``output_dir`` replaces the dated folder under
    ``runs/``; a job that is given a folder of its own continues what stands there.
    """

    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    communicator: CommunicatorConfig = field(default_factory=CommunicatorConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    deterministic: bool = False
    dry_run: bool = False
    output_dir: str | None = None


@dataclass(kw_only=True)
class DataJob(MachineConfig, DataConfig):
    """``portable data``"""


@dataclass(kw_only=True)
class PretrainJob(MachineConfig, PretrainConfig):
    """``portable pretrain``"""


@dataclass(kw_only=True)
class SynthJob(MachineConfig, SynthConfig):
    """``portable synth``"""


@dataclass(kw_only=True)
class SftJob(MachineConfig, SftConfig):
    """``portable sft``"""


@dataclass(kw_only=True)
class RlJob(MachineConfig, RlConfig):
    """``portable rl``"""


@dataclass(kw_only=True)
class EvalJob(MachineConfig, EvalConfig):
    """``portable eval``"""


@dataclass(kw_only=True)
class ExportJob(MachineConfig, ExportConfig):
    """``portable export``"""


@dataclass(kw_only=True)
class ServeJob(MachineConfig, ServeConfig):
    """``portable serve``"""


@dataclass(kw_only=True)
class ChatJob(MachineConfig, ChatConfig):
    """``portable chat``"""


@dataclass(kw_only=True)
class RunJob(MachineConfig):
    """``portable run``: ``stages`` in order, each with its config below.

    A path written ``@stage`` stands for the artefact of an earlier stage. ``store`` is where artefacts are
    kept, named by the content they were made from; runs that share a store share every stage that is the
    same.
    """

    name: str = MISSING
    stages: list[str] = field(default_factory=list)
    store: str = "runs/artefacts"
    data: DataConfig | None = None
    pretrain: PretrainConfig | None = None
    synth: SynthConfig | None = None
    sft: SftConfig | None = None
    rl: RlConfig | None = None
    eval: EvalConfig | None = None
    export: ExportConfig | None = None
