"""Until all jobs of a batch have ended. What has is told as it does, in whatever order."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping

from headgate.client import HeadgateError, Job, NotFound
from headgate.client.jobs import Jobs
from headgate.client.jobs.patience import Patience

FIRST_S = 0.2
LONGEST_S = 5.0
SHARE = 10
"""Waits so much longer than asking took, up to LONGEST_S, so that waiting costs a gateway little."""
PAGE = 1_000


def ended(
    jobs: Jobs, batch: str, waiting: MutableMapping[str, str], limit_s: float
) -> Iterator[tuple[Job | NotFound, str]]:
    """Jobs of `waiting`, from job to custom_id, each with its answer; takes it out of there.

    NotFound for one that the gateway does not know any more. Gives up after `limit_s` without a gateway.
    """
    patience, pause_s = Patience(limit_s), FIRST_S
    while waiting:
        began, before = time.monotonic(), len(waiting)
        try:
            yield from _round(jobs, batch, waiting)
            patience.progressed()
            pause_s = FIRST_S if len(waiting) < before else 1.5 * pause_s
            pause_s = min(max(pause_s, SHARE * (time.monotonic() - began)), LONGEST_S)
        except HeadgateError as error:
            pause_s = patience.wait_s(error, time.monotonic())
        if waiting:
            time.sleep(pause_s)


def _round(jobs: Jobs, batch: str, waiting: MutableMapping[str, str]) -> Iterator[tuple[Job | NotFound, str]]:
    missing = set(waiting)
    for listed in jobs.list(batch, page_size=PAGE):
        missing.discard(listed.job_id)
        if listed.has_ended and listed.job_id in waiting:
            found = _whole(jobs, listed.job_id)
            yield found, waiting.pop(listed.job_id)
    for job_id in missing:
        found = _whole(jobs, job_id)
        if isinstance(found, NotFound) or found.has_ended:
            yield found, waiting.pop(job_id)


def _whole(jobs: Jobs, job_id: str) -> Job | NotFound:
    """A list leaves answers out."""
    try:
        return jobs.get(job_id)
    except NotFound as error:
        return error
