"""The bundle: one checksummed artifact with everything a decision needs, bytes in and bytes out.

    magic line · SHA-256 of the rest (32 bytes) · length of the manifest (8 bytes, big-endian)
    · manifest · parts, each packed by zlib

The manifest is canonical JSON: schema versions, models with calibrators and costs, policy, certificates,
where each part lies. Parts: the ONNX graph, what the training data was like, and golden vectors, feature
arrays (drawn, not taken from any text) with the output they must give on this machine. Equal contents give
equal bytes. Paths are the caller's business.
"""

from __future__ import annotations

import copy
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router import evidence, features
from headgate.router.calibrate import KINDS, Calibrator, apply_all, spreads
from headgate.router.cost import CostModel, ModelCost
from headgate.router.errors import BundleError, EstimateError
from headgate.router.features import Batch, Familiarity
from headgate.router.model import Golden, Heads, UncertaintyModel
from headgate.router.policy import Policy
from headgate.router.reader import Reader, ReaderContents
from headgate.router.types import Certificate, Price

FORMAT = 4
_FORMATS = (2, 3, FORMAT)
"""Those that are read: without readers, with them, with policies of shorter hold-backs as well. A bundle is
written in the first that can hold it, for older releases."""
_MAGIC = b"headgate bundle\n"
_HEAD = len(_MAGIC) + 32 + 8
_PARTS = ("graph", "familiarity", "centre", "whitening", "golden_ngrams", "golden_surface", "golden_heads")
_READER_PARTS = ("graph", "golden_ngrams", "golden_numbers", "golden_heads")
_GOLDEN_TOLERANCE = 2e-3
_SHOWN_DIGITS = 12
_LARGEST_PART = 1 << 26

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle. `calibrators` and `costs.models` stand in the order of `policy.models`."""

    graph: bytes
    calibrators: tuple[Calibrator, ...]
    costs: CostModel
    familiarity: Familiarity
    policy: Policy
    golden: Golden
    certificates: tuple[Certificate, ...] = ()
    readers: tuple[ReaderContents, ...] = ()
    """Of models whose drafts the policy may look at; none of them is the reference."""
    shorter: tuple[Policy, ...] = ()
    """Policies that hold drafts back for less, from the longest on; each has its own certificates."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: seed, n, fingerprints. Shown, never used to decide."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is expected of M models for n queries; every array is (n, M) but `out_of_distribution` (n,).

    `logits` are the model's own, before calibration.
    """

    p_correct: _Array
    spread: _Array
    completion_tokens: _Array
    relative_cost: _Array
    out_of_distribution: _Array
    logits: _Array

    @classmethod
    def joined(cls, parts: Sequence[Estimates]) -> Estimates:
        """Those of all parts, in their order."""
        names = [one.name for one in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @classmethod
    def of(
        cls,
        heads: Heads,
        calibrators: Sequence[Calibrator],
        costs: CostModel,
        prompt_tokens: _Array,
        out_of_distribution: _Array,
    ) -> Estimates:
        """From the model's raw output."""
        p_correct = apply_all(calibrators, heads.logits)
        spread = spreads(calibrators, heads.logits, heads.deviation, p_correct)
        relative = costs.relative(prompt_tokens, heads.tokens)
        return cls(p_correct, spread, heads.tokens, relative, out_of_distribution, heads.logits)


@dataclass(frozen=True, slots=True)
class Estimate:
    """`Estimates` of one query in plain numbers, one of each for every model."""

    p_correct: Sequence[float]
    spread: Sequence[float]
    completion_tokens: Sequence[float]
    relative_cost: Sequence[float]
    out_of_distribution: float
    logits: Sequence[float]


class Bundle:
    """A loaded bundle, ready to estimate; safe to share between threads."""

    def __init__(self, contents: Contents, digest: str, manifest: Mapping[str, Any]) -> None:
        """Loads the graph and checks the golden vectors; BundleError if either fails. Use `load`."""
        self.contents = contents
        self.version = digest[:_SHOWN_DIGITS]
        self.manifest = manifest
        self.policy = contents.policy
        """The one with the longest hold-back; see `holding_back`."""
        self.costs = contents.costs
        self.models = contents.policy.models
        self.certificates = _certificates_of(contents, contents.policy)
        self.default_risk_target = contents.policy.default_risk_target
        self.position = {name: index for index, name in enumerate(self.models)}
        """Where each model stands in `models`."""
        self._model = _checked_model(contents.graph, contents.golden, len(self.models))
        self.readers = self._readers(early=False)
        """Of the models whose drafts the policy looks at."""
        self.early_readers = self._readers(early=True)
        """Of drafts that are still being written."""
        self._shorter: list[Bundle] = []
        self._shorter = [self._under(policy) for policy in contents.shorter]

    def holding_back(self, tokens: int) -> Bundle:
        """This bundle under its policy of the longest certified hold-back that is no longer than `tokens`.

        The policy of a hold-back of 0 reads no draft. Where none is so short, there is no certificate.
        """
        if not self.readers:
            return self
        fitting = [one for one in self.views if one.policy.hold_back <= tokens]
        certified = (one for one in fitting if one.certificates)
        return next(certified, fitting[0] if fitting else self._uncertified)

    @property
    def views(self) -> tuple[Bundle, ...]:
        """This bundle under each of its policies, from the longest hold-back on."""
        return (self, *self._shorter)

    @cached_property
    def _uncertified(self) -> Bundle:
        other = copy.copy(self)
        other.certificates = ()
        return other

    def _under(self, policy: Policy) -> Bundle:
        other = copy.copy(self)
        other.policy, other.certificates = policy, _certificates_of(self.contents, policy)
        if not policy.hold_back:
            other.readers, other.early_readers = {}, {}
        return other

    def _readers(self, early: bool) -> dict[str, Reader]:
        return {
            one.model: Reader(one, _checked_model(one.graph, one.golden, len(self.models)))
            for one in self.contents.readers
            if (one.left is not None) is early
        }

    @cached_property
    def policy_version(self) -> str:
        """Names everything that decides but the certificates."""
        without = {key: value for key, value in self.manifest.items() if key not in ("certificates", "notes")}
        return sha256(_canonical(without)).hexdigest()[:_SHOWN_DIGITS]

    def estimate(self, batch: Batch, prompt_tokens: _Array) -> Estimates:
        """Estimates for a batch.

        `prompt_tokens` (n,) as `cost.estimate_tokens` counts. EstimateError if the model fails.
        """
        strange = self.contents.familiarity.out_of_distribution_all(batch)
        heads, calibrators = self._model.run(batch), self.contents.calibrators
        return Estimates.of(heads, calibrators, self.costs, prompt_tokens, strange)

    def estimate_one(self, batch: Batch, prompt_tokens: float) -> Estimate:
        """As `estimate` for a batch of one, without numpy, which takes longer to begin than this to end."""
        logits, deviation, tokens = self._model.run_one(batch)
        p_correct, spread = zip(
            *map(Calibrator.one, self.contents.calibrators, logits, deviation), strict=True
        )
        relative = self.costs.relative_one(prompt_tokens, tokens)
        strange = self.contents.familiarity.out_of_distribution(batch.surface[0], batch.contexts[0])
        return Estimate(p_correct, spread, tokens, relative, strange, logits)


def dump(contents: Contents) -> bytes:
    """The bytes of a bundle; equal contents give equal bytes."""
    names = _part_names(len(contents.readers))
    parts = dict(zip(names, _encode_parts(contents), strict=True))
    manifest = _canonical(_manifest(contents, parts))
    body = len(manifest).to_bytes(8, "big") + manifest + b"".join(parts.values())
    return _MAGIC + sha256(body).digest() + body


def load(data: bytes) -> Bundle:
    """The bundle in `data`, everything checked; BundleError says in one sentence what is wrong."""
    digest, manifest, body = _open(data)
    try:
        contents = _contents(manifest, _split(manifest, body))
        _check_consistency(contents)
        return Bundle(contents, digest, manifest)
    except BundleError:
        raise
    except Exception as error:  # a manifest is whatever JSON somebody wrote and sealed
        raise BundleError(
            "the bundle's manifest and parts do not fit together; build the bundle again"
        ) from error


def _open(data: bytes) -> tuple[str, dict[str, Any], bytes]:
    if not data.startswith(_MAGIC):
        raise BundleError("this file is no headgate bundle; give the path of a .bundle file")
    body = data[len(_MAGIC) + 32 :]
    if len(data) < _HEAD or sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + 32]:
        raise BundleError("the bundle's checksum does not match: it is cut or changed; copy it again")
    length = int.from_bytes(body[:8], "big")
    try:
        manifest = json.loads(body[8 : 8 + length])
        found = manifest["format"], manifest["feature_schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError("the bundle's manifest cannot be read; build the bundle again") from error
    if found[0] not in _FORMATS or found[1] != features.SCHEMA:
        raise BundleError(
            f"the bundle has format {found[0]} and feature schema {found[1]}, this Headgate reads {FORMAT} "
            f"and {features.SCHEMA}; train it again with this version"
        )
    if any(one.get("evidence_schema") != evidence.SCHEMA for one in manifest.get("readers", ())):
        raise BundleError(
            "the bundle reads drafts by another evidence schema; train it again with this version"
        )
    return sha256(body).hexdigest(), manifest, body[8 + length :]


def _split(manifest: Mapping[str, Any], body: bytes) -> dict[str, bytes]:
    lengths = manifest.get("parts")
    if (
        not isinstance(lengths, list)
        or [name for name, _ in lengths] != list(_part_names(len(manifest.get("readers", ()))))
        or sum(n for _, n in lengths) != len(body)
    ):
        raise BundleError("the bundle's parts are not those its manifest lists; build the bundle again")
    parts, start = {}, 0
    for name, length in lengths:
        parts[name] = _unpacked(body[start : start + length])
        start += length
    return parts


def _unpacked(part: bytes) -> bytes:
    """A part may not grow without limit: whoever seals a bundle decides what is in it."""
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(part, _LARGEST_PART)
    if not unpacking.eof:
        raise BundleError("a part of the bundle is cut or unpacks to too much; build the bundle again")
    return unpacked


def _manifest(contents: Contents, parts: Mapping[str, bytes]) -> dict[str, Any]:
    policy = contents.policy
    entries = zip(policy.models, contents.calibrators, contents.costs.models, strict=True)
    return {
        "format": _FORMATS[bool(contents.readers) + bool(contents.shorter)],
        **({"readers": list(map(_reader_entry, contents.readers))} if contents.readers else {}),
        **({"shorter": list(map(_shorter_entry, contents.shorter))} if contents.shorter else {}),
        "feature_schema": features.SCHEMA,
        "models": [
            {"name": name, "calibrator": asdict(line), "cost": asdict(cost)} for name, line, cost in entries
        ],
        "unit_nanousd": contents.costs.unit_nanousd,
        "policy": {
            "reference": policy.reference,
            "caution": policy.caution,
            "reluctance": policy.reluctance,
            "grid": policy.grid,
            "usage": policy.usage.tolist(),
            "max_out_of_distribution": policy.max_out_of_distribution,
            "default_risk_target": policy.default_risk_target,
            **({"resolution": policy.resolution} if policy.resolution else {}),
        },
        "certificates": [_entry(certificate) for certificate in contents.certificates],
        "notes": contents.notes,
        "digests": {name: sha256(part).hexdigest() for name, part in parts.items()},
        "parts": [[name, len(part)] for name, part in parts.items()],
    }


def _contents(manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> Contents:
    models, policy = manifest["models"], _policy(manifest)
    return Contents(
        graph=parts["graph"],
        calibrators=tuple(_calibrator(entry["calibrator"]) for entry in models),
        costs=CostModel(
            tuple(_model_cost(entry["cost"]) for entry in models), float(manifest["unit_nanousd"])
        ),
        familiarity=Familiarity(
            _bits(parts["familiarity"]), _of_surface(parts["centre"], 1), _of_surface(parts["whitening"], 2)
        ),
        policy=policy,
        golden=Golden(*(_array(parts[name]) for name in _PARTS[-3:])),
        certificates=tuple(_certificate(entry) for entry in manifest["certificates"]),
        readers=tuple(
            _reader(number, entry, parts) for number, entry in enumerate(manifest.get("readers", ()))
        ),
        shorter=tuple(_shorter(entry, policy) for entry in manifest.get("shorter", ())),
        notes=manifest["notes"],
    )


def _policy(manifest: Mapping[str, Any]) -> Policy:
    entry = manifest["policy"]
    return Policy(
        models=tuple(one["name"] for one in manifest["models"]),
        reference=entry["reference"],
        caution=float(entry["caution"]),
        reluctance=float(entry["reluctance"]),
        grid=tuple(entry["grid"]),
        usage=np.array(entry["usage"], dtype=np.float64),
        max_out_of_distribution=float(entry["max_out_of_distribution"]),
        default_risk_target=float(entry["default_risk_target"]),
        resolution=tuple(map(float, entry.get("resolution", ()))),
    )


def _shorter_entry(policy: Policy) -> dict[str, Any]:
    """What differs between the policies of a bundle."""
    return {
        "hold_back": policy.hold_back,
        "caution": policy.caution,
        "usage": policy.usage.tolist(),
        "resolution": policy.resolution,
    }


def _shorter(entry: Mapping[str, Any], policy: Policy) -> Policy:
    return replace(
        policy,
        hold_back=int(entry["hold_back"]),
        caution=float(entry["caution"]),
        usage=np.array(entry["usage"], dtype=np.float64),
        resolution=tuple(map(float, entry["resolution"])),
    )


def _certificates_of(contents: Contents, policy: Policy) -> tuple[Certificate, ...]:
    """Those that speak of this policy's hold-back; without readers there is nothing to hold back."""
    if not contents.readers:
        return contents.certificates
    return tuple(one for one in contents.certificates if one.hold_back == policy.hold_back)


def _part_names(readers: int) -> tuple[str, ...]:
    more = (f"reader_{number}_{part}" for number in range(readers) for part in _READER_PARTS)
    return (*_PARTS, *more)


def _reader_entry(reader: ReaderContents) -> dict[str, Any]:
    return {
        "model": reader.model,
        "evidence_schema": evidence.SCHEMA,
        "calibrators": [asdict(line) for line in reader.calibrators],
        "logprobs": reader.logprobs,
        **({} if reader.left is None else {"left": reader.left}),
    }


def _reader(number: int, entry: Mapping[str, Any], parts: Mapping[str, bytes]) -> ReaderContents:
    graph, *golden = (parts[f"reader_{number}_{part}"] for part in _READER_PARTS)
    return ReaderContents(
        model=entry["model"],
        graph=graph,
        calibrators=tuple(map(_calibrator, entry["calibrators"])),
        golden=Golden(*map(_array, golden)),
        logprobs=bool(entry["logprobs"]),
        left=float(entry["left"]) if "left" in entry else None,
    )


def _calibrator(entry: Mapping[str, Any]) -> Calibrator:
    if entry["kind"] not in KINDS:
        raise ValueError("unknown calibrator")
    return Calibrator(entry["kind"], float(entry["rise"]), float(entry["fall"]), float(entry["bias"]))


def _model_cost(entry: Mapping[str, Any]) -> ModelCost:
    return ModelCost(Price(**entry["price"]), float(entry["prompt_ratio"]), float(entry["mean_completion"]))


def _entry(certificate: Certificate) -> dict[str, Any]:
    """Without slices where there are none: older releases know no such key."""
    entry = asdict(certificate)
    return entry if certificate.slices else {key: entry[key] for key in entry if key != "slices"}


def _certificate(entry: Mapping[str, Any]) -> Certificate:
    tuples = {key: tuple(entry[key]) for key in ("models", "slices") if key in entry}
    return Certificate(**{**entry, **tuples})


def _check_consistency(contents: Contents) -> None:
    for policy in (contents.policy, *contents.shorter):
        _check_policy(contents, policy)
    _check_shorter(contents)
    _check_readers(contents)


def _check_policy(contents: Contents, policy: Policy) -> None:
    if policy.reference not in policy.models or any(
        c.reference != policy.reference for c in contents.certificates
    ):
        raise BundleError(
            "the bundle's certificates and policy name different reference models; build the bundle again"
        )
    if policy.usage.shape != (len(policy.grid), len(policy.models), 2) or sorted(policy.grid) != list(
        policy.grid
    ):
        raise BundleError("the bundle's policy has no usage for every λ and model; build the bundle again")
    for certificate in contents.certificates:
        if {name.partition("@")[0] for name in certificate.models} != set(policy.models):
            raise BundleError(
                "a certificate of the bundle speaks of other models than its policy; build the bundle again"
            )


def _check_shorter(contents: Contents) -> None:
    windows = [policy.hold_back for policy in (contents.policy, *contents.shorter)]
    falling = all(one > other for one, other in pairwise(windows))
    looks = any(policy.resolution for policy in contents.shorter if not policy.hold_back)
    if not falling or windows[-1] < 0 or looks or (contents.shorter and not contents.readers):
        raise BundleError("the hold-backs of the bundle's policies do not fit; build the bundle again")


def _check_readers(contents: Contents) -> None:
    stages = [(one.model, one.left is None) for one in contents.readers]
    names, policy = {name for name, whole in stages if whole}, contents.policy
    every = {name for name, _ in stages}
    if (
        len(set(stages)) < len(stages)
        or every != names
        or not names <= set(policy.models) - {policy.reference}
    ):
        raise BundleError("the bundle looks at drafts of models that draft for none; build the bundle again")
    for one in contents.readers:
        if len(one.calibrators) != len(policy.models):
            raise BundleError("a reader of the bundle does not fit its policy; build the bundle again")
    for family in (policy, *contents.shorter):
        shares = dict(zip(family.models, family.resolution, strict=bool(family.resolution)))
        unseen = {name for name, share in shares.items() if share} - names
        if unseen or not all(0 <= share <= 1 for share in shares.values()):
            raise BundleError("the bundle's policy looks at drafts without a reader; build the bundle again")


def _checked_model(graph: bytes, golden: Golden, models: int) -> UncertaintyModel:
    try:
        model = UncertaintyModel(graph, models)
        heads = model.raw(golden.ngrams, golden.surface)
    except EstimateError as error:
        raise BundleError(
            f"{error}; install the onnxruntime that Headgate pins or build the bundle again"
        ) from error
    same = heads.shape == golden.heads.shape and np.allclose(
        heads, golden.heads, rtol=_GOLDEN_TOLERANCE, atol=_GOLDEN_TOLERANCE
    )
    if not same:
        raise BundleError(
            "the bundle's model does not give its golden outputs on this machine; build the bundle again"
        )
    return model


def _encode_parts(contents: Contents) -> Sequence[bytes]:
    golden, known = contents.golden, contents.familiarity
    arrays = (known.centre, known.whitening, golden.ngrams, golden.surface, golden.heads)
    plain = [contents.graph, known.bits.tobytes(), *map(_npy, arrays)]
    for one in contents.readers:
        seen = one.golden
        plain += [one.graph, *map(_npy, (seen.ngrams, seen.surface, seen.heads))]
    return tuple(zlib.compress(part, 9) for part in plain)


def _bits(part: bytes) -> NDArray[np.uint8]:
    if len(part) != features.CONTEXT_BUCKETS // 8:
        raise ValueError("familiarity has another size")
    return np.frombuffer(part, dtype=np.uint8)


def _of_surface(part: bytes, dimensions: int) -> NDArray[np.float32]:
    """What is not of the surface's size, or no number, would fail with the first query and not now."""
    array = _array(part)
    if array.shape != (len(features.SURFACE),) * dimensions or not np.isfinite(array).all():
        raise ValueError("familiarity has another size or holds what is no number")
    return array.astype(np.float32)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _array(part: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(part), allow_pickle=False))


def _canonical(value: object) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
