"""A causal language model of ``transformers`` with the calling convention of a decoder.

Shapes: B rows, T tokens, N tokens of all rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.errors import CapabilityError, ConfigError, ShapeError
from portable.kernel.registry import KernelSet
from portable.model.head import HeadedModel
from portable.model.hf.attention import add_cores
from portable.model.hf.experts import replace_experts
from portable.model.hf.part import OwnHead, StageLayers, as_it_is, twin_of
from portable.model.hf.settings import HfSettings


@dataclass(frozen=True, slots=True)
class Places:
    """Where in the tree of a model its parts are; ``norm`` is empty where its family does not tell."""

    base: str
    embed: str
    blocks: str
    norm: str
    head: str


class HfDecoder(HeadedModel):
    """``lm`` (any ``AutoModelForCausalLM``) under the names of its own parameters, called as a decoder is.

    Its code runs as it stands; only attention (see ``attend``), experts (see ``Experts``) and the head are
    ours. A head that does more than multiply by a matrix is left to the model's code, which keeps all logits.
    A head tied to the embedding is no parameter.

    ``first`` and ``last`` are those of a decoder's pipeline stage, see ``keep_stage``.
    Raises: CapabilityError for a model that does not attend through the registry of transformers.
    """

    # Any: a PreTrainedModel, whose module takes seconds to import
    def __init__(self, lm: Any, kernels: KernelSet) -> None:
        settings = HfSettings.of(lm.config.get_text_config())
        super().__init__(kernels, settings.vocab_size)
        self.settings = settings
        self.first = self.last = True
        kind = type(lm).__name__
        if settings.has_router_loss:
            raise CapabilityError(
                f"the config.json of this {kind} asks for its auxiliary loss (output_router_logits=true), "
                "which is not built in; set it to false"
            )
        base: nn.Module = lm.base_model
        cores = add_cores(base, settings, kernels)
        if not cores or not lm._supports_attention_backend:
            raise CapabilityError(
                f"a {kind} does not attend through transformers' registry of attention functions, so "
                "documents in a row cannot be kept apart; use another model"
            )
        replace_experts(base, settings.top_k, kernels)
        self.places = _places(lm, cores[0], settings.pipeline_plan)
        self.num_layers = len(self.get_from(lm, self.places.blocks))
        head: nn.Module | None = lm.get_output_embeddings()
        self.tied = head is None or head.weight is self.get_from(lm, self.places.embed).weight
        for name, child in lm.named_children():
            if not (self.tied and name == self.places.head):
                self.add_module(name, child)
        own = OwnHead(lm, self.places.base, self.places.head)
        self._own_head = None if own.is_plain(settings.hidden_size) else own

    def forward(
        self,
        inputs: Tensor,
        position_ids_BT: Tensor,
        cu_seqlens: Tensor | None = None,
        targets: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return what ``Decoder.forward`` does: hidden_BTD, or with ``targets`` (B, T) their
        log-probabilities (B, T), float32.

        Raises: ShapeError if positions or targets have another shape than the ids.
        """
        for name, ids in (("position_ids", position_ids_BT), ("targets", targets)):
            if ids is not None and inputs.ndim == 2 and ids.shape != inputs.shape:
                raise ShapeError(
                    f"{type(self._base).__name__}: {name} have shape {tuple(ids.shape)}, input_ids "
                    f"{tuple(inputs.shape)}; they need one shape"
                )
        hidden_BTD = self._base(
            **{"input_ids" if self.first else "inputs_embeds": inputs},
            position_ids=position_ids_BT,
            use_cache=False,
            cu_seqlens=cu_seqlens,
        ).last_hidden_state
        if targets is None or not self.last:
            return hidden_BTD
        return self.token_log_probs(hidden_BTD, targets, temperature)

    @property
    def embedding_name(self) -> str:
        """The name of the embedding."""
        return self.places.embed

    @property
    def has_plain_head(self) -> bool:
        """Whether logits are hidden states times a matrix, and nothing more."""
        return self._own_head is None

    @property
    def head_weight_VD(self) -> Tensor:  # noqa: N802 - the suffix is the shape
        """The output matrix: the embedding's own where they are tied."""
        matrix = self.get_from(self, self.places.embed if self.tied else self.places.head)
        if matrix is None:
            raise ShapeError("this pipeline stage has no head; ask the last one")
        return matrix.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden (..., D), in its number format."""
        if self._own_head is None:
            return super().logits(hidden)
        head = None if self.tied else self.get_from(self, self.places.head)
        return self._own_head(hidden, head, self.head_weight_VD)

    def token_log_probs(self, hidden_BTD: Tensor, targets_BT: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log p(target) for each hidden state, (B, T), float32; 0 for a negative target."""
        if self._own_head is None:
            return super().token_log_probs(hidden_BTD, targets_BT, temperature)
        if self.z_loss_coef:
            raise ConfigError(
                f"z_loss={self.z_loss_coef} needs a head that is a matrix and nothing more, which "
                f"{type(self._base).__name__} has not; use z_loss=0"
            )
        log_probs_BTV = (self.logits(hidden_BTD).float() / temperature).log_softmax(-1)
        chosen_BT = log_probs_BTV.gather(-1, targets_BT.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return chosen_BT.masked_fill(targets_BT < 0, 0.0)

    def block_names(self) -> list[str]:
        """Return the numbers of the layers that can be divided over pipeline stages.

        Raises: CapabilityError if its code does something between embedding, layers and norm, which every
        stage would do again; found out by trying.
        """
        if not self.places.norm or not self._lets_pass():
            raise CapabilityError(
                f"the code of {type(self._base).__name__} does more than embedding, layers and norm, so it "
                "cannot be cut into pipeline stages; use parallel.pipeline_parallel_degree=1"
            )
        return [str(index) for index in range(self.num_layers)]

    def shell(self) -> HfDecoder:
        """Return another module with the same children, which ``keep_stage`` may take out of it."""
        twin = twin_of(self, {})
        setattr(twin, self.places.base, twin_of(self._base, {}))
        return twin

    def keep_stage(self, kept: Sequence[str], *, first: bool, last: bool) -> None:
        """Keep the layers ``kept``, the embedding for the first stage, norm and head for the last.

        The last keeps the embedding if its head is tied.
        """
        self.first, self.last = first, last
        layers = self.get_from(self, self.places.blocks)
        stage = StageLayers({name: layers.get_submodule(name) for name in kept}, self.num_layers)
        self._put(self.places.blocks, stage)
        if not (first or (last and self.tied)):
            self._put(self.places.embed, None)
        if not last:
            self._let_pass(self.places.norm)
            if not self.tied:
                self._put(self.places.head, None)

    @staticmethod
    def get_from(model: nn.Module, place: str) -> Any:  # Any: the module there, or None
        """Return what stands at ``place`` in the tree of ``model``."""
        for word in place.split("."):
            model = getattr(model, word)
        return model

    @property
    def _base(self) -> nn.Module:
        return self.get_submodule(self.places.base)

    def _put(self, place: str, module: nn.Module | None) -> None:
        holder, _, word = place.rpartition(".")
        setattr(self.get_submodule(holder), word, module)

    def _let_pass(self, place: str) -> None:
        """Put a function there, not a module: whoever looks for the module must not find one."""
        holder, _, word = place.rpartition(".")
        delattr(self.get_submodule(holder), word)
        setattr(self.get_submodule(holder), word, as_it_is)

    def _lets_pass(self) -> bool:
        """Return whether a stage without layers returns the hidden states that it is given."""
        twin = self.shell()
        twin.keep_stage((), first=False, last=False)
        device = next((buffer.device for buffer in self.buffers()), torch.device("cpu"))
        size = self.settings.hidden_size
        hidden_BTD = torch.arange(2.0 * size, device=device).sin().view(1, 2, size)
        position_ids_BT = torch.arange(2, device=device).unsqueeze(0)
        with torch.no_grad():
            return torch.equal(twin(hidden_BTD, position_ids_BT), hidden_BTD)


def _places(lm: Any, core: str, plan: Mapping[str, Any]) -> Places:  # Any: see HfDecoder and HfSettings
    """Find the parts; ``core`` is the name of one attention module inside the base model."""
    base = lm.base_model
    prefix: str = lm.base_model_prefix
    head = lm.get_output_embeddings()
    names = {module: name for name, module in base.named_modules()}
    blocks = next(name for name, module in base.named_modules() if _holds(module, name, core))
    return Places(
        base=prefix,
        embed=f"{prefix}.{names[base.get_input_embeddings()]}",
        blocks=f"{prefix}.{blocks}",
        norm=f"{prefix}.{list(plan)[-1]}" if blocks in plan and list(plan)[-1] != blocks else "",
        head="" if head is None else next(name for name, module in lm.named_modules() if module is head),
    )


def _holds(module: nn.Module, name: str, core: str) -> bool:
    return isinstance(module, nn.ModuleList) and core.startswith(f"{name}.")
