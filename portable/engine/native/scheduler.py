"""Continuous batching: sequences join when a slot is free and leave when they are done.

One ``advance`` is one pass of the model: the prompts of those who join, or one token of everybody who runs.
Joining goes first, since a full batch is what makes a pass worth its cost.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from portable.device.protocol import Device, Dtype
from portable.engine.config import NativeEngineConfig
from portable.engine.native.cache import DecodeView, PrefillView, SlotCache
from portable.engine.native.sampler import SamplingRows, draw
from portable.engine.request import Progress, Request
from portable.engine.sequence import Sequence as Running
from portable.kernel.registry import KernelSet
from portable.model.decoder import Decoder

_MIN_POSITIONS = 16


class Scheduler:
    """The running and the waiting sequences of one session, and their cache."""

    def __init__(
        self,
        model: Decoder,
        config: NativeEngineConfig,
        kernels: KernelSet,
        device: Device,
        torch_device: torch.device,
        dtype: Dtype,
    ) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.torch_device = torch_device
        self.dtype = dtype
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []  # position in this list = slot in the cache
        self.cache = SlotCache(model.config.num_layers, torch_device)
        heads: dict[str, Any] = {  # Any: facts mix numbers, words and flags
            "head_dim": model.config.head_dim,
            "num_heads": model.config.num_heads,
            "num_kv_heads": model.config.num_kv_heads,
        }
        self._attention = kernels.pick("attention", **heads)
        self._decode_attention = kernels.pick("decode_attention", **heads)
        self._top_k_top_p = kernels.pick("top_k_top_p", vocab_size=model.config.vocab_size)

    @property
    def num_pending(self) -> int:
        """Sequences that are not finished."""
        return len(self.waiting) + len(self.running)

    def add(self, sequence: Running) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def cancel(self, key: int) -> None:
        """Forget the sequence ``key``, if it still exists."""
        self.waiting = deque(item for item in self.waiting if item.key != key)
        self._leave([slot for slot, item in enumerate(self.running) if item.key == key])

    def advance(self) -> list[Running]:
        """Run one pass and return the sequences that got a token by it."""
        was_training = self.model.training
        self.model.eval()
        # no_grad and not inference_mode: the weights are the trainer's and must still meet autograd.
        with torch.no_grad(), self.device.autocast(self.dtype):
            touched = self._admit()
            logits_NV = self._prefill(touched) if touched else self._decode()
            touched = touched or list(self.running)
            rows = SamplingRows.of(
                [item.request for item in touched], [len(item.steps) for item in touched], self.torch_device
            )
            steps = draw(logits_NV, rows, self._top_k_top_p)
        self.model.train(was_training)
        for sequence, step in zip(touched, steps, strict=True):
            sequence.take(step)
        self._leave([slot for slot, item in enumerate(self.running) if item.finish_reason is not None])
        return touched

    def _admit(self) -> list[Running]:
        """Move waiting sequences to free slots, as many as one pass may hold."""
        joining: list[Running] = []
        num_tokens = 0
        longest = max((item.num_needed for item in self.running), default=0)
        while self.waiting and len(self.running) < self.config.max_batch_size:
            head = self.waiting[0]
            num_tokens += len(head.request.prompt_ids)
            longest = max(longest, head.num_needed)
            if joining and num_tokens > self.config.max_prefill_tokens:
                break
            if self.running and (len(self.running) + 1) * longest > self.config.max_cache_tokens:
                break
            joining.append(self.waiting.popleft())
            self.running.append(head)
        if joining:
            self._reserve(max(len(item.request.prompt_ids) for item in joining))
        return joining

    def _reserve(self, num_positions: int) -> None:
        """Make room for what is there, doubling: an answer without a limit seldom fills the context."""
        num_rows = min(_power_of_two(len(self.running)), self.config.max_batch_size)
        num_positions = max(_power_of_two(num_positions), _MIN_POSITIONS)
        self.cache.reserve(num_rows, min(num_positions, self.model.config.max_seq_len))

    def _prefill(self, joining: Sequence[Running]) -> Tensor:
        """Read the prompts of ``joining`` (the last slots); return their next-token logits (N, V)."""
        starts: dict[tuple[int, ...], int] = {}
        ids: list[int] = []
        positions: list[int] = []
        for sequence in joining:
            prompt = sequence.request.prompt_ids
            if prompt not in starts:  # equal prompts, e.g. the samples of an RL group, are computed once
                starts[prompt] = len(ids)
                ids.extend(prompt)
                positions.extend(range(len(prompt)))
        source: list[int] = []
        rows: list[int] = []
        places: list[int] = []
        first_slot = len(self.running) - len(joining)
        for slot, sequence in enumerate(joining, start=first_slot):
            size = len(sequence.request.prompt_ids)
            start = starts[sequence.request.prompt_ids]
            source.extend(range(start, start + size))
            rows.extend([slot] * size)
            places.extend(range(size))
        view = PrefillView(
            cache=self.cache,
            attention=self._attention,
            cu_seqlens=self._tensor([*starts.values(), len(ids)], torch.int32),
            source=self._tensor(source),
            rows=self._tensor(rows),
            positions=self._tensor(places),
        )
        hidden_BTD = self.model(self._tensor([ids]), self._tensor([positions]), cache=view)
        last = [starts[item.request.prompt_ids] + len(item.request.prompt_ids) - 1 for item in joining]
        unique = {index: row for row, index in enumerate(dict.fromkeys(last))}
        logits_UV = self.model.logits(hidden_BTD[0][self._tensor(list(unique))])
        return logits_UV[self._tensor([unique[index] for index in last])]

    def _decode(self) -> Tensor:
        """Read the newest token of every running sequence; return next-token logits (B, V)."""
        positions = [item.num_cached for item in self.running]
        self._reserve(max(positions) + 1)
        positions_B = self._tensor(positions)
        rows_B = torch.arange(len(positions), device=self.torch_device)
        view = DecodeView(self.cache, self._decode_attention, rows_B, positions_B, max(positions) + 1)
        newest_BT = self._tensor([[item.steps[-1].token_id] for item in self.running])
        hidden_BTD = self.model(newest_BT, positions_B[:, None], cache=view)
        return self.model.logits(hidden_BTD[:, 0])

    def _leave(self, slots: Sequence[int]) -> None:
        """Free ``slots``; the last sequences move into the holes, so that the first slots run."""
        if not slots:
            return
        gone = set(slots)
        num_left = len(self.running) - len(slots)
        holes = [slot for slot in slots if slot < num_left]
        movers = [slot for slot in range(num_left, len(self.running)) if slot not in gone]
        self.cache.move(movers, holes)
        for mover, hole in zip(movers, holes, strict=True):
            self.running[hole] = self.running[mover]
        del self.running[num_left:]

    def _tensor(self, values: object, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(self.torch_device)


class NativeSession:
    """A ``Session`` over one scheduler: requests come and go while others run."""

    def __init__(self, scheduler: Scheduler, make: Callable[[int, Request], Running]) -> None:
        self._scheduler = scheduler
        self._make = make

    @property
    def num_pending(self) -> int:
        """Requests that are not finished."""
        return self._scheduler.num_pending

    def add(self, key: int, request: Request) -> None:
        """Queue ``request``; its news carry ``key``. Raises: DataError if the prompt does not fit."""
        self._scheduler.add(self._make(key, request))

    def cancel(self, key: int) -> None:
        """Forget a request; its slot is free at once."""
        self._scheduler.cancel(key)

    def step(self) -> list[Progress]:
        """Run the model once and return what is new; nothing pending gives nothing."""
        if self._scheduler.num_pending == 0:
            return []
        return [sequence.progress() for sequence in self._scheduler.advance()]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
