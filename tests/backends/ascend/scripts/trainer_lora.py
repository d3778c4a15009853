"""Fine-tune a tiny random Llama with LoRA adapters by transformers' Trainer, on made-up tokens.

torchrun --nproc-per-node 2 trainer_lora.py LOSSES.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

VOCAB_SIZE = 97


class CountingSequences(Dataset[dict[str, Tensor]]):
    """Sequences in which every token is the one before plus a step that differs by sequence."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = (index + torch.arange(24) * (index % 5 + 1)) % VOCAB_SIZE
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    adapters = LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(LlamaForCausalLM(config), adapters)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=8,
            per_device_train_batch_size=4,
            learning_rate=5e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=CountingSequences())
        trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        Path(sys.argv[1]).write_text(json.dumps({"device": trainer.args.device.type, "losses": losses}))


if __name__ == "__main__":
    main()
