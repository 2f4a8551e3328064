from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.offline import build, certify, courses
from headgate.router.offline.certify import Statement
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.types import Model, Objective, Pool, Price, Query, Reason

Parts = tuple[Outcomes, Outcomes]


def test_certificates_say_what_they_rest_on(trained: Bundle, parts: Parts, terms: Statement) -> None:
    _, threshold = parts
    assert trained.certificates, "the planted world supports some levels"
    for found in trained.certificates:
        assert found.models == ("tiny@t1", "mid", "big@b1")
        assert found.data_fingerprint == threshold.fingerprint
        assert len(threshold) * 0.98 <= found.n <= len(threshold)
        assert found.confidence == 0.95
        assert found.created == terms.created
        good = threshold.score > 0
        assert found.settings["min_max_tokens"] == threshold.completion_tokens[good].max()
        assert found.settings["max_prompt_tokens"] >= threshold.estimated_tokens.max()
    assert len({found.id for found in trained.certificates}) == len(trained.certificates)


def test_certified_regret_holds_on_fresh_queries(trained: Bundle, fresh: Outcomes) -> None:
    expected = build.estimates(trained, fresh)
    chosen = courses.choices(trained.policy, expected)
    regret = courses.regrets(trained.policy, chosen, fresh.score)[certify.covered(trained.policy, expected)]
    for found in trained.certificates:
        rate = regret[:, trained.policy.grid.index(found.lam)].mean()
        assert rate <= found.risk_target + 3 * (found.risk_target / len(regret)) ** 0.5


def test_terms_are_written_into_the_certificates(trained: Bundle, parts: Parts, terms: Statement) -> None:
    asked = replace(terms, delta=0.2, levels=(0.1,), window=0, expires=9e9, versions={})
    (found,) = certify.certificates(trained, parts[1], asked)
    assert (found.risk_target, found.confidence, found.window, found.expires) == (0.1, 0.8, 0, 9e9)
    assert found.models == trained.models, "without versions, a certificate is for whatever serves"


def test_fewer_labels_certify_a_smaller_lambda_or_nothing(
    trained: Bundle, parts: Parts, terms: Statement
) -> None:
    def lam_of(n: int) -> float:
        found = certify.certificates(trained, parts[1].take(np.arange(n)), replace(terms, levels=(0.1,)))
        return found[0].lam if found else -1.0

    lams = [lam_of(n) for n in (40, 300, 1200)]
    assert lams == sorted(lams)
    assert lams[0] == -1.0
    assert lams[-1] > 0


def test_the_outlook_begins_with_what_is_certified_now_and_more_labels_buy_more(
    trained: Bundle, parts: Parts, terms: Statement
) -> None:
    labels = parts[1].take(np.arange(600))
    now, *more = certify.outlook(trained, labels, terms, 0.1)
    found = [one for one in certify.certificates(trained, labels, terms) if one.risk_target == 0.1]
    expected = build.estimates(trained, labels)
    chosen = courses.choices(trained.policy, expected)[certify.covered(trained.policy, expected)]
    index = trained.policy.grid.index(found[0].lam)
    assert now.labels == found[0].n
    assert now.away == (chosen[:, index] != trained.policy.reference_index).mean()
    assert [one.labels for one in more] == [2 * now.labels, 4 * now.labels, 8 * now.labels]
    assert now.away < more[-1].away
    assert more[-1].cost < now.cost < 1


def test_a_certificate_by_slice_names_them_and_survives_the_bundle(
    trained: Bundle, parts: Parts, terms: Statement
) -> None:
    labels = replace(parts[1], subjects=tuple(text.partition(" ")[0] for text in parts[1].texts))
    asked = replace(terms, levels=(0.1,), window=0, by_slice=True)
    (found,) = certify.certificates(trained, labels, asked)
    (pooled,) = certify.certificates(trained, labels, replace(asked, by_slice=False))
    assert found.slices == ("add", "name", "take")
    assert pooled.slices == ()
    assert found.lam < pooled.lam, "what holds in every slice is more than what holds over all"
    both = build.loaded(replace(trained.contents, certificates=(found, pooled)))
    assert both.certificates == (found, pooled)
    assert "slices" not in both.manifest["certificates"][1], "older releases know no such key"


def test_slices_need_a_subject_of_every_query(trained: Bundle, parts: Parts, terms: Statement) -> None:
    with pytest.raises(DataError, match=r"query 'q\d+' has no subject"):
        certify.certificates(trained, parts[1], replace(terms, by_slice=True))


def test_a_little_worse_is_a_regret_and_net_counts_how_much(trained: Bundle) -> None:
    score = np.array([[0.5, 0.0, 0.6], [1.0, 0.0, 0.4]])
    chosen = np.array([[0], [0]])
    regret = certify.losses(trained.policy, chosen, score, "regret")
    assert (regret.dtype, regret[:, 0].tolist()) == (np.bool_, [True, False])
    assert np.allclose(certify.losses(trained.policy, chosen, score, "net")[:, 0], [0.1, -0.6])


def test_lengths_outside_texts_and_versions_are_enforced_end_to_end(trained: Bundle, fresh: Outcomes) -> None:
    prices = {"tiny": Price(1, 1), "mid": Price(2, 2), "big": Price(9, 9)}
    versions = {"tiny": "t1", "mid": "whatever", "big": "b1"}
    pool = Pool(tuple(Model(name, prices[name], 0, versions[name]) for name in trained.models), "big")

    def reason(text: str, pool: Pool = pool) -> Reason:
        return decide(trained, Query(text, Objective(risk_target=0.1)), pool, now=0.0).reason

    assert reason(fresh.texts[0]) is Reason.POLICY
    assert reason("Who wrote the tragedy of Hamlet, prince of Denmark?") is Reason.OUTSIDE_CALIBRATION
    stranger = replace(pool, models=(replace(pool.models[0], version="t2"), *pool.models[1:]))
    assert reason(fresh.texts[0], stranger) is Reason.NO_CERTIFICATE
