"""What the client takes and gives about jobs: plain frozen values, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from headgate.client.errors import HeadgateError
from headgate.client.types import Answer, Conversation, Options, StreamEvent

JobClass = Literal["interactive", "batch", "escalation"]
"""The last one is the gateway's own: upgrades of answers that were given at once."""
JobState = Literal["queued", "running", "done", "failed", "dead", "cancelled"]
ENDED: Final[frozenset[JobState]] = frozenset({"done", "failed", "dead", "cancelled"})
"""Terminal: only a dead job can leave its state, by a replay."""


@dataclass(frozen=True, slots=True)
class Job:
    """A queued query and what became of it."""

    job_id: str
    state: JobState
    job_class: JobClass
    batch: str
    """What it was submitted together with; empty means alone."""
    created: datetime | None
    ended: datetime | None
    """None until then."""
    expires: datetime | None
    """From then on it is not run any more, but fails with DEADLINE_EXCEEDED."""
    runs: int
    """How often a runner has begun it."""
    answer: Answer | None
    """Of a job that is done; left out where many are listed, and on submission."""
    error: HeadgateError | None
    """Why it failed or was given up."""
    not_before: datetime | None = None
    """Not run before then; None once it may run."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A query to answer later."""

    conversation: Conversation
    job_class: JobClass = "batch"
    batch: str = ""
    """Names what is submitted together: 1 to 128 of [A-Za-z0-9._:-]."""
    within_s: int = 0
    """Seconds within which it is to be answered, at most a week; 0 means a day."""
    options: Options = field(default_factory=Options)
    """`request_id` names the job; the client makes one when it is left out."""
    not_before: datetime | None = None
    """Not run before then, at most a week ahead; one without a time zone is in the machine's own."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One of many that was not accepted."""

    job_id: str
    error: HeadgateError


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job."""

    id: str
    """For a `watch` that goes on after it."""
    what: Job | StreamEvent
    """A new state, or what this run's stream said. Where a run begins, earlier text does not count."""
