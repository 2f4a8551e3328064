from __future__ import annotations

import json
import string
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from headgate.router import bundle as bundles
from headgate.router import features
from headgate.router.bundle import Bundle, Contents
from headgate.router.calibrate import Calibrator
from headgate.router.errors import BundleError
from headgate.router.types import WHOLE, Certificate, Query
from tests import hand_made

MakeContents = Callable[..., Contents]
MAGIC = b"headgate bundle\n"


def resealed(data: bytes, change: Callable[[dict], None]) -> bytes:  # type: ignore[type-arg]
    """The same bundle with a changed manifest and a right checksum."""
    body = data[len(MAGIC) + 32 :]
    length = int.from_bytes(body[:8], "big")
    manifest = json.loads(body[8 : 8 + length])
    change(manifest)
    text = json.dumps(manifest).encode()
    body = len(text).to_bytes(8, "big") + text + body[8 + length :]
    return MAGIC + sha256(body).digest() + body


def test_what_is_dumped_is_loaded(make_contents: MakeContents) -> None:
    contents = make_contents()
    found = bundles.load(bundles.dump(contents))
    assert found.models == ("small", "large")
    assert found.certificates == contents.certificates
    assert found.default_risk_target == 0.05
    assert found.costs == contents.costs
    assert found.contents.calibrators == contents.calibrators
    assert (found.policy.usage == contents.policy.usage).all()
    for name in ("bits", "centre", "whitening"):
        kept = getattr(found.contents.familiarity, name)
        assert np.array_equal(kept, getattr(contents.familiarity, name))
    assert found.manifest["notes"] == {"seed": 0}


def test_equal_contents_give_equal_bytes_and_survive_a_round(make_contents: MakeContents) -> None:
    data = bundles.dump(make_contents())
    assert data == bundles.dump(make_contents())
    assert bundles.dump(bundles.load(data).contents) == data


def test_versions_name_what_changed(
    make_contents: MakeContents, bundle: Bundle, make_certificate: Callable[..., Certificate]
) -> None:
    recertified = bundles.load(bundles.dump(make_contents(certificates=(make_certificate(0.1, 0.5),))))
    assert recertified.version != bundle.version
    assert recertified.policy_version == bundle.policy_version
    other = make_contents(policy=replace(bundle.policy, caution=0.3))
    assert bundles.load(bundles.dump(other)).policy_version != bundle.policy_version


@pytest.mark.parametrize("text", ["easy", "12345678", "", "what is 12 + 3456?"])
def test_one_estimate_is_what_the_batch_says(bundle: Bundle, ask: Callable[..., Query], text: str) -> None:
    """Certificates are made from batches and speak of queries that are served one by one."""
    batch = features.pack([features.extract(ask(text))])
    one, many = bundle.estimate_one(batch, 10.0), bundle.estimate(batch, np.array([10.0]))
    for name in ("p_correct", "spread", "completion_tokens", "relative_cost"):
        assert list(getattr(one, name)) == pytest.approx(getattr(many, name)[0].tolist(), abs=1e-12)
    assert one.out_of_distribution == many.out_of_distribution[0]


def test_what_is_strange_in_a_batch_is_what_is_strange_alone(
    make_contents: MakeContents, ask: Callable[..., Query], seed: int
) -> None:
    plain = make_contents().familiarity
    known = replace(
        plain, bits=np.random.default_rng(seed).integers(0, 1 << 8, len(plain.bits), np.uint8) & 17
    )
    strict = bundles.load(bundles.dump(make_contents(familiarity=known)))
    queries = [ask(text) for text in ("easy", "", "1 + " * 9, string.printable, string.ascii_letters)]
    found = strict.estimate(features.extract_all(queries), np.full(5, 10.0)).out_of_distribution
    alone = [strict.estimate_one(features.extract_all([query]), 10.0) for query in queries]
    assert found.tolist() == [one.out_of_distribution for one in alone]
    assert 0 < found[3] < found[1] == 1


def test_estimates_are_calibrated_heads(bundle: Bundle, ask: Callable[..., Query]) -> None:
    batch = features.pack([features.extract(ask(text)) for text in ("easy", "12345678")])
    found = bundle.estimate(batch, np.array([10.0, 20.0]))
    logit = np.array([3.0, 3.0 - 2 * np.log1p(8)])
    assert found.p_correct[:, 0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.005)
    sure = np.stack((logit, np.full(2, 2.0)), axis=1)
    p = 1 / (1 + np.exp(-sure))
    shared = 0.01 + (0.1 * np.log1p([0.0, 8.0])) ** 2
    deviation = np.sqrt(np.stack((0.25 + shared, shared), axis=1))
    assert found.spread == pytest.approx(p * (1 - p) * deviation, abs=0.002)
    assert found.completion_tokens[0] == pytest.approx([10.0, 5.0], rel=1e-4)
    cost_of_small = (4 * 10 * 10_000_000 + 10 * 40_000_000) / 1e6
    assert found.relative_cost[0, 0] == pytest.approx(cost_of_small / 3000, rel=1e-4)
    assert found.out_of_distribution.tolist() == [0.0, 0.0]


def test_a_calibrator_changes_p_correct_of_its_model_only(
    make_bundle: Callable[..., Bundle], bundle: Bundle, ask: Callable[..., Query]
) -> None:
    shifted = make_bundle(calibrators=(Calibrator("platt", 1, 1, -1.0), Calibrator("platt", 1, 1, 0.0)))
    batch, tokens = features.pack([features.extract(ask())]), np.array([3.0])
    before, after = bundle.estimate(batch, tokens), shifted.estimate(batch, tokens)
    assert after.p_correct[0, 0] < before.p_correct[0, 0] - 0.05
    assert after.p_correct[0, 1] == before.p_correct[0, 1]


def test_a_bundle_that_reads_drafts_comes_back_as_it_was(reading: Callable[..., Bundle]) -> None:
    made = reading(logprobs=True)
    again = bundles.load(bundles.dump(made.contents))
    assert again.version == made.version
    told = [(one.model, one.logprobs, one.left) for one in again.contents.readers]
    assert told == [("small", True, None), ("small", True, 0.3)]
    assert again.policy.resolution == (0.5, 0.0)
    assert list(again.readers) == list(again.early_readers) == ["small"]


def test_without_readers_the_format_is_one_that_older_releases_read(bundle: Bundle) -> None:
    assert bundle.manifest["format"] == 2
    assert "readers" not in bundle.manifest


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "large"}, "draft for none"),
        ({"model": "huge"}, "draft for none"),
        ({"calibrators": ()}, "does not fit its policy"),
    ],
)
def test_a_reader_that_does_not_fit_is_refused(
    reading: Callable[..., Bundle], changes: dict[str, Any], sentence: str
) -> None:
    plain = reading().contents
    broken = replace(plain, readers=(replace(plain.readers[0], **changes),))
    with pytest.raises(BundleError, match=sentence):
        bundles.load(bundles.dump(broken))


def test_a_policy_that_looks_without_a_reader_is_refused(reading: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match="looks at drafts without a reader"):
        bundles.load(bundles.dump(replace(reading().contents, readers=())))


def test_every_flipped_bit_is_refused(make_contents: MakeContents, seed: int) -> None:
    data = bundles.dump(make_contents())
    rng = np.random.default_rng(seed)
    early = range(0, 400, 7)  # magic, checksum, length, manifest
    for place in [*early, *rng.integers(0, len(data), 30).tolist()]:
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(BundleError):
            bundles.load(bytes(broken))


@pytest.mark.parametrize("kept", [0, 5, 16, 47, 56, 300, -1])
def test_every_cut_is_refused(make_contents: MakeContents, kept: int) -> None:
    with pytest.raises(BundleError):
        bundles.load(bundles.dump(make_contents())[:kept])


@pytest.mark.parametrize("name", ["table", "weights", "bias", "root", "root_bias"])
def test_golden_vectors_see_a_weight_that_changed_under_a_right_checksum(
    make_contents: MakeContents, name: str, seed: int
) -> None:
    """A fault of the runtime, not of the checksum: one bit of one weight that is read and is not zero."""
    contents = make_contents()
    model = onnx.load_from_string(contents.graph)
    tensor = next(one for one in model.graph.initializer if one.name == name)
    values = numpy_helper.to_array(tensor).copy()
    read = np.ones(len(values), dtype=bool)
    if name == "table":
        read[:] = np.isin(np.arange(len(values)), contents.golden.ngrams)
    flat = values.reshape(-1)
    large = (np.abs(values) > 0.05) & read.reshape(-1, *(1,) * (values.ndim - 1))
    place = np.random.default_rng(seed).choice(np.flatnonzero(large))
    top_exponent_bit = flat.itemsize * 8 - 2
    flat.view(f"u{flat.itemsize}")[place] ^= 1 << top_exponent_bit
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    broken = replace(contents, graph=model.SerializeToString())
    with pytest.raises(BundleError, match="golden outputs"):
        bundles.load(bundles.dump(broken))


def test_golden_vectors_use_thousands_of_rows_from_the_whole_table(make_contents: MakeContents) -> None:
    used = np.unique(make_contents().golden.ngrams)
    assert len(used) > 3000
    assert used[0] >= 1
    assert set(np.histogram(used, bins=16, range=(1, features.BUCKETS))[0] > 100) == {True}


def with_part(data: bytes, name: str, packed: bytes) -> bytes:
    """The same bundle with another part and a right checksum."""
    body = data[len(MAGIC) + 32 :]
    length = int.from_bytes(body[:8], "big")
    manifest, parts = json.loads(body[8 : 8 + length]), {}
    start = 8 + length
    for part, size in manifest["parts"]:
        parts[part], start = body[start : start + size], start + size
    parts[name] = packed
    manifest["parts"] = [[part, len(content)] for part, content in parts.items()]
    text = json.dumps(manifest).encode()
    body = len(text).to_bytes(8, "big") + text + b"".join(parts.values())
    return MAGIC + sha256(body).digest() + body


@pytest.mark.parametrize("name", ["centre", "whitening"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a * np.nan], ids=["cut", "no number"])
def test_a_familiarity_that_would_fail_later_is_refused_now(
    make_contents: MakeContents, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    plain = make_contents()
    known = replace(plain.familiarity, **{name: change(getattr(plain.familiarity, name))})
    with pytest.raises(BundleError, match="do not fit together"):
        bundles.load(bundles.dump(make_contents(familiarity=known)))


def test_a_part_that_unpacks_without_end_is_refused_before_it_fills_the_memory(
    make_contents: MakeContents,
) -> None:
    bomb = zlib.compress(bytes(bundles._LARGEST_PART + 1), 9)
    tracemalloc.start()
    with pytest.raises(BundleError, match="unpacks to too much"):
        bundles.load(with_part(bundles.dump(make_contents()), "familiarity", bomb))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * bundles._LARGEST_PART


@pytest.mark.parametrize("name", bundles._PARTS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda packed: packed[:-5], "cut or unpacks to too much"),
        (lambda packed: b"", "cut or unpacks to too much"),
        (lambda packed: zlib.decompress(packed), "do not fit together|cut or unpacks"),
        (lambda packed: zlib.compress(b""), "build the bundle again"),
    ],
    ids=["cut", "nothing", "not packed", "packed nothing"],
)
def test_a_part_that_was_packed_wrongly_is_refused(
    make_contents: MakeContents, name: str, change: Callable[[bytes], bytes], sentence: str
) -> None:
    data = bundles.dump(make_contents())
    plain = dict(zip(bundles._PARTS, bundles._encode_parts(make_contents()), strict=True))
    with pytest.raises(BundleError, match=sentence):
        bundles.load(with_part(data, name, change(plain[name])))


def set_key(*path: str | int, to: object) -> Callable[[dict], None]:  # type: ignore[type-arg]
    def change(manifest: dict) -> None:  # type: ignore[type-arg]
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_key("format", to=1), "has format 1 and feature schema 2"),
        (set_key("feature_schema", to=9), "feature schema 9.*train it again"),
        (set_key("parts", to=[["graph", 3]]), "parts are not those"),
        (set_key("parts", to="graph"), "parts are not those"),
        (set_key("models", to=[]), "reference"),
        (set_key("models", 0, "calibrator", "kind", to="magic"), "do not fit together"),
        (set_key("models", 0, "cost", to={}), "do not fit together"),
        (set_key("policy", to=None), "do not fit together"),
        (set_key("policy", "usage", to=[]), "usage for every λ"),
        (set_key("policy", "grid", to=[None, 1.0, 2.0, 3.0, 4.0]), "do not fit together"),
        (set_key("policy", "reference", to="small"), "different reference"),
        (set_key("certificates", 0, "models", to=["small@s1"]), "other models"),
        (set_key("certificates", 0, "alpha", to=0.1), "do not fit together"),
    ],
)
def test_each_fault_of_the_manifest_is_one_sentence(
    make_contents: MakeContents,
    change: Callable[[dict], None],
    sentence: str,  # type: ignore[type-arg]
) -> None:
    with pytest.raises(BundleError, match=sentence) as caught:
        bundles.load(resealed(bundles.dump(make_contents()), change))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_json_is_refused(make_contents: MakeContents) -> None:
    data = bundles.dump(make_contents())
    body = bytearray(data[len(MAGIC) + 32 :])
    body[8] = ord("x")
    with pytest.raises(BundleError, match="manifest cannot be read"):
        bundles.load(MAGIC + sha256(body).digest() + bytes(body))


def test_a_manifest_without_bottom_is_refused() -> None:
    text = b'{"format": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    body = len(text).to_bytes(8, "big") + text
    with pytest.raises(BundleError, match="manifest cannot be read"):
        bundles.load(MAGIC + sha256(body).digest() + body)


def test_another_file_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="no headgate bundle"):
        bundles.load(b"PK\x03\x04 something else")


def test_a_bundle_holds_drafts_back_for_no_longer_than_asked() -> None:
    bundle = bundles.load(bundles.dump(hand_made.shortened(hand_made.reading(), 24, 8, 0)))
    asked = {tokens: bundle.holding_back(tokens) for tokens in (0, 7, 8, 23, 24, 1000, WHOLE)}
    assert {tokens: one.policy.hold_back for tokens, one in asked.items()} == {
        0: 0, 7: 0, 8: 8, 23: 8, 24: 24, 1000: 24, WHOLE: WHOLE,
    }  # fmt: skip
    for one in asked.values():
        assert len(one.certificates) == 2
        assert {certificate.hold_back for certificate in one.certificates} == {one.policy.hold_back}
        assert one.version == bundle.version
    assert not asked[0].readers, "no draft is read"
    assert list(asked[8].readers) == ["small"]


def test_without_a_policy_so_short_nothing_is_certified() -> None:
    short = bundles.load(bundles.dump(hand_made.reading())).holding_back(8)
    assert short.certificates == ()


def test_where_no_draft_is_read_there_is_nothing_to_hold_back(make_contents: Callable[..., Contents]) -> None:
    bundle = bundles.load(bundles.dump(make_contents()))
    assert bundle.holding_back(0) is bundle
    assert bundle.certificates


@pytest.mark.parametrize("windows", [(8, 24), (8, 8), (WHOLE,), (-1,)])
def test_policies_whose_hold_backs_do_not_fall_are_refused(windows: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="hold-backs"):
        bundles.load(bundles.dump(hand_made.shortened(hand_made.reading(), *windows)))


def test_an_older_release_is_not_offered_policies_that_it_does_not_know() -> None:
    whole = hand_made.reading()
    formats = [
        bundles.load(bundles.dump(one)).manifest["format"]
        for one in (hand_made.contents(), whole, hand_made.shortened(whole, 0))
    ]
    assert formats == [2, 3, 4]


def test_a_hold_back_that_was_not_certified_gives_way_to_a_shorter_one_that_was() -> None:
    made = hand_made.shortened(hand_made.reading(), 24, 8, 0)
    some = tuple(one for one in made.certificates if one.hold_back in (8, 0))
    one = bundles.load(bundles.dump(replace(made, certificates=some)))
    assert [one.holding_back(tokens).policy.hold_back for tokens in (WHOLE, 100, 24, 8, 7)] == [8, 8, 8, 8, 0]
    none = bundles.load(bundles.dump(replace(made, certificates=())))
    assert none.holding_back(24).policy.hold_back == 24, "where nothing is certified"
    assert [view.policy.hold_back for view in one.views] == [WHOLE, 24, 8, 0]
