"""A bundle that was trained on MMLU knows what is not like it, sends it to large and says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.offline import build, certify, curve, formats
from headgate.router.offline.certify import Statement
from headgate.router.offline.datasets import Outcomes
from headgate.router.types import Decision, Model, Objective, Pool, Price, Query, Reason
from headgate.worker.backends.builtin.worksheets import batch
from tests.quality.conftest import LARGE, SEED, SMALL, plan

LEAST_AUROC = 0.85
SENT_ON = 0.9
"""Share of what is unlike the training data that must go to large for that reason."""
FOREIGN = (
    "Welche Stadt ist die Hauptstadt von Australien, und seit wann ist sie es?",
    "Erkläre in zwei Sätzen, warum der Himmel am Tag blau und am Abend rot erscheint.",
    "Ein Zug fährt um acht Uhr in Köln ab und braucht drei Stunden. Wann kommt er an?",
    "Schreibe eine höfliche Absage auf eine Einladung zum Abendessen am Freitag.",
    "Quel est le plus long fleuve d'Afrique et quels pays traverse-t-il ?",
    "Explique la différence entre un virus et une bactérie à un enfant de dix ans.",
    "Traduis cette phrase en anglais : le chat dort sur le canapé depuis ce matin.",
    "Combien font douze pour cent de deux cent cinquante euros ?",
    "¿Cuáles son las causas principales de la inflación y cómo se puede frenar?",
    "Escribe un correo breve para pedir un aplazamiento de la entrega hasta el lunes.",
    "¿Qué órgano del cuerpo humano produce la insulina y para qué sirve?",
    "Resume en una frase la trama de Don Quijote de la Mancha.",
    "Qual è la differenza tra un'arteria e una vena nel corpo umano?",
    "Scrivi una ricetta semplice per preparare il pane in casa senza lievito.",
    "Jaka jest różnica między pogodą a klimatem? Podaj dwa przykłady.",
    "Napisz krótki list z podziękowaniem dla nauczyciela matematyki.",
    "Vad heter Sveriges största sjö och hur djup är den som djupast?",
    "Wat is het verschil tussen een komeet en een meteoriet? Leg het kort uit.",
    "Qual é a capital de Moçambique e que língua se fala lá?",
    "Какая планета Солнечной системы самая большая и сколько у неё спутников?",
    "Объясни простыми словами, как работает двигатель внутреннего сгорания.",
    "地球から月までの距離はおよそ何キロメートルですか。",
    "次の文を英語に訳してください。私は毎朝七時に起きます。",
    "请用三句话解释什么是光合作用，以及它为什么重要。",
    "一个班有四十二名学生，其中三分之一是女生，男生有多少人？",
    "한국의 전통 음식 세 가지를 소개하고 재료를 설명해 주세요.",
    "ما هي عاصمة المغرب وما هي أكبر مدينة فيها؟",
    "Türkiye'nin en yüksek dağı hangisidir ve yüksekliği kaç metredir?",
    "भारत का राष्ट्रीय पक्षी कौन सा है और वह कहाँ पाया जाता है?",
    "Ποια είναι η διαφορά ανάμεσα στη θερμότητα και τη θερμοκρασία;",
)


@pytest.fixture(scope="module")
def bundle(mmlu: tuple[Outcomes, Outcomes]) -> Bundle:
    """Trained on MMLU, and certified on other queries of it."""
    learnt, other = mmlu
    contents = build.build(learnt, plan(SMALL, LARGE))
    fresh = build.loaded(contents)
    statement = Statement(created=0.0, versions={}, levels=(0.1,), window=0)
    found = certify.certificates(fresh, other, statement)
    assert found, "MMLU supports a certificate at 0.1"
    return build.loaded(replace(contents, certificates=found))


def code(data: Path) -> list[str]:
    """HumanEval's beginnings of functions."""
    return list(formats.read(data, source="llmrouter", datasets=["llmrouter-human_eval"]).texts)


def unlike(data: Path) -> dict[str, list[str]]:
    """What MMLU does not hold."""
    worksheets = [one.question for one in batch(SEED, 300)]
    return {"code": code(data), "worksheets": worksheets, "foreign languages": list(FOREIGN)}


def strangeness(bundle: Bundle, texts: list[str]) -> np.ndarray:
    return np.array([_decided(bundle, text).out_of_distribution or 0.0 for text in texts])


def _decided(bundle: Bundle, text: str) -> Decision:
    pool = Pool((Model(SMALL, Price(10**8, 10**8)), Model(LARGE, Price(10**9, 10**9))), LARGE)
    return decide(bundle, Query(text, Objective(risk_target=0.1)), pool, now=1.0)


@pytest.mark.parametrize("kind", ["code", "worksheets", "foreign languages"])
def test_what_is_unlike_the_training_data_is_told_apart(
    kind: str, bundle: Bundle, mmlu: tuple[Outcomes, Outcomes], data: Path
) -> None:
    strange = strangeness(bundle, unlike(data)[kind])
    familiar = strangeness(bundle, list(mmlu[1].texts))
    scores = np.concatenate((strange, familiar))
    auroc = curve.auc(scores, np.arange(len(scores)) < len(strange))
    print(f"{kind}: AUROC {auroc:.3f}, {len(strange)} against {len(familiar)}")
    assert auroc >= LEAST_AUROC


def test_it_goes_to_large_and_the_decision_says_why(
    bundle: Bundle, mmlu: tuple[Outcomes, Outcomes], data: Path
) -> None:
    strange = [_decided(bundle, text) for texts in unlike(data).values() for text in texts]
    sent = [one for one in strange if one.reason is Reason.OUTSIDE_CALIBRATION]
    assert len(sent) >= SENT_ON * len(strange)
    assert all(one.model == LARGE and one.certificate is None for one in sent)
    assert all("is above the calibrated" in one.explanation for one in sent)
    named = sum(one.explanation.startswith("Out of distribution") for one in sent)
    assert named >= SENT_ON * len(sent), "a few are too long besides"
    familiar = [_decided(bundle, text) for text in mmlu[1].texts]
    kept = sum(one.reason is Reason.POLICY for one in familiar)
    assert kept >= SENT_ON * len(familiar)
