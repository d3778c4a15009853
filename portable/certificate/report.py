"""The certificate as text, and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from portable.certificate.certify import Verdict
from portable.certificate.measure import Line
from portable.certificate.shrink import Trial
from portable.job.environment import describe_device, git_revision, package_versions
from portable.model.config import ModelConfig
from portable.parallel.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Certificate:
    """A verdict and its circumstances."""

    verdict: Verdict
    trial: Trial
    asked: ModelConfig
    circumstances: dict[str, Any]  # Any: JSON values

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return everything."""
        verdict = self.verdict
        return {
            "agrees": verdict.agrees,
            "lines": [asdict(line) | {"agrees": line.agrees} for line in verdict.lines],
            "departure": None if verdict.departure is None else asdict(verdict.departure),
            "model": _sizes(self.trial.model),
            "asked_model": _sizes(self.asked),
            "computed_by": "portable" if self.trial.foreign is None else "transformers",
            **self.circumstances,
        }

    def __str__(self) -> str:
        """Return a page."""
        facts, verdict = self.circumstances, self.verdict
        width = max(len(line.what) for line in verdict.lines)
        rows = [
            f"  {line.what:<{width}}  {_difference(line):>18}  {line.bar:8.1e}  {_word(line)}"
            for line in verdict.lines
        ]
        head = [
            f"Parity certificate, {facts['date']}",
            f"  layout     {facts['layout']}, strategy={facts['strategy']}, {facts['precision']}",
            f"  processes  {facts['world_size']} on {facts['hardware']} ({facts['device']['name']}), "
            "against one of them alone",
            f"  model      {self._computes}{_describe(self.trial.model)}",
        ]
        if self.trial.model != self.asked:
            head.append(f"             in the place of {_describe(self.asked)}")
        head += [
            f"  step       {facts['micro_batches']} micro-batches of {self.trial.rows} rows of "
            f"{self.trial.seq_len} tokens for each of {facts['readers']} readers",
            f"  versions   portable {facts['versions'].get('portable-llm', '')}, torch "
            f"{facts['versions']['torch']}, revision {facts['git_revision']}",
            "",
            f"  {'what':<{width}}  {'largest difference':>18}  {'bar':>8}  verdict",
        ]
        return "\n".join([*head, *rows, "", *self._conclusion()])

    @property
    def _computes(self) -> str:
        foreign = self.trial.foreign
        return "" if foreign is None else f"{foreign['model_type']}, computed by transformers; "

    def _conclusion(self) -> list[str]:
        verdict = self.verdict
        if verdict.agrees:
            rest = "" if all(line.compared for line in verdict.lines) else ", as far as it was compared"
            return [f"The layout computes what one process computes{rest}."]
        if verdict.departure is None:
            if self.trial.foreign is not None:
                return ["The layout departs; modules of transformers are not searched, its gradients agree."]
            return [
                "The layout departs, but in its first step no module does nor any gradient "
                f"({verdict.num_compared} calls compared): look at the loss's normalisation, the update and "
                "the scores."
            ]
        return [f"The layout departs. First: {verdict.departure}"]


def make_certificate(verdict: Verdict, trial: Trial, asked: ModelConfig, runtime: Runtime) -> Certificate:
    """Return a verdict with the circumstances of this process."""
    circumstances = {
        "date": datetime.now(UTC).date().isoformat(),
        "layout": str(runtime.mesh.layout),
        "strategy": runtime.strategy,
        "precision": runtime.precision.name,
        "parallel": asdict(runtime.parallel),
        "world_size": runtime.group.size,
        "readers": runtime.readers.size,
        "micro_batches": trial.num_micro_batches,
        "rows": trial.rows,
        "seq_len": trial.seq_len,
        "hardware": runtime.hardware.name,
        "device": describe_device(runtime.device.name),
        "versions": package_versions(),
        "git_revision": git_revision(),
    }
    return Certificate(verdict, trial, asked, circumstances)


def _difference(line: Line) -> str:
    return f"{line.difference:.1e}" if line.compared else "-"


def _word(line: Line) -> str:
    where = f" ({line.of}, rank {line.rank})" if line.of else ""
    if not line.compared:
        return "not compared"
    return "agrees" if line.agrees else f"DEPARTS{where}"


def _sizes(model: ModelConfig) -> dict[str, Any]:  # Any: JSON values
    sizes = asdict(model)
    sizes["rope"]["scaling"] = model.rope.scaling.name
    if model.moe is not None:
        sizes["moe"]["gate"] = model.moe.gate.name
    return sizes


def _describe(model: ModelConfig) -> str:
    kind = [f"{model.num_layers} layers", f"hidden {model.hidden_size}", f"vocabulary {model.vocab_size}"]
    kind.append(f"{model.num_heads} heads ({model.num_kv_heads} of keys and values)")
    kind.append("tied" if model.tie_embeddings else "not tied")
    if model.mla is not None:
        kind.append("latent attention")
    if model.moe is not None:
        kind.append(f"{model.moe.num_experts} experts from layer {model.moe.first_dense_layers}")
    if model.mtp is not None:
        kind.append(f"{model.mtp.num_layers} further tokens")
    return ", ".join(kind)
