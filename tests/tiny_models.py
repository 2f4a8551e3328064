"""Causal language models of some thousand parameters, with tokenizers of their own, made on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
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


def words(count: int, template: str | None = None) -> Any:
    """A tokenizer of `count` words, `w0` on, and three special tokens."""
    vocabulary = {END: 0, PAD: 1, "<|unknown|>": 2} | {f"w{number}": 3 + number for number in range(count)}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=END, pad_token=PAD, unk_token="<|unknown|>"
    )
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


SIZES = {"hidden_size": 32, "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
LAYERS = SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 256, "num_attention_heads": 4}
GROUPED = LAYERS | {"num_key_value_heads": 2, "intermediate_size": 64}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding windows": ("MistralConfig", GROUPED | {"sliding_window": 8}),
    "every other window": ("Gemma2Config", GROUPED | {"sliding_window": 8, "head_dim": 8}),
    "experts": ("MixtralConfig", GROUPED | {"num_local_experts": 4}),
    "positions of its own": ("BloomConfig", SIZES | {"n_layer": 2, "n_head": 4}),
    "slopes for positions": ("FalconConfig", LAYERS | {"alibi": True}),
    "convolutions": ("Lfm2Config", GROUPED | {"layer_types": ["conv", "full_attention"]}),
    "recurrent": ("MambaConfig", SIZES | {"num_hidden_layers": 2, "state_size": 8}),
}
"""Architectures that differ in what they remember and how they count, with random weights."""


def of_kind(kind: str, vocabulary: int) -> Any:
    """One of `KINDS`."""
    name, sizes = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, name)(vocab_size=vocabulary, **sizes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def shaken(model: Any, by: float, seed: int = 1) -> Any:
    """A copy whose weights are off by `by` of their own spread: it agrees often, not always."""
    copied = deepcopy(model)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in copied.parameters():
            if weights.ndim > 1:
                weights += by * weights.std() * torch.randn(weights.shape, generator=chance)
    return copied


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
def taught(answers: tuple[tuple[str, str], ...], system: str = "", merges: int = 200, width: int = 64) -> str:
    """The folder of a model that answers these questions, and was taught nothing else."""
    torch.set_num_threads(1)
    before = f"[system] {system}\n" if system else ""
    texts = [f"{before}[user] {asked}\n[assistant]{answer}{END}" for asked, answer in answers]
    its_tokenizer = tokenizer(texts, merges, CHAT)
    pupil = llama(len(its_tokenizer), width=width, spread=0.08, context=192)
    loss = teach(pupil, its_tokenizer, texts, 150)
    assert loss < 0.3, f"the pupil has not learned its answers: {loss}"
    _FOLDERS.append(TemporaryDirectory(prefix="headgate-hf-"))
    return save(Path(_FOLDERS[-1].name), pupil, its_tokenizer)
