"""Nobody gets in without a key, nothing malformed gets further than the door, and errors name the field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from headgate.adapters import status_map
from headgate.v1 import admin_pb2, jobs_pb2, router_pb2, types_pb2
from tests.integration.gateway_rig import (
    SECRETS,
    Stack,
    config,
    details,
    eventually,
    fields,
    generate,
    key,
    metrics,
    query,
    refusal,
    stack,
    stub,
    turn,
)

ACME = key("acme")
TLS = Path(__file__).parent / "tls"
SERVICES = {
    "headgate.v1.RouterService": [
        method.name for method in router_pb2.DESCRIPTOR.services_by_name["RouterService"].methods
    ],
    "headgate.v1.JobService": [
        method.name for method in jobs_pb2.DESCRIPTOR.services_by_name["JobService"].methods
    ],
    "headgate.v1.AdminService": [
        method.name for method in admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods
    ],
    "grpc.reflection.v1alpha.ServerReflection": ["ServerReflectionInfo"],
    "headgate.v1.WorkerService": ["Generate"],
    "no.such.Service": ["Method"],
}
METHODS = [f"/{service}/{method}" for service, methods in SERVICES.items() for method in methods]
CREDENTIALS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "empty": (("authorization", ""),),
    "another scheme": (("authorization", f"Basic acme-1.{SECRETS['acme']}"),),
    "no scheme": (("authorization", f"acme-1.{SECRETS['acme']}"),),
    "wrong secret": (("authorization", "Bearer acme-1.wrong"),),
    "no secret": (("authorization", "Bearer acme-1"),),
    "a prefix of the secret": (("authorization", f"Bearer acme-1.{SECRETS['acme'][:-1]}"),),
    "another tenant's secret": (("authorization", f"Bearer acme-1.{SECRETS['beta']}"),),
    "unknown id": (("authorization", f"Bearer nobody.{SECRETS['acme']}"),),
    "expired": key("old"),
    "the digest": (("authorization", "Bearer acme-1." + "0" * 64),),
    "SQL": (("authorization", "Bearer ' OR 1=1 --.' OR '1'='1"),),
    "template": (("authorization", "Bearer {{7*7}}.${jndi:ldap://x}"),),
    "tenant by metadata": (("tenant", "acme"), ("x-tenant", "acme"), ("x-api-key", "acme-1")),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory) as one:
        yield one


@pytest.fixture
async def channel(running: Stack) -> AsyncIterator[grpc.aio.Channel]:
    async with running.channel() as one:
        yield one


def raw(channel: grpc.aio.Channel, method: str) -> Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]:
    return channel.unary_unary(method)


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("method", METHODS)
async def test_no_method_answers_without_a_key(
    channel: grpc.aio.Channel, method: str, credentials: str
) -> None:
    error = await refusal(raw(channel, method)(b"", metadata=CREDENTIALS[credentials], timeout=20))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    none_sent = dict(CREDENTIALS[credentials]).get("authorization", "") == ""
    assert status_map.reason_of(details(error)) == ("KEY_MISSING" if none_sent else "KEY_INVALID")
    assert not any(secret in str(error) for secret in SECRETS.values())


async def test_who_is_refused_is_counted_by_method_and_those_that_nobody_knows_together(
    running: Stack, channel: grpc.aio.Channel
) -> None:
    def counted() -> dict[str, float]:
        seen = metrics(running.addresses["metrics"])
        name = 'headgate_requests_total{code="UNAUTHENTICATED",method="'
        return {one.removeprefix(name)[:-2]: seen[one] for one in seen if one.startswith(name)}

    before = counted()
    for method in METHODS:
        await refusal(raw(channel, method)(b"", timeout=20))
    more = {name: value - before.get(name, 0) for name, value in counted().items()}
    ours = SERVICES["headgate.v1.RouterService"] + SERVICES["headgate.v1.JobService"]
    assert more == {**dict.fromkeys(ours, 1.0), "other": len(METHODS) - len(ours)}


async def test_nothing_that_a_caller_says_is_a_label(running: Stack, channel: grpc.aio.Channel) -> None:
    """Once each kind of request was seen, a hundred of each with other words add no series."""

    async def round_of(word: str) -> None:
        said = (*ACME, ("tenant", word), ("traceparent", word), ("headgate-ticket", word),
                ("headgate-run", word), ("headgate-upgrades", word))  # fmt: skip
        router = stub(channel)
        asked = query(f"word {word}", request_id=word, session=word, metadata={word: word})
        asked.cache.tags.append(word)
        await router.Generate(router_pb2.GenerateRequest(query=asked), metadata=said, timeout=20)
        async for _ in router.StreamGenerate(
            router_pb2.StreamGenerateRequest(query=asked), metadata=said, timeout=20
        ):
            pass
        able = generate("hi", required_capabilities=[word])
        await refusal(router.Generate(able, metadata=said, timeout=20))
        await refusal(router.Generate(generate("hi", model=word), metadata=said, timeout=20))
        outcome = router_pb2.RecordOutcomeRequest(
            request_id=word, model=word, quality=1, source=router_pb2.OUTCOME_SOURCE_USER
        )
        await router.RecordOutcome(outcome, metadata=said, timeout=20)
        await refusal(raw(channel, f"/headgate.v1.RouterService/{word}")(b"", timeout=20))
        await refusal(raw(channel, f"/{word}/Generate")(b"", metadata=said, timeout=20))
        await refusal(
            raw(channel, METHODS[0])(b"", metadata=(("authorization", f"Bearer {word}.{word}"),), timeout=20)
        )

    def series() -> set[str]:
        return set(metrics(running.addresses["metrics"]))

    await round_of("first")
    await round_of("first")
    before = series()
    for number in range(100):
        await round_of(f"w{number}")
    assert series() == before


async def test_a_huge_key_is_turned_away_at_once(channel: grpc.aio.Channel) -> None:
    huge = (("authorization", "Bearer acme-1." + "x" * 10_240),)
    error = await refusal(raw(channel, METHODS[0])(b"", metadata=huge, timeout=20))
    assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED)


async def test_every_method_answers_with_a_key(channel: grpc.aio.Channel) -> None:
    for name in SERVICES["headgate.v1.RouterService"]:
        error = await refusal(
            raw(channel, f"/headgate.v1.RouterService/{name}")(b"", metadata=ACME, timeout=20)
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, name
    error = await refusal(
        raw(channel, "/headgate.v1.RouterService/NoSuchMethod")(b"", metadata=ACME, timeout=20)
    )
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    error = await refusal(
        raw(channel, "/headgate.v1.AdminService/ReloadConfig")(b"", metadata=ACME, timeout=20)
    )
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_refused_body_is_not_waited_for(channel: grpc.aio.Channel) -> None:
    """The refusal comes although the request's message never does."""
    call = channel.stream_unary("/headgate.v1.RouterService/Generate")(timeout=20)
    error = await refusal(call)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_is_open_to_all(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "headgate.v1.RouterService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service="headgate.v1.RouterService"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


INVALID = {
    "query": router_pb2.GenerateRequest(),
    "query.messages": router_pb2.GenerateRequest(query=types_pb2.Query()),
    "query.messages[0].role": router_pb2.GenerateRequest(
        query=types_pb2.Query(messages=[turn("x", types_pb2.ROLE_UNSPECIFIED), turn("y")])
    ),
    "query.messages[0].parts": router_pb2.GenerateRequest(
        query=types_pb2.Query(messages=[types_pb2.Message(role=types_pb2.ROLE_USER)])
    ),
    "query.messages[0].parts[0].text": generate(""),
    "query.sampling.temperature": generate("x", sampling=types_pb2.Sampling(temperature=2.5)),
    "query.sampling.top_p": generate("x", sampling=types_pb2.Sampling(top_p=0)),
    "query.sampling.max_tokens": generate("x", sampling=types_pb2.Sampling(max_tokens=-1)),
    "query.sampling.stop[1]": generate("x", sampling=types_pb2.Sampling(stop=["a", ""])),
    "query.request_id": generate("x", request_id="two words"),
    "query.policy_override.risk_target": generate(
        "x", policy_override=types_pb2.PolicyOverride(risk_target=1.5)
    ),
    "query.policy_override.budget_nanousd": generate(
        "x", policy_override=types_pb2.PolicyOverride(budget_nanousd=0)
    ),
}


@pytest.mark.parametrize("field", INVALID)
async def test_a_wrong_field_is_named(channel: grpc.aio.Channel, field: str) -> None:
    error = await refusal(stub(channel).Generate(INVALID[field], metadata=ACME))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in fields(error)
    assert field in (error.details() or "")


async def test_the_last_turn_must_be_a_user_s(channel: grpc.aio.Channel) -> None:
    request = router_pb2.GenerateRequest(
        query=types_pb2.Query(messages=[turn("x"), turn("y", types_pb2.ROLE_ASSISTANT)])
    )
    error = await refusal(stub(channel).Generate(request, metadata=ACME))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ROLE_USER" in (error.details() or "")


async def test_an_invalid_stream_ends_with_an_error_event_too(channel: grpc.aio.Channel) -> None:
    call = stub(channel).StreamGenerate(router_pb2.StreamGenerateRequest(), metadata=ACME)
    event = await call.read()
    assert event.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]  # type: ignore[union-attr]
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


GOOD = generate("canary-text").SerializeToString()
MALFORMED = {
    "not a message": b"\xff\xff\xff\xff",
    "truncated": GOOD[:-3],
    "bad UTF-8": GOOD.replace(b"canary", b"\xff\xfe\xfd\xfc\xfb\xfa"),
    "endless varint": b"\x0a" + b"\xff" * 20,
    "deep nesting": b"\x0a\x7f" * 200,
    "wrong wire type": b"\x0d\x01",
}


@pytest.mark.parametrize("bytes_", MALFORMED)
@pytest.mark.parametrize("method", SERVICES["headgate.v1.RouterService"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    channel: grpc.aio.Channel, method: str, bytes_: str
) -> None:
    path = f"/headgate.v1.RouterService/{method}"
    error = await refusal(raw(channel, path)(MALFORMED[bytes_], metadata=ACME, timeout=20))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    said = (error.details() or "").lower()
    assert not any(
        word in said for word in ("exception", "error parsing", "traceback", "python", "decodeerror")
    )


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
async def test_garbage_at_the_open_door_leaks_nothing(channel: grpc.aio.Channel, method: str) -> None:
    error = await refusal(raw(channel, method)(b"\xff\xff\xff", timeout=20))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_garbage_for_reflection_leaks_nothing(channel: grpc.aio.Channel) -> None:
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    call = channel.stream_stream(method)(iter([b"\xff\xff\xff"]), metadata=ACME, timeout=20)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_over_a_mebibyte_is_refused(channel: grpc.aio.Channel) -> None:
    big = GOOD + b"\xfa\x7f\x80\x80\x40" + b"y" * (1 << 20)
    error = await refusal(raw(channel, "/headgate.v1.RouterService/Generate")(big, metadata=ACME, timeout=20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metadata_has_one_limit_and_it_is_exact(channel: grpc.aio.Channel) -> None:
    """7 KiB always pass, 9 KiB never do."""
    route = stub(channel).Route
    request = router_pb2.RouteRequest(query=query("1 + 1"))

    async def ask(size: int) -> bool:
        try:
            await route(request, metadata=(*ACME, ("x-padding", "x" * size)), timeout=20)
        except grpc.aio.AioRpcError:
            return False
        return True

    assert all(await asyncio.gather(*(ask(7_000) for _ in range(20))))
    assert not any(await asyncio.gather(*(ask(9_000) for _ in range(20))))


def test_a_client_built_from_reflection_alone_makes_a_call(running: Stack) -> None:
    with grpc.insecure_channel(running.addresses["listen"]) as plain:
        keyed = grpc.intercept_channel(plain, _WithKey())
        database = ProtoReflectionDescriptorDatabase(keyed)
        assert set(database.get_services()) == {
            "headgate.v1.RouterService",
            "headgate.v1.JobService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName("headgate.v1.RouterService").FindMethodByName("Generate")
        asked = message_factory.GetMessageClass(method.input_type)
        answered = message_factory.GetMessageClass(method.output_type)
        call = keyed.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        request = asked()
        request.query.messages.add(role=2).parts.add(text="reflected")
        assert call(request, timeout=20).message.parts[0].text.endswith("reflected")  # type: ignore[attr-defined]


class _WithKey(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
    """Adds the key to every call, as a caller's own channel would."""

    def intercept_unary_unary(self, continuation, details, request):  # type: ignore[no-untyped-def]
        return continuation(details._replace(metadata=ACME), request)

    def intercept_stream_stream(self, continuation, details, requests):  # type: ignore[no-untyped-def]
        return continuation(details._replace(metadata=ACME), requests)


async def test_over_the_limit_callers_are_told_when_to_come_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with stack(tmp_path_factory, config(max_concurrent=1)) as small:
        async with small.channel() as channel:
            script = {"say": ["a", "b"], "gap_s": 60}
            held = stub(channel).Generate(generate(script, request_id="held"), metadata=ACME)
            reading = asyncio.ensure_future(held)  # type: ignore[arg-type]
            await eventually(lambda: small.events("held"), what="the first call to begin")
            error = await refusal(stub(channel).Generate(generate("x"), metadata=ACME))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (status_map.retry_after_s(details(error)) or 0) > 0
            assert int(dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"]) > 0
            held.cancel()
            await asyncio.wait({reading})


async def test_tls_is_two_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a certificate for localhost that only this test trusts."""
    tls = {"certificate": str(TLS / "cert.pem"), "key": str(TLS / "key.pem")}
    with stack(tmp_path_factory, config(tls=tls)) as secured:
        trusting = grpc.ssl_channel_credentials((TLS / "cert.pem").read_bytes())
        port = secured.addresses["listen"].rpartition(":")[2]
        async with grpc.aio.secure_channel(f"localhost:{port}", trusting) as channel:
            answer = await stub(channel).Generate(generate("over TLS"), metadata=ACME, timeout=20)
            assert answer.message.parts[0].text.endswith("over TLS")
        async with secured.channel() as plain:
            error = await refusal(stub(plain).Generate(generate("x"), metadata=ACME, timeout=5))
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("method", ["GetStatus", "ReloadConfig", "ReloadBundle"])
async def test_the_operator_s_door_obeys_no_garbage(running: Stack, method: str) -> None:
    async with grpc.aio.insecure_channel(running.addresses["admin"]) as admin:
        error = await refusal(raw(admin, f"/headgate.v1.AdminService/{method}")(b"\xff\xff\xff", timeout=20))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the request is not a message of this method"
