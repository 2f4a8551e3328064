"""The table of words for `headgate.router.embedding`, read off a sentence encoder: `make words`.

model2vec's recipe (Minish, 2024): every word of the vocabulary goes through the encoder on its own, the
outputs of its tokens are averaged, the averages are projected on their principal directions, and each word
weighs the more the rarer it is. Beside its vector a word carries two bits: whether it is mostly a name,
counted in public questions and, where they do not have it, guessed from its vector; and whether it is the
negative of another word. Single words are all that is kept of any text.

Torch, transformers and tokenizers are needed; two cores take a minute or two.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router import lexicon
from headgate.router.embedding import SCHEMA
from headgate.router.guards import NAME, NEGATIVE, WORD

DIM = 128
SEED = 1
LEAST_COUNT = 8
"""A word outside the encoder's own vocabulary is taken if the public questions have it so often."""
EVERYDAY = Path(__file__).with_name("everyday.txt")
_WORD = re.compile(r"[A-Za-z]+")
_LOWER = re.compile(r"[a-z]+")
_INSIDE = re.compile(r"(?<=[a-z,] )([A-Z][a-z]+|[a-z]+)\b(?![.']?[A-Z])")
"""A word behind another one: where a capital is no start of a sentence."""
_COUNTED = 4
"""Occurrences inside sentences that are enough to count."""
_NAME_SHARE = 0.6
_GUESSED = 0.8
_NEGATING = ("un", "in", "im", "ir", "il", "dis", "non")
_RELATED = 0.45
"""Least cosine of a word and its negative; that of "under" and "der" is less."""
_LEAST_BASE = 4
_BATCH = 512
_RANK_OFFSET = 300.0

_Array = NDArray[np.float32]


def texts(folder: Path) -> Iterator[str]:
    """The public questions."""
    csv.field_size_limit(10**9)
    for path in sorted(folder.glob("*.queries.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield from (row[name] for name in ("query", "turn2") if row.get(name))


def counts(corpus: Sequence[str]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How often each word occurs, occurs inside sentences, and does so with a capital."""
    seen: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for text in corpus:
        seen.update(word.lower() for word in _WORD.findall(text))
        found = _INSIDE.findall(text)
        inside.update(word.lower() for word in found)
        capital.update(word.lower() for word in found if word[0].isupper())
    return seen, inside, capital


def vocabulary(encoder: Path, seen: Counter[str]) -> list[str]:
    """The encoder's whole words in its order, about that of their frequency; then others, sorted."""
    own = (encoder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [word for word in own if _LOWER.fullmatch(word)]
    known, everyday = set(words), EVERYDAY.read_text(encoding="utf-8").split()
    often = [word for word, count in seen.items() if count >= LEAST_COUNT and len(word) > 1]
    marked = [word for word in (*lexicon.OPPOSITES, *lexicon.TASKS, *lexicon.UNITS) if _LOWER.fullmatch(word)]
    return words + sorted({*everyday, *often, *marked} - known)


def encode(encoder: Path, words: Sequence[str]) -> _Array:
    """(n, width): the mean of the encoder's outputs over each word's tokens."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    tokenizer: Any = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model: Any = AutoModel.from_pretrained(encoder).eval()
    tokens = [tokenizer.encode(word).ids for word in words]
    by_length = sorted(range(len(words)), key=lambda place: len(tokens[place]))
    out = np.zeros((len(words), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(words), _BATCH):
            batch = by_length[start : start + _BATCH]
            longest = max(len(tokens[place]) for place in batch)
            ids = torch.tensor([tokens[place] + [0] * (longest - len(tokens[place])) for place in batch])
            mask = torch.tensor(
                [[1] * len(tokens[place]) + [0] * (longest - len(tokens[place])) for place in batch]
            )
            states = model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
            kept = mask.unsqueeze(-1).float()
            out[batch] = ((states.last_hidden_state * kept).sum(1) / kept.sum(1)).numpy()
    return out


def weights(words: Sequence[str]) -> _Array:
    """(n,): the rarer the heavier, by the rank in the vocabulary (Zipf); function words weigh little."""
    rank = np.arange(len(words), dtype=np.float32)
    weight = np.log1p(rank / _RANK_OFFSET) + 0.5
    weight[[word in lexicon.FUNCTION_WORDS for word in words]] *= 0.05
    return np.asarray(weight / weight.max(), dtype=np.float32)


def directions(raw: _Array, dim: int) -> _Array:
    """(n, dim) of the centred rows of length 1, on their first principal directions."""
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    kept = vectors[:, ::-1][:, :dim]
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(dim)])
    turned = centred @ kept
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True), dtype=np.float32)


def names(
    words: Sequence[str], raw: _Array, inside: Counter[str], capital: Counter[str]
) -> NDArray[np.bool_]:
    """(n,): whether each word is mostly a name."""
    from sklearn.linear_model import LogisticRegression

    often = np.array([inside[word] >= _COUNTED for word in words])
    share = np.array([capital[word] / max(inside[word], 1) for word in words])
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    guess = LogisticRegression(C=10.0, max_iter=1000, random_state=SEED).fit(
        unit[often], share[often] > _NAME_SHARE
    )
    guessed = guess.predict_proba(unit)[:, 1] > _GUESSED
    common = np.array([word in lexicon.FUNCTION_WORDS for word in words])
    return np.asarray(np.where(often, share > _NAME_SHARE, guessed) & ~common)


def negatives(words: Sequence[str], raw: _Array) -> NDArray[np.bool_]:
    """(n,): whether each word is a prefix that negates, and another word that it is close to."""
    places = {word: place for place, word in enumerate(words)}
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def negative(word: str) -> bool:
        bases = (word.removeprefix(prefix) for prefix in _NEGATING if word.startswith(prefix))
        found = (places[base] for base in bases if len(base) >= _LEAST_BASE and base in places)
        return any(unit[place] @ unit[places[word]] > _RELATED for place in found)

    return np.array([negative(word) for word in words])


def pack(path: Path, words: Sequence[str], vectors: _Array, flags: NDArray[np.uint8]) -> None:
    """Writes the table: each row as int8 with a scale of its own."""
    scales = np.abs(vectors).max(axis=1) / 127
    np.savez_compressed(
        path,
        schema=np.array(SCHEMA),
        words=np.frombuffer("\n".join(words).encode(), dtype=np.uint8),
        rows=np.rint(vectors / scales[:, None]).astype(np.int8),
        scales=scales.astype(np.float32),
        known=flags,
    )


def make(encoder: Path, folder: Path, out: Path) -> None:
    """Builds the table from an encoder's folder and the folder of public questions."""
    seen, inside, capital = counts(list(texts(folder)))
    words = vocabulary(encoder, seen)
    raw = encode(encoder, words)
    name, negative = names(words, raw, inside, capital), negatives(words, raw)
    flags = WORD + NAME * name.astype(np.uint8) + NEGATIVE * negative.astype(np.uint8)
    pack(out, words, directions(raw, DIM) * weights(words)[:, None], flags.astype(np.uint8))
    print(
        f"{len(words):,} words, {name.sum():,} of them names, {negative.sum():,} negatives", file=sys.stderr
    )


def main(arguments: Sequence[str]) -> int:
    """Writes the table; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("encoder", type=Path, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("folder", type=Path, help="the public questions")
    parser.add_argument("out", type=Path, help="where the table is written")
    flags = parser.parse_args(arguments)
    make(flags.encoder, flags.folder, flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
