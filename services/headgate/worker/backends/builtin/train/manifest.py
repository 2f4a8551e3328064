"""`manifest.json` beside the weights: what each file is, how it was made and what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headgate.worker.backends.builtin.train.evaluate import USD_PER_CPU_HOUR, Price, Share
from headgate.worker.backends.builtin.train.recipe import Recipe

Manifest = dict[str, Any]
"""Model name to its entry; the keys of an entry are those of `entry` and, once evaluated, of `measured`."""


def read(folder: Path) -> Manifest:
    """The manifest of a folder of weights, empty where there is none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replaces the manifest of a folder of weights."""
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def entry(recipe: Recipe, path: Path, sha256: str, parameters: int, seconds: float) -> Manifest:
    """What is known of a model when it is exported. `seconds` is the wall time of its training."""
    return {
        "file": path.name,
        "sha256": sha256,
        "bytes": path.stat().st_size,
        "parameters": parameters,
        "training_seconds": round(seconds),
        "recipe": asdict(recipe),
    }


def measured(overall: Share, general: Share, special: Share, price: Price, seed: int) -> Manifest:
    """What an evaluation adds: right answers with 95 % intervals, CPU time and price."""
    return {
        "evaluation": {
            "seed": seed,
            "n": overall.n,
            "all": _share(overall),
            "general": _share(general),
            "specialities": _share(special),
        },
        "cpu_us_per_query": round(price.microseconds, 1),
        "price": {
            "input_nanousd": price.input_nanousd,
            "output_nanousd": price.output_nanousd,
            "per_tokens": 1_000_000,
            "usd_per_cpu_hour": USD_PER_CPU_HOUR,
        },
    }


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"right": round(share.mean, 4), "ci95": [round(low, 4), round(high, 4)], "n": share.n}
