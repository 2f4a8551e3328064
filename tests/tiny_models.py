"""Causal language models of some thousand parameters, with tokenizers of their own, made on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, PAD = "<|end|>", "<|pad|>"
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(corpus: Iterable[str] = (), merges: int = 0, template: str | None = None) -> Any:
    """A byte-level BPE tokenizer: 256 bytes, two special tokens, at most `merges` pieces of `corpus`."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(corpus, trainer)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=END, pad_token=PAD)
    made.chat_template = template
    return made


def llama(vocabulary: int, seed: int = 0, *, width: int = 32, spread: float = 0.4, context: int = 256) -> Any:
    """Random weights; the larger `spread`, the surer the model of what it says."""
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
            initializer_range=spread, bos_token_id=None, eos_token_id=0, pad_token_id=1,
        )
    ).eval()  # fmt: skip


def gpt2(vocabulary: int, seed: int = 0, *, width: int = 32, spread: float = 0.4, context: int = 256) -> Any:
    """The same with learned positions."""
    torch.manual_seed(seed)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=4, n_positions=context,
            initializer_range=spread, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        )
    ).eval()  # fmt: skip


def save(folder: Path, model: Any, its_tokenizer: Any) -> str:
    """Writes both as a folder that `source` can name."""
    model.save_pretrained(folder)
    its_tokenizer.save_pretrained(folder)
    return str(folder)


def teach(model: Any, its_tokenizer: Any, texts: Sequence[str], steps: int, rate: float = 3e-3) -> float:
    """Trains until the texts are known by heart; returns the last loss in nats per token."""
    ids = its_tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        loss = model(**ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    return float(loss.detach())


_FOLDERS: list[TemporaryDirectory[str]] = []
"""Kept until the interpreter ends; then they go."""


@cache
def taught(answers: tuple[tuple[str, str], ...], system: str) -> str:
    """The folder of a model that answers these questions, and was taught nothing else."""
    torch.set_num_threads(1)
    texts = [f"[system] {system}\n[user] {asked}\n[assistant]{answer}{END}" for asked, answer in answers]
    words = tokenizer(texts, 200, CHAT)
    pupil = llama(len(words), width=64, spread=0.08, context=192)
    loss = teach(pupil, words, texts, 150)
    assert loss < 0.3, f"the pupil has not learned its answers: {loss}"
    _FOLDERS.append(TemporaryDirectory(prefix="headgate-hf-"))
    return save(Path(_FOLDERS[-1].name), pupil, words)
