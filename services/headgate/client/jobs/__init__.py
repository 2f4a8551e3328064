"""Jobs: queries that are answered later, and never lost. `client.jobs` has the methods.

types       what is taken and given
convert     those and the wire
patience    when to ask again after a connection broke
progress    the order of events, free of any transport
sync, aio   the methods, for threads and asyncio
"""

from headgate.client.jobs.aio import AsyncJobs, AsyncJobStream
from headgate.client.jobs.sync import Jobs, JobStream
from headgate.client.jobs.types import Job, JobClass, JobEvent, JobRequest, JobState, Refused

__all__ = [
    "AsyncJobStream",
    "AsyncJobs",
    "Job",
    "JobClass",
    "JobEvent",
    "JobRequest",
    "JobState",
    "JobStream",
    "Jobs",
    "Refused",
]
