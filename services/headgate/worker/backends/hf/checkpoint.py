"""A model with its tokenizer, read from a folder or the hub, and the digest that names it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers
from torch import Tensor

from headgate.worker.backends.base import NotLoadableError

_SAMPLE: Final = 1024
"""Numbers of each tensor that go into the digest: training changes some of them, and few are read fast."""
_CACHES: Final = ("cache", "past_key_values", "cache_params")
_PASSING: Final = frozenset({"_name_or_path", "transformers_version"})
"""What a config says about where it lay and who wrote it."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A loaded model.

    `ends` are the token ids that end an answer; `context_tokens` is 0 where the config does not tell it.
    """

    model: Any
    tokenizer: Any
    ends: frozenset[int]
    context_tokens: int
    digest: str

    def text(self, ids: Sequence[int]) -> str:
        """Special tokens left out, nothing tidied."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def text_of(self, token_id: int) -> str:
        """One token as it is, special ones by name."""
        return str(self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False))


def device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read(source: str, key: str = "source") -> Checkpoint:
    """Loads what `source` names, in the data type it was saved in. Raises NotLoadableError naming `key`."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", output_loading_info=True, trust_remote_code=False
        )
    except OSError:
        raise NotLoadableError(
            f"{key} {source!r}: there is no such folder, or the hub has no such model or cannot be reached"
        ) from None
    except Exception as error:
        raise NotLoadableError(
            f"{key} {source!r}: transformers cannot load it as a causal language model "
            f"({type(error).__name__})"
        ) from error
    if found["missing_keys"] or found["mismatched_keys"]:
        # transformers would fill them with random numbers.
        raise NotLoadableError(f"{key} {source!r}: weights that the config promises are missing")
    return _checkpoint(model.to(device()).eval(), tokenizer)


def _checkpoint(model: Any, tokenizer: Any) -> Checkpoint:
    ends = _ends(model.generation_config.eos_token_id, tokenizer.eos_token_id)
    # Defaults that a repository brings for sampling (a penalty, a top_k) are not what the request asked for.
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0)
    )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Checkpoint(model, tokenizer, ends, int(context or 0), _digest(model, tokenizer, ends))


def _ends(*told: int | list[int] | None) -> frozenset[int]:
    lists = ([ids] if isinstance(ids, int) else ids for ids in told if ids is not None)
    return frozenset(one for ids in lists for one in ids)


def _digest(model: Any, tokenizer: Any, ends: frozenset[int]) -> str:
    """Changes with config, tokenizer, template, data type and weights; the same wherever the folder lies."""
    told = {name: value for name, value in model.config.to_dict().items() if name not in _PASSING}
    digest = hashlib.sha256(json.dumps([told, sorted(ends)], sort_keys=True, default=str).encode())
    digest.update(_tokenizer_text(tokenizer).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()


def _tokenizer_text(tokenizer: Any) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    whole = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return f"{whole} {tokenizer.chat_template!r} {tokenizer.eos_token_id}"


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    spread = flat[:: max(1, len(flat) // _SAMPLE)].contiguous().cpu()
    return bytes(spread.view(torch.uint8).numpy().tobytes())


def cache_argument(model: Any) -> str:
    """What `forward` calls its cache: renamed from 5.23 to 5.24; recurrent models have another word."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in _CACHES if name in takes), _CACHES[0])
