from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headgate.router.offline import drafts
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.types import Draft

NONE = np.full((3, 2), np.nan)
TABLE = Outcomes(
    ("a", "b", "c"), ("1 + 1?", "2 + 2?", "3 + 3?"), ("small", "large"), np.eye(3, 2), NONE, NONE
)
HEAD = "query_id,model,response,tokens,finish_reason,logprobs\n"


def write(folder: Path, *lines: str, name: str = "responses.csv", head: str = HEAD) -> Path:
    (folder / name).write_text(head + "\n".join(lines) + "\n")
    return folder


def test_drafts_stand_beside_their_queries(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        'b,small,"It is 4, I think",5,length,"[-0.5, -1]"',
        "a,small,2,,,",
        "a,large,two,,,",
        "z,small,of no query,,,",
        name="team.responses.csv",
    )
    found = drafts.read(folder, "team", TABLE, ["small"])
    assert found.ids == ("a", "b")
    assert found.drafts == {
        "small": (
            Draft("small", "2", tokens=1),
            Draft("small", "It is 4, I think", finished=False, tokens=5, logprobs=(-0.5, -1.0)),
        )
    }
    assert not drafts.have_logprobs(found, "small")
    assert found.take(np.array([1])).drafts["small"][0].tokens == 5
    assert drafts.have_logprobs(found.take(np.array([1])), "small")


@pytest.mark.parametrize(
    ("lines", "head", "sentence"),
    [
        (["a,small,2,,,no list"], HEAD, "responses.csv:2: logprobs: must be a JSON list"),
        (['a,small,2,,,"[0.5]"'], HEAD, "responses.csv:2: logprobs: must be a JSON list"),
        (["a,small,2,many,,"], HEAD, "responses.csv:2: tokens: must be a count"),
        (["a,smal,2,,,"], HEAD, "responses.csv has no model 'small'; the nearest is 'smal'"),
        (["a,small"], "query_id,model\n", "responses.csv has no column 'response'"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, lines: list[str], head: str, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence.replace("(", r"\(")):
        drafts.read(write(tmp_path, *lines, head=head), "", TABLE, ["small"])


def test_a_folder_without_responses_is_told_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"responses\.csv: drafts need query_id, model, response"):
        drafts.read(tmp_path, "", TABLE, ["small"])
    with pytest.raises(DataError, match="is none"):
        drafts.read(tmp_path / "no-folder.csv", "", TABLE, ["small"])


def test_a_table_without_drafts_of_a_model_has_no_evidence_of_it() -> None:
    with pytest.raises(DataError, match="add responses"):
        drafts.seen(TABLE, "small", logprobs=False)
