"""A gateway process from start to drain: ports, workers that die or freeze, reloads, logs."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import uuid
from collections.abc import AsyncIterable, Iterator
from importlib import resources
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import status_map
from headgate.v1 import admin_pb2, router_pb2, router_pb2_grpc, types_pb2
from tests.integration import closed_window
from tests.integration.gateway_rig import (
    PEPPER,
    SECRETS,
    Process,
    Stack,
    config,
    details,
    eventually,
    generate,
    key,
    metrics,
    query,
    refusal,
    stack,
    streamed,
    stub,
    text_of,
)

ACME = key("acme")
BUNDLE = resources.files("headgate.gateway").joinpath("bundles/builtin.bundle")
Stub = router_pb2_grpc.RouterServiceStub


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory) as one:
        yield one


def attempt_to_start(running: Stack, *extra: str) -> tuple[int, str]:
    """Exit code and output of a second gateway."""
    (running.directory / "second.log").unlink(missing_ok=True)
    process = running.start_gateway("second", *extra)
    try:
        code = process.popen.wait(60)
    finally:
        process.stop()
    return code, process.log.read_text()


def test_a_port_in_use_is_one_clear_sentence(running: Stack) -> None:
    for flag, address in (
        ("--listen", running.addresses["listen"]),
        ("--admin-listen", running.addresses["admin"]),
        ("--metrics-listen", running.addresses["metrics"]),
    ):
        code, said = attempt_to_start(running, flag, address)
        assert code == 1
        assert address in said
        assert "in use" in said
        assert "Traceback" not in said
        assert len([line for line in said.splitlines() if line.startswith("headgate gateway: ")]) == 1


def test_a_broken_bundle_is_one_clear_sentence(running: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "broken.bundle"
    broken.write_bytes(BUNDLE.read_bytes()[:-100])
    settings = config()
    settings["policy"] = {"bundle": str(broken)}
    running.write(settings)
    code, said = attempt_to_start(running)
    assert code == 1
    assert str(broken) in said
    assert "Traceback" not in said


def test_a_certificate_that_does_not_fit_is_not_called_a_port_in_use(running: Stack) -> None:
    key_file = str(Path(__file__).parent / "tls/key.pem")
    running.write(config(tls={"certificate": key_file, "key": key_file}))
    code, said = attempt_to_start(running)
    assert code == 1
    assert "\nheadgate gateway: gateway.tls: " in said
    assert "in use" not in said


def test_the_admin_port_stays_on_loopback(running: Stack) -> None:
    code, said = attempt_to_start(running, "--admin-listen", "0.0.0.0:0")
    assert code == 1
    assert "gateway.admin_listen" in said


async def test_two_processes_share_a_port_when_asked(tmp_path_factory: pytest.TempPathFactory) -> None:
    with stack(tmp_path_factory) as one:
        first = one.start_gateway("first", "--reuse-port")
        shared = first.addresses()["listen"]
        second = one.start_gateway("second", "--listen", shared, "--reuse-port")
        try:
            assert second.addresses()["listen"] == shared
            first.stop()
            async with grpc.aio.insecure_channel(shared) as channel:
                assert await stub(channel).Generate(
                    generate("x"), metadata=ACME, wait_for_ready=True, timeout=20
                )
        finally:
            first.stop()
            second.stop()


async def _stream(
    call: AsyncIterable[router_pb2.StreamGenerateResponse],
) -> tuple[list[str], grpc.StatusCode]:
    kinds = []
    try:
        async for event in call:
            kinds.append(str(event.WhichOneof("event")))  # noqa: PERF401  (what came before an error counts)
    except grpc.aio.AioRpcError as error:
        return kinds, error.code()
    return kinds, grpc.StatusCode.OK


async def test_a_worker_that_dies_in_mid_stream_is_an_explicit_error(running: Stack) -> None:
    async with running.channel() as channel:
        script = {"say": ["half ", "never"], "gap_s": 60, "nonce": uuid.uuid4().hex}
        call = stub(channel).StreamGenerate(streamed(script, model="small"), metadata=ACME)
        events = aiter(call)
        assert [(await anext(events)).WhichOneof("event") for _ in range(2)] == ["decision", "delta"]
        running.workers["small"].popen.kill()
        kinds, code = await _stream(events)
        assert kinds == ["error"]
        assert code is grpc.StatusCode.UNAVAILABLE
        running.restart_worker("small")
        request = generate("back again", model="small")
        answer = await _until_answered(stub(channel), request)
        assert text_of(answer) == "small: back again"


async def _until_answered(router: Stub, request: router_pb2.GenerateRequest) -> router_pb2.GenerateResponse:
    for _ in range(200):
        try:
            return await router.Generate(request, metadata=ACME)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  (any other ends the wait)
            await asyncio.sleep(0.05)
    raise AssertionError("the model did not come back")


async def test_a_frozen_worker_is_left_alone_and_its_answers_are_cut(running: Stack) -> None:
    async with running.channel() as channel:
        router = stub(channel)
        name = uuid.uuid4().hex
        script = {"say": ["half ", "never"], "gap_s": 60, "nonce": name}
        call = router.StreamGenerate(streamed(script, model="large", request_id=name), metadata=ACME)
        events = aiter(call)
        assert [(await anext(events)).WhichOneof("event") for _ in range(2)] == ["decision", "delta"]
        running.workers["large"].send(signal.SIGSTOP)
        kinds, code = await asyncio.wait_for(_stream(events), 60)
        assert kinds == ["error"]
        assert code is grpc.StatusCode.UNAVAILABLE
        answer = await router.Generate(generate("1 + 1"), metadata=ACME, timeout=20)
        assert answer.decision.model == "small"
        if answer.decision.reason != types_pb2.REASON_POLICY:
            assert types_pb2.DEGRADATION_WORKER in answer.decision.degraded
        assert [attempt.model for attempt in answer.decision.attempts] == ["small"]
        running.workers["large"].send(signal.SIGCONT)
        assert await _until_answered(router, generate("thawed", model="large"))


async def test_a_restart_fails_no_request_of_a_client_that_watches_health(running: Stack) -> None:
    settings = config(lame_duck_s=3)
    running.write(settings)
    other = running.start_gateway("other")
    addresses = [running.addresses["listen"], other.addresses()["listen"]]
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "headgate.v1.RouterService"},
    }
    options = [("grpc.service_config", json.dumps(service_config))]
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options=options) as channel:
        router = stub(channel)
        done, failed = asyncio.Event(), []
        counts = [0, 0]

        async def load(number: int) -> None:
            while not done.is_set():
                script = {"say": ["x"], "gap_s": 0.1, "nonce": uuid.uuid4().hex}
                try:
                    await router.Generate(generate(script, model="small"), metadata=ACME, timeout=20)
                except grpc.aio.AioRpcError as error:
                    failed.append(f"{error.code()}: {error.details()}")
                counts[number % 2] += 1

        await router.Generate(generate("warm"), metadata=ACME, wait_for_ready=True, timeout=20)
        loads = [asyncio.ensure_future(load(number)) for number in range(4)]
        await eventually(lambda: sum(counts) > 20, what="load")
        assert await asyncio.to_thread(other.stop) == 0
        before = sum(counts)
        await eventually(lambda: sum(counts) > before + 20, what="load after the drain")
        done.set()
        await asyncio.gather(*loads)
        assert failed == []


async def test_who_has_not_yet_heard_of_a_drain_is_still_answered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Between NOT_SERVING and the end of the lame-duck time new calls still get in."""
    with stack(tmp_path_factory, config(lame_duck_s=5)) as one:
        async with one.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="headgate.v1.RouterService"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            one.gateway.send(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await stub(channel).Generate(generate("late"), metadata=ACME, timeout=4)
            watch.cancel()


async def test_a_health_watcher_that_does_not_read_holds_up_no_drain_and_no_probe(running: Stack) -> None:
    gateway = running.start_gateway("watched")
    try:
        address = (await asyncio.to_thread(gateway.addresses))["listen"]
        with closed_window.watching(address, "headgate.v1.RouterService") as stuck:
            await asyncio.to_thread(stuck.wait_for_headers)
            async with grpc.aio.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(health_pb2.HealthCheckRequest(service="headgate.v1.RouterService"))
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                gateway.send(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await asyncio.to_thread(gateway.popen.wait, 20) == 0
    finally:
        await asyncio.to_thread(gateway.stop)


async def test_running_streams_end_well_in_a_drain(running: Stack) -> None:
    async with running.channel() as channel:
        script = {"say": ["one ", "two ", "three"], "gap_s": 0.7, "nonce": uuid.uuid4().hex}
        stream = stub(channel).StreamGenerate(streamed(script, request_id="drained"), metadata=ACME)
        call = asyncio.ensure_future(_stream(stream))
        await eventually(lambda: running.events("drained"), what="the stream to begin")
        running.gateway.send(signal.SIGTERM)
        kinds, code = await call
        assert (kinds[-1], code) == ("finished", grpc.StatusCode.OK)
        assert await asyncio.to_thread(running.gateway.popen.wait, 20) == 0
    ids = [record[b"request_id"] for _, record in running.valkey.client.xrange("headgate:ledger")]
    assert b"drained" in ids


async def test_what_outlives_the_drain_is_told_that_it_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    with stack(tmp_path_factory, config(lame_duck_s=0, drain_s=0.5)) as one:
        async with one.channel() as channel:
            router, script = (
                stub(channel),
                {"say": ["half ", "never"], "gap_s": 60, "nonce": uuid.uuid4().hex},
            )
            stream = router.StreamGenerate(streamed(script, request_id="stream"), metadata=ACME, timeout=60)
            whole = router.Generate(generate(script, request_id="whole"), metadata=ACME, timeout=60)
            told = asyncio.ensure_future(refusal(whole))
            assert [(await stream.read()).WhichOneof("event") for _ in range(2)] == ["decision", "delta"]  # type: ignore[union-attr]
            await eventually(lambda: one.events("whole"), what="the call to begin")
            one.gateway.send(signal.SIGTERM)
            last = await stream.read()
            assert isinstance(last, router_pb2.StreamGenerateResponse)
            assert status_map.reason_of(last.error) == "DRAINING"
            for error in (await refusal(stream.read()), await told):
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert status_map.reason_of(details(error)) == "DRAINING"
        assert await asyncio.to_thread(one.gateway.popen.wait, 20) == 0
        records = [record for _, record in one.valkey.client.xrange("headgate:ledger")]
        codes = {record[b"request_id"]: record[b"code"] for record in records}
        assert codes == {b"stream": b"UNAVAILABLE", b"whole": b"UNAVAILABLE"}
        for name in ("stream", "whole"):
            await eventually(
                lambda name=name: "cancelled" in one.events(name), what="the worker to be let go"
            )


async def test_a_reload_takes_all_of_a_good_config_and_nothing_of_a_bad_one(running: Stack) -> None:
    async with (
        running.channel() as channel,
        grpc.aio.insecure_channel(running.addresses["admin"]) as operator,
    ):
        router, admin = stub(channel), running.admin(operator)
        for bad, named in (
            (running.config_file.read_text() + "no_such_key: 1\n", "no_such_key"),
            ("version: 1\ngateway: [", ":2"),
            (yaml.safe_dump(config(max_concurrent=-1)), "max_concurrent"),
            (yaml.safe_dump(config(lame_duck_s=0.7)), "gateway.lame_duck_s"),
            # The process was started with --listen, which hides it.
            (
                yaml.safe_dump(config(listen="127.0.0.1:7171")),
                "gateway.listen: takes effect only with a restart",
            ),
            (yaml.safe_dump(config(pepper="env:NOT_SET_ANYWHERE")), "NOT_SET_ANYWHERE"),
        ):
            running.config_file.write_text(bad)
            error = await refusal(admin.ReloadConfig(admin_pb2.ReloadConfigRequest()))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert named in (error.details() or "")
            assert await router.Generate(generate("still here"), metadata=ACME)
        fewer = config()
        del fewer["tenants"]["acme"]
        running.write(fewer)
        assert (await admin.ReloadConfig(admin_pb2.ReloadConfigRequest())).config_digest
        error = await refusal(router.Generate(generate("revoked"), metadata=ACME))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await router.Generate(generate("x"), metadata=key("beta"))


async def test_a_bad_bundle_leaves_the_good_one_in_force(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    file = tmp_path / "mine.bundle"
    shutil.copy(str(BUNDLE), file)
    settings = config()
    settings["policy"] = {"bundle": str(file)}
    with stack(tmp_path_factory, settings) as one:
        async with (
            one.channel() as channel,
            grpc.aio.insecure_channel(one.addresses["admin"]) as operator,
        ):
            admin, router = one.admin(operator), stub(channel)
            version = (await admin.GetStatus(admin_pb2.GetStatusRequest())).bundle_version
            assert version
            good = file.read_bytes()
            for bad in (b"", good[:1000], good[:-1] + bytes([good[-1] ^ 1])):
                file.write_bytes(bad)
                error = await refusal(admin.ReloadBundle(admin_pb2.ReloadBundleRequest()))
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
                decision = (await router.Route(_route("1 + 1"), metadata=ACME)).decision
                assert decision.bundle_version == version
            file.unlink()
            assert (await refusal(admin.ReloadBundle(admin_pb2.ReloadBundleRequest()))).code()
            file.write_bytes(good)
            reloaded = await admin.ReloadBundle(admin_pb2.ReloadBundleRequest())
            assert reloaded.bundle_version == version


def _route(text: str) -> router_pb2.RouteRequest:
    return router_pb2.RouteRequest(query=query(text))


async def test_status_says_what_is_loaded_and_what_is_missing(running: Stack) -> None:
    async with (
        running.channel() as channel,
        grpc.aio.insecure_channel(running.addresses["admin"]) as operator,
    ):
        await stub(channel).Generate(generate("x"), metadata=ACME)
        admin = running.admin(operator)
        status = await admin.GetStatus(admin_pb2.GetStatusRequest())
        described = [(one.model, one.serving, one.version.partition(":")[0]) for one in status.models]
        assert described == [("small", True, "sha256"), ("large", True, "sha256")]
        assert status.headgate_version
        assert status.requests["OK"] == 1
        running.workers["small"].popen.kill()
        for _ in range(400):
            status = await admin.GetStatus(admin_pb2.GetStatusRequest())
            if not status.models[0].serving:
                break
            await asyncio.sleep(0.02)
        assert types_pb2.DEGRADATION_WORKER in status.degraded


async def test_logs_hold_no_prompt_answer_or_secret(running: Stack) -> None:
    """At debug level, with every kind of failure forced."""
    canary = f"canary-{uuid.uuid4().hex}"
    async with running.channel() as channel:
        router = stub(channel)
        scripts: list[dict[str, object]] = [
            {"say": [canary]},
            {"say": [canary], "fail": "INTERNAL"},
            {"say": [], "fail": "UNAVAILABLE"},
            {"say": [canary], "fail": "INVALID_ARGUMENT"},
            {"say": [canary], "finish": "LENGTH"},
        ]
        for script in scripts:
            await _stream(
                router.StreamGenerate(streamed({**script, "nonce": canary}, session=canary), metadata=ACME)
            )
            await _stream(
                router.StreamGenerate(streamed({**script, "nonce": canary}, model=canary), metadata=ACME)
            )
        await refusal(
            router.Generate(generate(canary), metadata=(("authorization", f"Bearer {canary}.{canary}"),))
        )
        await refusal(router.Generate(generate(canary, request_id=f"{canary} !"), metadata=ACME))
        raw = channel.unary_unary("/headgate.v1.RouterService/Generate")
        await refusal(raw(generate(canary).SerializeToString()[:-2], metadata=ACME))
        running.workers["small"].popen.kill()
        await _stream(router.StreamGenerate(streamed({"nonce": canary}, model="small"), metadata=ACME))
    running.gateway.stop()
    log = running.gateway.log.read_text()
    assert "serving" in log
    for hidden in (canary, PEPPER, *SECRETS.values()):
        assert hidden not in log
    records = repr(running.valkey.client.xrange("headgate:ledger"))
    assert canary not in records


async def test_the_built_in_pair_answers_through_the_gateway(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Real models in real workers: gateway → brain → worker → answer."""
    directory = tmp_path_factory.mktemp("real")
    settings = directory / "headgate.yaml"
    pool = {
        name: {"source": name, "price": {"input_nanousd": price, "output_nanousd": price}}
        for name, price in (("small", 10**8), ("large", 10**9))
    }
    settings.write_text(yaml.safe_dump({"version": 1, "gateway": {"open": True}, "pool": pool}))
    common = ["--config", str(settings)]
    workers = {}
    processes = []
    try:
        for name in ("small", "large"):
            ready = directory / f"{name}.ready"
            command = [sys.executable, "-m", "headgate.worker", "--model", name, *common]
            command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready)]
            processes.append(Process(command, directory, name, {}))
            workers[name] = processes[-1].addresses()["listen"]
        command = [
            sys.executable,
            "-m",
            "headgate.gateway",
            *common,
            "--ready-file",
            str(directory / "gateway.ready"),
        ]
        for flag in ("--listen", "--admin-listen", "--metrics-listen"):
            command += [flag, "127.0.0.1:0"]
        for name, address in workers.items():
            command += ["--worker", f"{name}={address}"]
        gateway = Process(command, directory, "gateway", {})
        processes.append(gateway)
        async with grpc.aio.insecure_channel(gateway.addresses()["listen"]) as channel:
            answer = await stub(channel).Generate(generate("Tell me about the weather."), timeout=30)
            assert answer.finish_reason == types_pb2.FINISH_REASON_DECLINED
            assert text_of(answer)
            assert answer.decision.cache_status == types_pb2.CACHE_STATUS_BYPASS
            kinds, code = await _stream(stub(channel).StreamGenerate(streamed("23 + 45 ="), timeout=30))
            assert (kinds[0], kinds[-1], code) == ("decision", "finished", grpc.StatusCode.OK)
    finally:
        for process in reversed(processes):
            process.stop()


async def test_a_caller_that_does_not_read_holds_no_place_and_no_call_beyond_the_deadline(
    running: Stack,
) -> None:
    """It set no deadline, so the default holds, also while the gateway waits to write to it."""
    gateway = _gateway_with_short_streams(running)
    addresses = await asyncio.to_thread(gateway.addresses)
    name = uuid.uuid4().hex
    script = {"say": ["x" * 60_000], "times": 400, "nonce": name}
    try:
        async with grpc.aio.insecure_channel(addresses["listen"]) as channel:
            call = stub(channel).StreamGenerate(streamed(script, request_id=name), metadata=ACME)
            await eventually(lambda: _recorded(running, name) == b"DEADLINE_EXCEEDED", what="its record")
            await eventually(lambda: _inside(addresses["metrics"]) == 0, what="its place to be free")
            kinds, code = await _stream(call)
        assert kinds[0] == "decision"
        assert "finished" not in kinds
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED, "once it reads, it is told"
    finally:
        await asyncio.to_thread(gateway.stop)


def _gateway_with_short_streams(running: Stack) -> Process:
    """A gateway process whose default deadline of streams is two seconds."""
    program = """
import os, sys
from headgate.gateway import process, servicer
servicer.STREAM_S = 2.0
sys.exit(process.main(sys.argv[1:], os.environ))
"""
    return running.start_gateway("short", program=("-c", program))


def _recorded(running: Stack, request_id: str) -> bytes:
    """The code in a request's record; empty before it is written."""
    records = [record for _, record in running.valkey.client.xrange("headgate:ledger")]
    codes = [one[b"code"] for one in records if one[b"request_id"] == request_id.encode()]
    return codes[0] if codes else b""


def _inside(address: str) -> float:
    return metrics(address)["headgate_inside"]


async def test_a_process_that_cannot_serve_yet_takes_no_connection_of_a_shared_port(
    running: Stack,
) -> None:
    """The kernel shares new connections out among all that listen, and this one waits for its workers."""
    first = running.start_gateway("first", "--reuse-port")
    shared = (await asyncio.to_thread(first.addresses))["listen"]
    nobody = [flag for name in ("small", "large") for flag in ("--worker", f"{name}=127.0.0.1:1")]
    second = running.start_gateway("second", "--listen", shared, "--reuse-port", *nobody)
    try:
        await eventually(lambda: "worker not serving" in second.log.read_text(), what="it to wait")
        for _ in range(20):
            assert await _answered_on_a_connection_of_its_own(shared)
        assert not second.ready.exists()
    finally:
        second.popen.kill()
        second.stop()
        await asyncio.to_thread(first.stop)


async def _answered_on_a_connection_of_its_own(address: str) -> router_pb2.RouteResponse:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        return await stub(channel).Route(_route("1 + 1"), metadata=ACME, timeout=10)
