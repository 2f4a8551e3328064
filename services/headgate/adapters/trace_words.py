"""Every word of our traces, in one place: names of spans, their events and their attributes.

`gen_ai.*`, `rpc.*`, `server.*` and `error.type` are OpenTelemetry's own; those of generative AI are still in
development there, so whoever has to follow a change does it here. The rest is ours. None of them ever holds
what a caller or a model wrote, a key, or an address with a secret in it.
"""

from __future__ import annotations

from typing import Final

CHAT: Final = "chat"
"""The operation; with a model's name behind it, the span of a call, at each end of it."""
DECIDE: Final = "decide"
LOOK_UP: Final = "look up"
RUN_JOB: Final = "run job"

ESCALATION: Final = "headgate.escalation"
FALLBACK: Final = "headgate.fallback"
FIRST_TEXT: Final = "headgate.first_text"
"""Events of a request's span; the last is when the caller was given a piece of the answer first."""

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_CODE: Final = "rpc.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

REQUEST_ID: Final = "headgate.request_id"
TENANT: Final = "headgate.tenant"
REASON: Final = "headgate.decision.reason"
MODEL: Final = "headgate.decision.model"
DRAFTED_BY: Final = "headgate.decision.drafted_by"
LAMBDA: Final = "headgate.decision.lambda"
BUNDLE: Final = "headgate.decision.bundle_version"
POLICY: Final = "headgate.decision.policy_version"
CERTIFICATE: Final = "headgate.decision.certificate"
COST: Final = "headgate.cost_nanousd"
CACHE: Final = "headgate.cache.status"
CACHE_SOURCE: Final = "headgate.cache.source"
DEGRADED: Final = "headgate.degraded"
OVERHEAD: Final = "headgate.overhead_seconds"
DRAFT: Final = "headgate.draft"
VERSION: Final = "headgate.model_version"
QUEUED: Final = "headgate.worker.queue_seconds"
FROM: Final = "headgate.from_model"
TO: Final = "headgate.to_model"
WHY: Final = "headgate.why"
JOB_CLASS: Final = "headgate.job.class"
JOB_RUN: Final = "headgate.job.run"
JOB_BECAME: Final = "headgate.job.became"
