"""Settings of what starts the ranks of a run."""

from dataclasses import dataclass

from omegaconf import MISSING

from portable.core.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """What starts the ranks. A run names one of its kinds below (``launcher=local``, ``slurm``, ``ray``)."""

    name: str = MISSING

    def describe(self) -> str:
        """Return in a few words what starts how many ranks."""
        return f"{self.name}, {self.num_ranks} process{'' if self.num_ranks == 1 else 'es'}"

    @property
    def num_ranks(self) -> int:
        """How many ranks there will be."""
        return 1

    @property
    def starts_ranks(self) -> bool:
        """Whether this process starts the ranks, rather than being one."""
        return False

    @property
    def submits(self) -> bool:
        """Whether ranks are tasks of a job that is submitted, one for each combination of settings."""
        return False


@dataclass(kw_only=True, slots=True)
class LocalLauncherConfig(LauncherConfig):
    """``processes`` ranks on this machine; with one, this process is the run.

    A run whose rank failed is started again at most ``max_restarts`` times. Ranks that are told to end get
    ``stop_timeout_s`` to save their state.
    """

    name: str = "local"
    processes: int = 1
    max_restarts: int = 0
    stop_timeout_s: int = 30

    def __post_init__(self) -> None:
        _at_least(1, processes=self.processes)
        _at_least(0, max_restarts=self.max_restarts, stop_timeout_s=self.stop_timeout_s)

    @property
    def num_ranks(self) -> int:
        """All of this machine."""
        return self.processes

    @property
    def starts_ranks(self) -> bool:
        """Whether there is more than this process."""
        return self.processes > 1


@dataclass(kw_only=True, slots=True)
class SlurmLauncherConfig(LauncherConfig):
    """A job of ``nodes`` × ``tasks_per_node`` ranks, submitted by submitit; the fields have its names.

    ``gres`` asks for devices on each node; by default one for each rank, called as the hardware file says.
    ``signal_delay_s`` before its time is over a job is told to save and is queued again, at most
    ``max_num_timeout`` times; one that is preempted always is. What has no field here is set as Hydra has
    it, e.g. ``hydra.launcher.setup`` and ``hydra.launcher.additional_parameters``.
    """

    name: str = "slurm"
    nodes: int = 1
    tasks_per_node: int = 1
    timeout_min: int = 60
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    signal_delay_s: int = 120
    max_num_timeout: int = 10
    array_parallelism: int = 256

    def __post_init__(self) -> None:
        _at_least(1, nodes=self.nodes, tasks_per_node=self.tasks_per_node, timeout_min=self.timeout_min)
        _at_least(0, signal_delay_s=self.signal_delay_s, max_num_timeout=self.max_num_timeout)

    @property
    def num_ranks(self) -> int:
        """The tasks of all nodes."""
        return self.nodes * self.tasks_per_node

    @property
    def submits(self) -> bool:
        """Always."""
        return True


@dataclass(kw_only=True, slots=True)
class RayLauncherConfig(LauncherConfig):
    """``processes`` workers of a Ray cluster, each with ``cpus_per_process`` cores and one device.

    ``address`` is the cluster's; "" starts one on this machine. A run whose worker failed is started again,
    from its newest checkpoint, at most ``max_restarts`` times.
    """

    name: str = "ray"
    processes: int = 1
    cpus_per_process: int = 1
    max_restarts: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        _at_least(1, processes=self.processes, cpus_per_process=self.cpus_per_process)
        _at_least(0, max_restarts=self.max_restarts)

    @property
    def num_ranks(self) -> int:
        """The workers."""
        return self.processes

    @property
    def starts_ranks(self) -> bool:
        """Always: even a single rank is a worker of the cluster."""
        return True


def device_request(resource: str, count: int) -> str | None:
    """Return Slurm's ``gres`` for ``count`` devices of a kind; none where schedulers do not count them."""
    return f"{resource}:{count}" if resource else None


def _at_least(minimum: int, **fields: int) -> None:
    for name, value in fields.items():
        if value < minimum:
            raise ConfigError(f"launcher.{name}={value}; use {minimum} or more")
