"""The shape of the one config file: every setting, its range, its default and the reason for it.

`adapters.settings` reads the file and the environment; nothing here opens anything. Secrets never stand in
the file, only references to them: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from headgate.adapters.job_hours import Hours
from headgate.router.types import WHOLE


def _matching(pattern: str, rule: str) -> AfterValidator:
    """A check whose error says the rule in words; the value itself, perhaps a secret, is never repeated."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _port_in_range(address: str) -> str:
    if int(address.rpartition(":")[2]) > 65535:
        raise ValueError("must end in a port from 0 (any free one) to 65535")
    return address


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("must be a date such as 2027-01-31") from None


def _regular(pattern: str, setting: str) -> None:
    try:
        re.compile(pattern)
    except re.error as wrong:
        raise ValueError(f"{setting}: no regular expression: {wrong.msg}") from None


_REFERENCE = r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+"
Address = Annotated[
    str,
    _matching(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}", "must be host:port, such as 127.0.0.1:7070"),
    AfterValidator(_port_in_range),
]
SecretReference = Annotated[
    str, _matching(_REFERENCE, "must be a reference, env:NAME or file:PATH, never the secret itself")
]
# A password may stand before the host or among the options, and may itself hold a slash or a question mark.
_REDIS = r"(rediss?://[^@?]*|unix:///[^?]*)(\?((?!password)[^@])*)?"
RedisUrl = Annotated[
    str,
    _matching(
        rf"{_REFERENCE}|{_REDIS}",
        "this is no redis://, rediss:// or unix:/// URL without user and password; "
        "write env:NAME or file:PATH",
    ),
]
BrokerUrl = Annotated[
    str,
    _matching(
        rf"{_REFERENCE}|{_REDIS}|amqps?://[^@?]+",
        "this is no redis://, rediss://, unix:///, amqp:// or amqps:// URL without user and password; "
        "write env:NAME or file:PATH",
    ),
]
CollectorUrl = Annotated[
    str,
    _matching(
        r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}",
        "must be http://host:port or https://host:port, such as http://127.0.0.1:4317",
    ),
    AfterValidator(_port_in_range),
]
UpstreamUrl = Annotated[
    str,
    _matching(
        r"[^@]*|[A-Za-z][A-Za-z0-9+.-]*://[^@:/?#]*(:\d+)?/.*",
        "must be a URL without user and password; the upstream's secret is api_key: env:NAME or file:PATH",
    ),
]
Name = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "must be 1 to 64 letters, digits, dots, dashes or underscores"
    ),
]
KeyId = Annotated[
    str,
    _matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "must be 1 to 64 letters, digits, dashes or underscores"),
]
Capability = Annotated[
    str,
    _matching(
        r"[a-z0-9][a-z0-9._-]{0,63}",
        "must be 1 to 64 lower-case letters, digits, dots, dashes or underscores",
    ),
]
IsoDate = Annotated[str, AfterValidator(_iso_date)]
OPEN_TENANT: Final = "open"
"""Who calls an open gateway without a key: a tenant as any other, so none may have its name beside it."""
Probability = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """Unknown keys are errors and a loaded config never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceConfig(Strict):
    """What a model charges, in nano-dollars per million tokens."""

    input_nanousd: int = Field(ge=0)
    output_nanousd: int = Field(ge=0)


class ModelConfig(Strict):
    """One model of the pool, its worker and what that worker runs."""

    worker: Address | None = None
    """Where the worker listens. Empty: `headgate up` starts one, from port 7080 on."""
    backend: Name = "builtin"
    """The backend that serves the model: builtin, openai, hf, replay, or one registered by entry point."""
    source: str = ""
    """What it serves: `small` or `large` (builtin), the upstream's model name (openai), a folder or a name of
    the Hugging Face hub (hf), a file (replay)."""
    draft_source: str = ""
    """What drafts for `source` in the same worker (speculative decoding). Answers stay those of `source`."""
    base_url: UpstreamUrl | None = None
    """Upstream of the openai backend. Only the operator sets it; no request can."""
    api_key: SecretReference | None = None
    omit: tuple[Literal["temperature", "top_p", "stop", "seed"], ...] = ()
    """Fields that the upstream does not take: the openai backend never sends them, whatever a query asks."""
    price: PriceConfig | None = None
    """Empty: the backend's own price (builtin: measured; openai: the price table)."""
    capabilities: tuple[Capability, ...] = Field(default=(), max_length=16)
    """What it can do beyond text, in your own words, such as `vision` or `german`; added to what the backend
    says of itself. Queries may require them: then only models that have them all may answer."""
    slots: int = Field(default=4, ge=1, le=1024)
    """Answers worked on at the same time. A few: what an engine or an account takes, its operator knows."""
    queue: int = Field(default=8, ge=0, le=4096)
    """Answers that may wait for a slot: twice the slots keeps goodput under overload at capacity."""
    first_token_s: float = Field(default=30, gt=0, le=600)
    """Longest wait for the first token: prompts are long and engines cold, but a fallback needs time too."""
    idle_s: float = Field(default=15, gt=0, le=600)
    """Longest silence between two chunks; a stalled upstream is cut then."""


class TlsConfig(Strict):
    """TLS on the public port: two PEM files."""

    certificate: str
    key: str


class KeyConfig(Strict):
    """One API key `id.secret`; the file holds only HMAC-SHA-256(pepper, secret)."""

    id: KeyId
    """Without dots: the first one in `id.secret` ends it."""
    hmac_sha256: Annotated[
        str, _matching(r"[0-9a-f]{64}", "must be 64 hexadecimal digits; `headgate keys new` prints it")
    ]
    expires: IsoDate | None = None
    """An ISO date; from then on the key is refused."""


class CascadeConfig(Strict):
    """What becomes of a cheaper model's draft, where the bundle reads drafts."""

    hold_back_tokens: int = Field(default=WHOLE, ge=0, le=WHOLE)
    """Tokens of a draft, at most, that are written and read before a stream delivers it: the longest
    certified hold-back that is not above it. The largest number reads whole drafts, which tell most; 0 reads
    none: the query alone decides. For an answer that does not stream, whole drafts are read unless it is 0:
    it waits for its end anyway."""
    hold_back_s: float | None = Field(default=None, gt=0, le=600)
    """Seconds after which a stream's draft is accepted or not by what is written, though the hold-back is not
    over. No certificate covers one that is accepted so. Empty: the hold-back decides."""
    early_stop: bool = True
    """A draft that is not worth its end is stopped while it is being written; that never adds regret."""
    hedge: bool = False
    """Begins the reference's answer beside every draft: an escalation takes no longer than no draft at all,
    and each accepted draft wastes the beginning of a dear answer, which is paid and shown. For callers in a
    hurry."""
    upgrade_later: bool = False
    """Answers at once, and upgrades later: the cheapest model's answer is delivered as it comes, and where
    the policy prefers another one's, that is queued as a job (`jobs.enabled`). No certificate covers what is
    delivered at once."""
    upgrade_within_s: int = Field(default=3600, ge=1, le=604_800)
    """Seconds after which nobody needs the upgrade any more: an hour, as long as the cache keeps answers."""


class TenantConfig(Strict):
    """Who pays, with which keys, and what it may ask."""

    keys: tuple[KeyConfig, ...] = Field(min_length=1)
    models: tuple[Name, ...] | None = None
    """Models it may use. Empty: all."""
    risk_target: Probability | None = None
    """Its objective. Empty: the gateway's."""
    max_risk_target: Probability | None = None
    """The loosest risk target a query may ask. Empty: its own risk target."""
    cascade: CascadeConfig | None = None
    """What becomes of drafts. Empty: as in `policy`."""
    semantic_cache: bool = False
    """Whether its questions may get the answer of one that means the same (`cache.semantic`)."""


class GatewayConfig(Strict):
    """The process in front."""

    listen: Address = "127.0.0.1:7070"
    admin_listen: Address = "127.0.0.1:7072"
    metrics_listen: Address = "127.0.0.1:9464"
    processes: int = Field(default=1, ge=1, le=64)
    """Gateway processes that share `listen`; admin and metrics ports count up from the first one's."""
    open: bool = False
    """True answers without keys; refused unless every listener is on loopback."""
    tls: TlsConfig | None = None
    pepper: SecretReference | None = None
    """Mixed into every key's HMAC. Required when there are tenants."""
    max_concurrent: int = Field(default=256, ge=1, le=65536)
    """Requests inside at the same time; more are shed with RESOURCE_EXHAUSTED. Many times what
    a pool with default slots works on; at a mebibyte each, the most a request has, a quarter of a GiB."""
    drain_s: float = Field(default=5, ge=0, le=300)
    """How long running requests may take after the lame-duck time. Restarts stay quick, and a
    supervisor kills what takes long. Where answers take longer, raise it: those it cuts end with DRAINING."""
    lame_duck_s: float = Field(default=1, ge=0, le=60)
    """Between NOT_SERVING and refusing: the time clients need to see it."""


class PolicyConfig(Strict):
    """What the policy aims at by default: a risk target or a budget."""

    bundle: str = "builtin"
    """`builtin`, or the path of a bundle."""
    risk_target: Probability | None = None
    """Largest share of requests that may lose quality against the reference model. Empty with no budget: the
    bundle's own default."""
    budget_nanousd: int | None = Field(default=None, ge=1)
    reference: Name | None = None
    """The model that regret compares with. Empty: the dearest."""
    cascade: CascadeConfig = CascadeConfig()

    @model_validator(mode="after")
    def _one_objective(self) -> Self:
        if self.risk_target is not None and self.budget_nanousd is not None:
            raise ValueError("give risk_target or budget_nanousd, not both")
        return self


class SemanticConfig(Strict):
    """Answers for questions that mean what an earlier one meant."""

    enabled: bool = False
    """Off by default, and then still off for every tenant that does not say `semantic_cache: true`: a small
    share of wrong answers is something that both must want."""
    wrong_hits: Probability = 0.01
    """Largest share of hits whose answer is not the one that the question would have got."""
    confidence: Probability = 0.9
    """How sure that is, over the draw of the audits: 268 without an error do, after the same messages."""
    audit: float = Field(default=0.05, ge=0.001, le=1)
    """Probability with which a hit is not served but answered anew and compared. Without any, nobody would
    notice that hits have become wrong; one in twenty costs little."""
    ttl_s: int = Field(default=900, ge=1, le=86_400)
    """For how long a question is found: what is asked again in other words is asked soon."""
    answer: str = ""
    """What of two answers must be the same, such as `(-?\\d+)` for the last number, in Python's spelling; its
    first group, if it has one. Empty: all of the text, but for spaces, capitals and the full stop."""

    @model_validator(mode="after")
    def _answer_is_a_pattern(self) -> Self:
        _regular(self.answer, "answer")
        return self


class CacheConfig(Strict):
    """The answer cache."""

    enabled: bool = True
    ttl_s: int = Field(default=3600, ge=1, le=30 * 86400)
    """How long an answer may be used again. An hour catches repetition; another version has other keys."""
    memory_mb: int = Field(default=64, ge=0, le=65_536)
    """Answers that each gateway process holds in memory beside Redis, in MiB, about. 0: none."""
    semantic: SemanticConfig = SemanticConfig()


class RedisConfig(Strict):
    """Where cache and ledger live. Empty url: `headgate up` starts a private Valkey that keeps nothing."""

    url: RedisUrl | None = None
    ledger_length: int = Field(default=100_000, ge=100, le=100_000_000)
    """Records kept in the ledger stream, approximately: those of a day, at one request a second."""


class ScorerConfig(Strict):
    """What says how good sampled answers are; `headgate outcomes score` asks it, the gateway never does."""

    kind: Literal["exact", "regex", "json", "command", "judge"]
    label: str = Field(default="expected", min_length=1, max_length=64)
    """exact: the query's metadata key that holds the right answer. A query without it gets no score."""
    pattern: str = ""
    """regex: what a right answer has somewhere in it, in Python's spelling."""
    keys: tuple[str, ...] = ()
    """json: what the answer's object must have. Empty: any JSON is right."""
    command: tuple[str, ...] = ()
    """command: program and arguments, no shell. The answer comes on stdin; exit status 0 means right."""
    timeout_s: float = Field(default=30, gt=0, le=600)
    """command: a test that takes longer counts as failed; half a minute is long for one answer."""
    model: Name | None = None
    """judge: the model of the pool that compares two answers, asked twice with their places swapped."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"regex": "pattern", "command": "command", "judge": "model"}.get(self.kind, "kind")
        if not getattr(self, needed):
            raise ValueError(f"{needed}: required for the scorer {self.kind}")
        if self.kind == "regex":
            _regular(self.pattern, "pattern")
        return self


class ShadowConfig(Strict):
    """Shadow sampling: a share of requests is also answered by the other models, off the path."""

    share: float = Field(default=0, ge=0, le=1)
    """Probability with which a request is sampled. Off by default: it spends money, and it keeps what tenants
    ask and are answered in Redis. Whoever sets it chooses both."""
    budget_usd_per_day: float = Field(default=1, ge=0, le=1_000_000)
    """What each tenant's samples may cost in a day (UTC): a share that was set too high costs a dollar."""
    models: tuple[Name, ...] | None = None
    """Models that samples run. Empty: every other one that the tenant may use."""
    keep_text_days: int = Field(default=30, ge=1, le=365)
    """How long sampled texts are kept: time to collect and score some hundreds, and no longer."""
    scorer: ScorerConfig | None = None
    """Empty: only what callers report with RecordOutcome counts."""

    @property
    def budget_nanousd(self) -> int:
        """The budget of a tenant's day, in nano-dollars."""
        return round(self.budget_usd_per_day * 1e9)


class JobsConfig(Strict):
    """Queries that are answered later: `JobService`, and the job runners behind it."""

    enabled: bool = False
    """Off by default: a job's query and answer are kept in Redis, and that is for the operator to choose."""
    broker: BrokerUrl | None = None
    """Where jobs wait for a runner, Redis or RabbitMQ. Empty: where their records are, `redis.url`. In
    production it is a server that evicts nothing; what it loses is queued again from the records."""
    runners: int = Field(default=1, ge=1, le=64)
    """Job runners that `headgate up` starts; elsewhere each is deployed by itself."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Jobs that one runner works on at the same time, each in a process of its own: as many as a model has
    slots by default."""
    metrics_listen: Address = "127.0.0.1:9474"
    """Where the reconciler has its metrics; the first runner has the next port, and so on."""
    key: KeyConfig | None = None
    """Of the runners: with it they act for the tenants of the jobs they run, and for nobody else. Required
    when there are tenants."""
    runner_key: SecretReference | None = None
    """The key `id.secret` that runners call the gateway with. Empty: it asks for none."""
    lease_s: float = Field(default=30, ge=0.5, le=600)
    """How long a run may be silent before another runner takes the job. It is renewed at a third of it: less
    would take jobs from runners that are only slow, more lets a job wait for one that is gone."""
    grace_s: float = Field(default=5, ge=0.1, le=600)
    """How long a job waits for a runner before it is put into its queue again, in case the queue lost it."""
    most_runs: int = Field(default=3, ge=1, le=20)
    """A job that was begun so often is given up: what kills its runner must not kill all of them."""
    batch_hours: tuple[str, ...] = Field(default=(), max_length=8)
    """Times of day in which jobs of class batch run, such as `22:00-06:00`; others wait. Empty: always."""
    time_zone: str = "UTC"
    """Of `batch_hours`, such as `Europe/Berlin`."""
    batch_budget_usd_per_day: float | None = Field(default=None, gt=0, le=1_000_000)
    """What each tenant's jobs of class batch may cost in a day (UTC); others wait for the next one. Empty:
    no limit."""
    upgrade_budget_usd_per_day: float | None = Field(default=None, gt=0, le=1_000_000)
    """The same of upgrades of answers that were given at once (`cascade.upgrade_later`)."""
    keep_days: float = Field(default=7, gt=0, le=365)
    """How long a record is kept, with query and answer, after its job has ended."""

    @model_validator(mode="after")
    def _hours_are_hours(self) -> Self:
        try:
            Hours.of(self.batch_hours, self.time_zone)
        except ValueError as wrong:
            where = "time_zone" if "time zone" in str(wrong) else "batch_hours"
            raise ValueError(f"{where}: {wrong}") from None
        return self


class TelemetryConfig(Strict):
    """Traces, for a collector of OpenTelemetry. They hold no text of a query or an answer."""

    otlp_endpoint: CollectorUrl | None = None
    """Where a collector takes OTLP over gRPC, such as `http://127.0.0.1:4317`. Empty: nobody traces."""
    sample: float = Field(default=1, ge=0, le=1)
    """Share of traces begun here that are kept. All of them, so that who tries it sees his request; with many
    requests less is enough. A caller that says whether its trace is kept decides that itself."""


class Config(Strict):
    """The whole file."""

    version: Literal[1]
    pool: dict[Name, ModelConfig] = Field(
        min_length=1,
        default_factory=lambda: {"small": ModelConfig(source="small"), "large": ModelConfig(source="large")},
    )
    gateway: GatewayConfig = GatewayConfig()
    policy: PolicyConfig = PolicyConfig()
    cache: CacheConfig = CacheConfig()
    redis: RedisConfig = RedisConfig()
    jobs: JobsConfig = JobsConfig()
    shadow: ShadowConfig = ShadowConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    tenants: dict[Name, TenantConfig] = Field(default_factory=dict)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        if self.policy.reference is not None and self.policy.reference not in self.pool:
            raise ValueError(f"policy.reference: the pool has no model {self.policy.reference!r}")
        self._shadow_holds()
        for tenant, settings in self.tenants.items():
            missing = sorted(set(settings.models or ()) - set(self.pool))
            if missing:
                raise ValueError(f"tenants.{tenant}.models: the pool has no model {missing[0]!r}")
        if self.tenants and self.gateway.pepper is None:
            raise ValueError("gateway.pepper: required when there are tenants")
        if not self.jobs.enabled and (later := self._upgrading_later()):
            raise ValueError(f"{later}.upgrade_later: an upgrade is a job; set jobs.enabled")
        if self.jobs.enabled and self.tenants and self.jobs.key is None:
            raise ValueError("jobs.key: required when there are tenants; `headgate keys new` makes one")
        if not self.tenants and not self.gateway.open:
            raise ValueError("tenants: add one, or set gateway.open: true to answer without keys on loopback")
        if self.gateway.open and OPEN_TENANT in self.tenants:
            raise ValueError("tenants.open: with gateway.open this is whoever calls without a key; rename it")
        if self.gateway.open and not all(map(is_loopback, self._listeners())):
            raise ValueError("gateway.open: only allowed while every listener is on loopback")
        return self

    def _upgrading_later(self) -> str:
        """The first setting that wants upgrades; empty where none does."""
        named = {f"tenants.{name}.cascade": tenant.cascade for name, tenant in self.tenants.items()}
        wanted = {"policy.cascade": self.policy.cascade, **named}
        return next((name for name, one in wanted.items() if one is not None and one.upgrade_later), "")

    def _shadow_holds(self) -> None:
        scorer = self.shadow.scorer
        named = {"models": self.shadow.models or (), "scorer.model": (scorer.model,) if scorer else ()}
        for setting, models in named.items():
            for model in models:
                if model is not None and model not in self.pool:
                    raise ValueError(f"shadow.{setting}: the pool has no model {model!r}")

    @model_validator(mode="after")
    def _key_ids_differ(self) -> Self:
        """An id says whose key it is: under a second one with the same id, the first would not open."""
        owners: dict[str, str] = {self.jobs.key.id: "job runners"} if self.jobs.key else {}
        for tenant, key in ((name, key) for name, settings in self.tenants.items() for key in settings.keys):
            if key.id in owners:
                other = "another of its keys" if owners[key.id] == tenant else f"tenant {owners[key.id]!r}"
                raise ValueError(f"tenants.{tenant}.keys: the id {key.id!r} is also used by {other}")
            owners[key.id] = tenant
        return self

    def _listeners(self) -> tuple[Address, ...]:
        gateway, jobs = self.gateway, self.jobs
        return (gateway.listen, gateway.admin_listen, gateway.metrics_listen, jobs.metrics_listen)


def of_process(number: int, address: Address) -> Address:
    """Where process `number`, from 0, has what the first has at `address`; port 0 stays any free one."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number if int(port) else 0}"


def is_loopback(address: Address) -> bool:
    """Whether `host:port` can only be reached from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
