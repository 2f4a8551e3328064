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
    """A file that grows by one line a job. What is in it already is not asked for again."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a line that was being written when the machine stopped is dropped."""
        self.path = path
        try:
            self._file: BinaryIO = path.open("a+b")
            self.there = self._read()
            """Every `custom_id` that has its line."""
        except OSError as error:
            raise CommandError(f"--out: {path} cannot be written: {error.strerror}") from None

    def write(self, custom_id: str, job: Job) -> None:
        """Appends what became of a job."""
        self._file.write(json.dumps(as_line(custom_id, job), ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self.there.add(custom_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self) -> set[str]:
        self._file.seek(0)
        there, end = set(), 0
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                break
            there.add(self._custom_id(number, raw))
            end += len(raw)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
        return there

    def _custom_id(self, number: int, raw: bytes) -> str:
        try:
            custom_id = json.loads(raw)["custom_id"]
        except (ValueError, TypeError, KeyError):
            custom_id = None
        if not isinstance(custom_id, str):
            raise CommandError(f"{self.path}:{number}: is no line of results: give --out another file")
        return custom_id


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
