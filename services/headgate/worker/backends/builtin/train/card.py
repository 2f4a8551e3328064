"""The model card of the pair, written from the manifest and an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headgate.worker.backends.builtin.train.evaluate import Share, total
from headgate.worker.backends.builtin.worksheets import FAMILIES, LEVELS

Cells = Mapping[tuple[str, int], Share]
Entries = Mapping[str, Mapping[str, Any]]

_PAGE = """\
# Model card: the built-in pair

`builtin:small` and `builtin:large` are two byte-level, decoder-only transformers that answer
*worksheets*: one-line text tasks with one right answer. They are real language models (logits, sampling,
streaming, mistakes), trained from nothing by this project, so that routing can be tested offline. They
are **no assistants**: the worker declines whatever is no worksheet, and nothing measured on them says
anything about other models.

Licence: Apache-2.0, weights and data generator alike. Both files together: {megabytes:.1f} MB, weights in
fp16. Written by `python -m headgate.worker.backends.builtin.train card`; do not edit.

## Measured

On {n:,} fresh worksheets (seed {seed}), none of which was trained on. In brackets: 95 % Wilson intervals.

{overview}

`small` takes {ratio:.1f} times less CPU time per question. The price is CPU time at {rate} USD per core
and hour, shared out over the bytes read and written.

## By family and level

Right answers in %, by level with the number of worksheets. Specialities of `small` are marked with *.

{families}

All families:

{levels}

## Data

{count} families of generated worksheets at {depth} levels; the generator is `worksheets/` in this package.
There is no other data. A question belongs to the training, router or test split by a BLAKE2b hash of its
own text, so no two splits share a question. Families and levels that a model still gets wrong have a larger
share of its training, and a level opens once the one below it is getting somewhere.

## Training

![right answers while training](training_curve.svg)

{training}

`make models` trains both again: seeded, resumable, on a CPU or a GPU. These figures are those of the
shipped files; another training has its own.

## Limits

- Questions in other words, in another language or longer than 64 bytes are outside what was trained.
- Accuracy is exact match on the generator's own distribution, nothing else.
- No question is in two splits, but short ones have near neighbours in training (`12 + 30 = ?` and
  `12 + 31 = ?`).
- One seed was trained. The intervals are about the test questions, not about other seeds.
"""


def render(manifest: Entries, cells: Mapping[str, Cells]) -> str:
    """The card as Markdown. `cells` are the right answers of each model by family and level."""
    small, large = manifest["small"], manifest["large"]
    return _PAGE.format(
        megabytes=sum(entry["bytes"] for entry in manifest.values()) / 1e6,
        n=small["evaluation"]["n"],
        seed=small["evaluation"]["seed"],
        overview=_overview(manifest, cells),
        ratio=large["cpu_us_per_query"] / small["cpu_us_per_query"],
        rate=small["price"]["usd_per_cpu_hour"],
        families=_families(cells),
        levels=_levels(cells),
        count=len(FAMILIES),
        depth=LEVELS,
        training="\n".join(_trained(name, entry) for name, entry in manifest.items()),
    )


def group(cells: Cells, speciality: bool) -> Share:
    """Right answers in the specialities, or in all other families."""
    return total({cell: share for cell, share in cells.items() if FAMILIES[cell[0]].speciality == speciality})


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overview(manifest: Entries, cells: Mapping[str, Cells]) -> str:
    found, entries = cells.values(), manifest.values()
    return _table(
        ["", *manifest],
        [
            ["parameters", *(f"{entry['parameters']:,}" for entry in entries)],
            ["layers × width × heads", *(_shape(entry["recipe"]["shape"]) for entry in entries)],
            ["right, all", *(_share(total(shares)) for shares in found)],
            ["right, general families", *(_share(group(shares, False)) for shares in found)],
            ["right, specialities", *(_share(group(shares, True)) for shares in found)],
            ["CPU time per question", *(f"{entry['cpu_us_per_query'] / 1000:.2f} ms" for entry in entries)],
            ["USD per million tokens read", *(_usd(entry["price"]["input_nanousd"]) for entry in entries)],
            [
                "USD per million tokens written",
                *(_usd(entry["price"]["output_nanousd"]) for entry in entries),
            ],
        ],
    )


def _families(cells: Mapping[str, Cells]) -> str:
    rows = [
        [_title(family), name, *_by_level(shares, family), _share(total(shares, family))]
        for family in FAMILIES
        for name, shares in cells.items()
    ]
    return _table(["family", "model", *(f"level {level}" for level in range(LEVELS)), "all"], rows)


def _title(family: str) -> str:
    kind = FAMILIES[family]
    return f"{family}{'*' if kind.speciality else ''}: {kind.about}"


def _by_level(shares: Cells, family: str) -> list[str]:
    found = [total(shares, family, level) for level in range(LEVELS)]
    return [f"{share.mean * 100:.0f} ({share.n})" if share.n else "–" for share in found]


def _levels(cells: Mapping[str, Cells]) -> str:
    rows = [
        [name, *(_share(total(shares, level=level)) for level in range(LEVELS))]
        for name, shares in cells.items()
    ]
    return _table(["model", *(f"level {level}" for level in range(LEVELS))], rows)


def _trained(name: str, entry: Mapping[str, Any]) -> str:
    recipe = entry["recipe"]
    return (
        f"- `{name}`: seed {recipe['seed']}, {recipe['batch']} worksheets a step, "
        f"{'; then '.join(map(_stage, recipe['stages']))}. "
        f"{entry['training_seconds'] / 60:.0f} minutes of wall time. "
        f"{entry.get('note', '')}"
    ).rstrip()


def _stage(stage: Mapping[str, Any]) -> str:
    emphasis = ", ".join(f"{family} × {factor:g}" for family, factor in stage["emphasis"].items())
    smaller = f" as {_shape(stage['shape'])}" if stage["shape"] else ""
    return (
        f"{stage['steps']:,} steps{smaller} with Muon at {stage['muon_rate']} for the matrices and AdamW at "
        f"{stage['adam_rate']} for the rest, constant, then a cosine (in the mix: {emphasis})"
    )


def _shape(shape: Mapping[str, int]) -> str:
    return f"{shape['layers']} × {shape['width']} × {shape['heads']}"


def _usd(nano: int) -> str:
    return f"{nano / 1e9:.6f}"


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{share.mean * 100:.1f} % ({low * 100:.1f}–{high * 100:.1f})" if share.n else "–"
