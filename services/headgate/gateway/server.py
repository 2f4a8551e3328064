"""The life of a gateway process: built from its settings, serving, reloaded, drained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headgate.adapters import channels, job_servers, semantic_feed, validation
from headgate.adapters.breaker import Breaker
from headgate.adapters.config import OPEN_TENANT, Config, PolicyConfig
from headgate.adapters.decoding import Decoding
from headgate.adapters.health import HealthServicer
from headgate.adapters.job_queue import JobQueue
from headgate.adapters.loop_lag import LoopLag
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import RedisJobs, Terms
from headgate.adapters.redis_rooms import LEFT_ALONE_S, Rooms
from headgate.adapters.semantic_feed import SemanticFeed
from headgate.adapters.settings import ConfigError, Loaded
from headgate.adapters.status_map import InvalidRequestError, ReloadError, ServiceError, Violation, code_of
from headgate.adapters.telemetry import Fact, Metrics
from headgate.gateway import facts, jobs, status, tls_pair
from headgate.gateway.admin import AdminServicer, Controls
from headgate.gateway.admission import Door, Keyring, Room
from headgate.gateway.answer_cache import AnswerCache
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.conductor import Conductor
from headgate.gateway.decider import Decider
from headgate.gateway.drain import Drain
from headgate.gateway.job_desk import JobDesk
from headgate.gateway.jobs import JobServicer
from headgate.gateway.like_questions import LikeQuestions
from headgate.gateway.purges import Scope
from headgate.gateway.purging import Purging
from headgate.gateway.recent import Recent
from headgate.gateway.records import Recorder
from headgate.gateway.reuse import Reuse
from headgate.gateway.semantic_cache import SemanticCache
from headgate.gateway.servicer import SERVICE, RouterServicer
from headgate.gateway.sessions import Sessions
from headgate.gateway.shadow import Places, Shadow, draw_key
from headgate.gateway.upgrades import Upgrades
from headgate.gateway.visits import Visits
from headgate.gateway.workers import Worker, Workers
from headgate.router.embedding import Embedding
from headgate.router.types import Objective
from headgate.v1 import admin_pb2_grpc, jobs_pb2, jobs_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

_LOG = structlog.get_logger(__name__)
WORDS: Final = resources.files("headgate.router").joinpath("words.npz")
JOB_REPLY_S: Final = 2.0
"""Who submits a job wants it kept: it is waited for, though not for ever."""
LAST_WORD_S: Final = 0.5
"""After the drain: the time that requests have to say that they end. Then their calls are cancelled."""
MOST_NAMED: Final = 20
"""Names that a sentence lists of those that there are."""
WAIT_FOR_WORKERS_S: Final = 30.0
"""How long a start waits for all workers; then it serves with those that are there."""
_METHODS: Final = frozenset(
    f"/{service.full_name}/{method.name}"
    for service in (
        router_pb2.DESCRIPTOR.services_by_name["RouterService"],
        jobs_pb2.DESCRIPTOR.services_by_name["JobService"],
    )
    for method in service.methods
)
"""Whose refusals are counted by name; of a caller's own names there is no end."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that a process is built from; `secrets` are resolved."""

    loaded: Loaded
    pepper: bytes
    redis_url: str | None
    broker_url: str | None
    """Where jobs wait for a runner; None where jobs are off."""
    workers: Mapping[str, str]
    """Each model's worker address."""
    reuse_port: bool = False


class PortTakenError(Exception):
    """An address cannot be listened on."""


class Gateway:
    """One gateway process."""

    def __init__(self, sources: Sources, read_again: Callable[[], Sources]) -> None:
        """`read_again` reads the settings anew for a reload; it raises ConfigError."""
        config = sources.loaded.config
        self._sources = sources
        self._read_again = read_again
        self._metrics = Metrics()
        for model in config.pool:
            # What they cost first would else be missing from every increase.
            self._metrics.cost.labels(model)
            self._metrics.shadow_cost.labels(model)
        self._lag = LoopLag(self._metrics.loop_lag.observe)
        self._bundles = BundleStore()
        self._health = HealthServicer()
        self._rooms = Rooms(sources.redis_url, config.redis.ledger_length) if sources.redis_url else None
        self._workers = Workers(config.pool, sources.workers, config.policy.reference, self._worker_changed)
        store = self._rooms.store if self._rooms else None
        self._recent = Recent(config.cache.memory_mb << 20)
        self._cache = AnswerCache(
            self._rooms.answers if self._rooms else None, config.cache.ttl_s, self._recent
        )
        self._cache.enabled = config.cache.enabled
        self._semantic: SemanticCache | None
        self._semantic, like = self._semantic_cache()
        self._purging = Purging(self._rooms, self._cache, sources.redis_url, self._semantic)
        self._recorder = Recorder(
            self._rooms.ledger if self._rooms else None, self._metrics.ledger_dropped.inc
        )
        self._room = Room(config.gateway.max_concurrent)
        self._watching = Room(jobs.MOST_WATCHING)
        self._door = Door(
            Keyring(config, sources.pepper), self._room, time.time, self._count_refusal,
            {jobs.WATCH: self._watching},
        )  # fmt: skip
        self._drain = Drain()
        self._samples = Recorder(self._rooms.samples if self._rooms else None, self._count_unwritten)
        self._shadow = Shadow(
            config.shadow, draw_key(sources.pepper), self._workers, self._places(), self._metrics
        )
        self._jobs = self._job_records()
        self._queue = JobQueue(sources.broker_url) if self._jobs and sources.broker_url else None
        self._desk = self._job_desk()
        self._reuse = Reuse(self._cache, self._workers, self._metrics, like)
        self._reuse.semantic = config.cache.semantic
        self._upgrades = Upgrades(self._desk) if self._desk else None
        sessions = Sessions(store)
        self._decider = Decider(
            self._workers, self._bundles, sessions, self._metrics, _objective(config.policy),
            config.policy.cascade, takes_jobs=self._upgrades is not None,
        )  # fmt: skip
        self._conductor = Conductor(
            self._workers, self._decider, self._reuse, sessions, self._recorder, self._metrics, self._drain,
            self._shadow, self._upgrades,
        )  # fmt: skip
        self._draining = False
        self._configured = time.time()
        self._warnings: list[str] = []
        self._public = self._public_server()
        self._admin = self._admin_server()

    def count_lost_spans(self, count: int) -> None:
        """Of traces whose collector did not get them."""
        self._metrics.spans_dropped.inc(count)

    async def start(self) -> dict[str, str]:
        """Serves; returns the addresses of `listen`, `admin` and `metrics` with their real ports.

        Raises PortTakenError, PortInUseError, BundleError or ConfigError, each with one sentence.
        """
        gateway = self._sources.loaded.config.gateway
        credentials = tls_pair.credentials(gateway.tls)
        shared = self._sources.reuse_port
        addresses = {
            "listen": gateway.listen if shared else _bind(self._public, gateway.listen, credentials),
            "admin": _bind(self._admin, gateway.admin_listen, None),
            "metrics": self._metrics.serve(gateway.metrics_listen),
        }
        await self._bundles.load(self._sources.loaded.config.policy.bundle)
        await self._check_redis()
        await self._check_job_servers()
        self._recorder.start()
        self._samples.start()
        self._purging.start()
        if self._semantic is not None:
            self._semantic.start()
        self._watch_gauges()
        await self._warm_up()
        await self._workers.start(WAIT_FOR_WORKERS_S)
        if shared:
            # From here on the kernel gives it a part of all new connections: it must be able to serve.
            addresses["listen"] = _bind(self._public, gateway.listen, credentials)
        self._lag.start()
        await self._public.start()
        await self._admin.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return addresses

    async def _check_redis(self) -> None:
        """Raises ConfigError where Redis may push the ledger out; one that cannot be asked is no reason."""
        if self._rooms is None:
            if self._sources.loaded.config.shadow.share:
                _LOG.warning("nothing is sampled: shadow sampling needs a Redis")
            return
        try:
            policy = await self._rooms.may_evict_ledger()
        except SideRoomError as error:
            _LOG.warning("redis does not say what it evicts", because=str(error))
            return
        if policy:
            raise ConfigError(
                f"redis.url: this Redis may evict the ledger (maxmemory-policy {policy}); set its "
                "maxmemory-policy to volatile-lru, or name a Redis that evicts only what expires"
            )

    async def _check_job_servers(self) -> None:
        """Raises ConfigError where one of them may evict a job; what else is to be said goes to `status`."""
        records, broker = self._sources.redis_url, self._sources.broker_url
        if self._jobs is not None and records and broker:
            self._warnings = await job_servers.check(records, broker)
        for sentence in self._warnings:
            _LOG.warning(sentence)

    async def _warm_up(self) -> None:
        """Compiles the rules of requests and connects to Redis, so that no caller waits for either."""
        for request in (
            router_pb2.GenerateRequest,
            router_pb2.StreamGenerateRequest,
            router_pb2.RouteRequest,
        ):
            with suppress(InvalidRequestError):
                validation.check(request(query=types_pb2.Query()))
        if self._rooms is not None:
            with suppress(SideRoomError):
                await self._rooms.store.get("warm-up")

    async def drain(self) -> None:
        """Says NOT_SERVING, goes on for the lame-duck time, lets requests end, then writes what waits.

        Requests that still run after `drain_s` end with DrainingError.
        """
        gateway = self._sources.loaded.config.gateway
        self._draining = True
        self._health.drain()
        self._shadow.stop()
        await asyncio.sleep(gateway.lame_duck_s)
        stopping = asyncio.create_task(self._public.stop(gateway.drain_s + LAST_WORD_S))
        await asyncio.wait({stopping}, timeout=gateway.drain_s)
        self._drain.end()
        await stopping
        await self._admin.stop(0)
        await self.close()

    async def close(self) -> None:
        """Lets go of everything that is held outside of the process."""
        self._lag.stop()
        await self._shadow.close()
        await self._reuse.close()
        await self._workers.close()
        await self._cache.settle()
        await self._purging.close()
        if self._semantic is not None:
            await self._semantic.close()
        await asyncio.gather(self._recorder.close(), self._samples.close())
        if self._rooms is not None:
            await self._rooms.close()
        if self._jobs is not None and self._upgrades is not None and self._desk is not None:
            await self._upgrades.settle()
            await self._desk.settle()
            await self._jobs.close()
        if self._queue is not None:
            self._queue.close()

    async def status(self) -> status.Status:
        """What is loaded and what a request would miss now."""
        away = not await self._cache.asks()
        warnings, semantic = list(self._warnings), []
        if self._semantic is not None:
            warnings += self._semantic.warnings
            semantic = [self._semantic.standing(tenant) for tenant in sorted(self._semantic.tenants)]
        return status.report(
            self._workers, self._bundles.current, self._decider.default_objective(),
            self._degradations(away), self._metrics, warnings, semantic, draining=self._draining,
        )  # fmt: skip

    async def reload_config(self) -> str:
        """Takes the settings as they are now; returns their digest. Raises ReloadError or BundleError."""
        try:
            fresh = self._read_again()
        except ConfigError as error:
            raise ReloadError(str(error)) from None
        old, new = self._sources.loaded.config, fresh.loaded.config
        # A flag hides what the file says: without this, a change would be taken and have no effect.
        fixed = needs_restart(self._sources.loaded.written, fresh.loaded.written)
        if fixed:
            raise ReloadError(f"{fixed}: takes effect only with a restart")
        if new.policy.bundle != old.policy.bundle:
            await self._bundles.load(new.policy.bundle)
        self._take(fresh)
        _LOG.info("config reloaded", digest=fresh.loaded.digest)
        return fresh.loaded.digest

    async def reload_bundle(self) -> str:
        """Reads the bundle file again and returns its version. Raises BundleError; then the old one stays."""
        bundle = await self._bundles.load(self._sources.loaded.config.policy.bundle)
        return bundle.version if bundle else ""

    async def purge(self, scope: Scope, unknown: bool) -> int:
        """How many answers were deleted from Redis. Raises CacheUnavailableError.

        Raises InvalidRequestError for names that the config does not have, unless `unknown` ones are meant.
        """
        if not unknown:
            check_names(scope, self._sources.loaded.config)
        return await self._purging.purge(scope)

    def _take(self, fresh: Sources) -> None:
        config = fresh.loaded.config
        self._sources, self._configured = fresh, time.time()
        self._door.keys = Keyring(config, fresh.pepper)
        self._room.most = config.gateway.max_concurrent
        self._cache.ttl_s = config.cache.ttl_s
        self._cache.enabled = config.cache.enabled
        self._recent.resize(config.cache.memory_mb << 20)
        if self._semantic is not None:
            self._semantic.configure(config)
        self._reuse.semantic = config.cache.semantic
        self._decider.objective = _objective(config.policy)
        self._decider.cascade = config.policy.cascade
        self._shadow.settings = config.shadow

    def _semantic_cache(self) -> tuple[SemanticCache, LikeQuestions] | tuple[None, None]:
        """None where it is off, or without a Redis, through which alone processes know of each other."""
        config, url = self._sources.loaded.config, self._sources.redis_url
        if url is None or not config.cache.semantic.enabled:
            return None, None
        embedding = Embedding.read(WORDS.read_bytes())
        client = connect(url, semantic_feed.REPLY_S, semantic_feed.REPLY_S, semantic_feed.REPLY_S)
        feed = SemanticFeed(client, self._metrics.semantic_dropped.inc)
        count = self._metrics.semantic
        semantic = SemanticCache(embedding, feed, config, lambda what: count.labels(what).inc())
        return semantic, LikeQuestions(semantic, self._cache, embedding)

    def _job_records(self) -> RedisJobs | None:
        """None where jobs are off. ConfigError where there is nowhere to keep them."""
        settings, url = self._sources.loaded.config.jobs, self._sources.redis_url
        if not settings.enabled:
            return None
        if url is None:
            raise ConfigError("jobs.enabled: records of jobs need a Redis; set redis.url")
        client = connect(url, JOB_REPLY_S, JOB_REPLY_S, JOB_REPLY_S)
        breaker = Breaker(open_s=LEFT_ALONE_S, longest_s=LEFT_ALONE_S)
        return RedisJobs(client, Terms.of(settings), breaker, self._metrics.note)

    def _job_desk(self) -> JobDesk | None:
        if self._jobs is None:
            return None
        return JobDesk(self._jobs, self._queue, self._sources.pepper, self._metrics.note)

    def _public_server(self) -> grpc.aio.Server:
        options = channels.server_options(public=True, reuse_port=self._sources.reuse_port)
        server = grpc.aio.server(interceptors=[self._door, Decoding()], options=options)
        visits = Visits(self._room, self._metrics)
        servicer = RouterServicer(self._conductor, self._recorder, visits, self._drain)
        router_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(
            JobServicer(self._desk, visits, self._watching, self._drain, self._metrics.note), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, jobs.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _admin_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[Decoding()], options=channels.server_options())
        controls = Controls(self.status, self.reload_config, self.reload_bundle, self.purge)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminServicer(controls), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return server

    async def _worker_changed(self, worker: Worker) -> None:
        """Ready means: something can be answered."""
        self._metrics.worker_serving.labels(worker.name).set(worker.serving)
        serving = any(one.serving for one in self._workers)
        states = health_pb2.HealthCheckResponse
        self._health.set(SERVICE, states.SERVING if serving else states.NOT_SERVING)

    def _count_refusal(self, method: str, error: ServiceError) -> None:
        known = method.rpartition("/")[2] if method in _METHODS else "other"
        self._metrics.requests.labels(known, code_of(error)[0].name).inc()

    def _places(self) -> Places | None:
        """Where samples go; None without a Redis, and then there are none."""
        if self._rooms is None:
            return None
        return Places(self._rooms.texts, self._rooms.budget, self._samples)

    def _count_unwritten(self, count: int) -> None:
        self._metrics.shadow_samples.labels("unwritten").inc(count)

    def _degradations(self, away: bool = False) -> list[str]:
        missing = {
            "CACHE": self._cache.degraded or (self._semantic is not None and self._semantic.degraded),
            "LEDGER": self._recorder.degraded or away,
            "WORKER": not all(worker.serving for worker in self._workers),
        }
        return [name for name, is_missing in missing.items() if is_missing]

    def _watch_gauges(self) -> None:
        loop = asyncio.get_running_loop()
        self._metrics.facts.source = self._facts
        self._metrics.inside.set_function(lambda: self._room.inside)
        self._metrics.cache_memory.set_function(lambda: self._recent.bytes)
        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        if self._rooms is not None:
            breaker = self._rooms.breaker
            self._metrics.redis_breaker_open.set_function(lambda: breaker.open)
        if self._queue is not None:
            queue = self._queue
            self._metrics.broker_away.set_function(lambda: queue.away)

    def _facts(self) -> Iterator[Fact]:
        bundles, now = self._bundles, time.time()
        objective = self._decider.default_objective()
        yield from facts.of_policy(bundles.current, self._workers, objective, now)
        yield from facts.of_bundle(bundles.current, bundles.loaded)
        yield from facts.of_config(self._sources.loaded.digest, self._configured, self._room.most)
        yield from facts.of_health(self._workers, self._degradations(), draining=self._draining)


def needs_restart(old: Config, new: Config) -> str:
    """The first setting that differs and cannot change while the process runs; empty when there is none."""
    for name in (
        "listen",
        "admin_listen",
        "metrics_listen",
        "processes",
        "open",
        "tls",
        "drain_s",
        "lame_duck_s",
    ):
        if getattr(old.gateway, name) != getattr(new.gateway, name):
            return f"gateway.{name}"
    if old.cache.semantic.enabled != new.cache.semantic.enabled:
        return "cache.semantic.enabled"
    if old.policy.reference != new.policy.reference:
        return "policy.reference"
    for name in ("pool", "redis", "jobs", "telemetry", "log_level"):
        if getattr(old, name) != getattr(new, name):
            return name
    return ""


def check_names(scope: Scope, config: Config) -> None:
    """Raises InvalidRequestError for a tenant or model that the config does not have."""
    tenants = [*config.tenants, *([OPEN_TENANT] if config.gateway.open else [])]
    for field, name, known in (("tenant", scope.tenant, tenants), ("model", scope.model, list(config.pool))):
        if name and name not in known:
            there = ", ".join(known[:MOST_NAMED]) + (", …" if len(known) > MOST_NAMED else "")
            sentence = f"the config has no {field} {name!r}, only {there or 'none'}"
            words = f"{sentence}; one that was removed is purged as unknown (--unknown)"
            raise InvalidRequestError(words, [Violation(field, sentence)])


def _objective(policy: PolicyConfig) -> Objective | None:
    if policy.risk_target is None and policy.budget_nanousd is None:
        return None
    return Objective(policy.risk_target, policy.budget_nanousd)


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise PortTakenError(
            f"cannot listen on {address}: the port is in use or the address is not this machine's"
        ) from None
    return f"{address.rpartition(':')[0]}:{port}"
