"""Lines of results, as OpenAI's batches have them: one for each job that ended, written at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from headgate.cli.state import CommandError
from headgate.client import Answer, HeadgateError, Job, usd


class Results:
    """A file that grows by one line a job. What has its answer in it is not asked for again."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a line that was being written when the machine stopped is dropped, and so is
        one with an error: its job may have been replayed."""
        self.path = path
        try:
            self._file: BinaryIO = path.open("a+b")
            self.there = self._read()
            """Every job that has its answer."""
        except OSError as error:
            raise CommandError(f"--out: {path} cannot be written: {error.strerror}") from None

    def write(self, custom_id: str, job: Job) -> None:
        """Appends what became of a job."""
        self._file.write(json.dumps(as_line(custom_id, job), ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self.there.add(job.job_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self) -> set[str]:
        self._file.seek(0)
        kept, there = [], set()
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                break
            job_id, answered = self._line(number, raw)
            if answered:
                kept.append(raw)
                there.add(job_id)
        if sum(map(len, kept)) < self._file.seek(0, os.SEEK_END):
            self._rewrite(kept)
        return there

    def _rewrite(self, lines: list[bytes]) -> None:
        """In one step: who is killed in the middle has the old file or the new one."""
        other = self.path.with_name(f".{self.path.name}.new")
        other.write_bytes(b"".join(lines))
        other.replace(self.path)
        self._file.close()
        self._file = self.path.open("a+b")

    def _line(self, number: int, raw: bytes) -> tuple[str, bool]:
        """Its job, and whether it has an answer."""
        try:
            line = json.loads(raw)
            job_id, answered = line["id"], line["response"] is not None
        except (ValueError, TypeError, KeyError):
            job_id, answered = None, False
        if not isinstance(job_id, str):
            raise CommandError(f"{self.path}:{number}: is no line of results: give --out another file")
        return job_id, answered


def as_line(custom_id: str, job: Job) -> dict[str, Any]:
    """What became of a job: a response, or an error."""
    line: dict[str, Any] = {"id": job.job_id, "custom_id": custom_id, "response": None, "error": None}
    if job.answer is None:
        return line | {"error": _error(job)}
    request_id = job.answer.decision.request_id or job.job_id
    body = _completion(request_id, job.answer, round(job.ended.timestamp()) if job.ended else 0)
    return line | {"response": {"status_code": 200, "request_id": request_id, "body": body}}


def _error(job: Job) -> dict[str, str]:
    """`code` is the reason where the gateway gave one, else its status; `state` how the job ended."""
    error = job.error or HeadgateError(f"the job is {job.state}")
    code = error.reason or (error.code.name if job.error else job.state.upper())
    return {"code": code, "message": str(error), "state": job.state}


def _completion(request_id: str, answer: Answer, created: int) -> dict[str, Any]:
    usage, decision = answer.usage, answer.decision
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": decision.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": "length" if answer.finish_reason == "length" else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        "headgate": {
            "model": decision.model,
            "reason": decision.reason,
            "finish_reason": answer.finish_reason,
            "cost_usd": float(usd(decision.cost_nanousd)),
            "certificate": decision.certificate.id if decision.certificate else None,
        },
    }
