"""What leaves the chain is a Hugging Face folder: transformers computes what we compute."""

import torch

from portable.core.record import Message
from portable.kernel.registry import KernelSet
from portable.model.chat import render_prompt
from portable.model.tokenizer import Tokenizer
from portable.model.weights import load_model


def test_transformers_gives_the_same_logits(mini) -> None:
    from transformers import AutoModelForCausalLM

    folder = mini.artefact("export")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours, config = load_model(folder, KernelSet("cpu", "fp32"), torch.float32, torch.device("cpu"))
    ids = torch.randint(0, config.vocab_size, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs(ids).logits
        got = ours.logits(ours(ids, torch.arange(40).expand(3, 40)))
    assert (wanted - got).abs().max() < 1e-5


def test_transformers_reads_the_tokenizer_and_its_template(mini) -> None:
    from transformers import AutoTokenizer

    folder = mini.artefact("export")
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    text = "str.join(iterable): 12 + 7 = 19, naïve — 中文\n\tdef f(x): ..."
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    turns = [{"role": "user", "content": "3+4="}]
    wanted = theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert list(wanted) == render_prompt(ours, [Message("user", "3+4=")])


def test_the_exported_weights_are_the_tuned_ones(mini) -> None:
    (rl, export) = (mini.artefact(name) / "model.safetensors" for name in ("rl", "export"))
    from safetensors.torch import load_file

    tuned, exported = load_file(rl), load_file(export)
    assert tuned.keys() == exported.keys()
    assert all(torch.equal(tuned[name], exported[name]) for name in tuned)
