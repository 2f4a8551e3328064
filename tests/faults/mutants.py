"""Faults planted in our own code, each with the promise that must notice it.

A mutant replaces a few lines in a copy of a package; the processes of the promise's test find the copy first.
A mutant whose lines are no longer there is an error: whoever changes them says what the fault would be now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "services" / "headgate"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`changes`: for each file of `services/headgate`, what is replaced by what."""

    fault: str
    changes: Mapping[str, Mapping[str, str]]
    noticed_by: str
    """The promise's test, as seen from tests/faults."""
    symptom: str
    """What that test must say: it should fail for the fault, not for something else."""

    def plant(self, directory: Path) -> Path:
        """Copies the packages that change; returns what goes in front of the module path."""
        for name, replaced in self.changes.items():
            package = name.partition("/")[0]
            shutil.copytree(SOURCE / package, directory / "headgate" / package, dirs_exist_ok=True)
            file = directory / "headgate" / name
            file.write_text(_replaced(file.read_text(), replaced, name))
        return directory

    def promise_kept(self, directory: Path) -> subprocess.CompletedProcess[str]:
        """Runs the promise's test against the mutant."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-p",
            "no:cacheprovider",
            f"tests/faults/{self.noticed_by}",
        ]
        path = os.pathsep.join(filter(None, (str(self.plant(directory)), os.environ.get("PYTHONPATH"))))
        environ = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)


def _replaced(text: str, replaced: Mapping[str, str], name: str) -> str:
    for old, new in replaced.items():
        if text.count(old) != 1:
            raise ValueError(f"{name} has {text.count(old)} places to plant the mutant at, not one: {old!r}")
        text = text.replace(old, new)
    return text


_RECORDED = "            self._record(journey, code, final, last)\n"
_WAITED = """\
            nobody = asyncio.create_task(asyncio.sleep(0))
            await asyncio.wait({*self._shadow._tasks, nobody}, timeout=0.5)
"""
_SUBMITTED = "request.batch_id, expires, begins=begins)\n"
_HELD = """\
  if state == 'running' and tonumber(redis.call('HGET', job, 'lease') or 0) > now then return 'held' end
"""
_FORGOTTEN = "        self.text.clear()\n"
_WATCH_OVER = """\
                    job = _wire(await self._record(tenant, name))
                    yield jobs_pb2.WatchJobResponse(event_id=after, job=job)
                    return
"""
_RECORDS = "../integration/test_job_records.py::"
_DECIDE = '        span = traces.begun("internal", words.DECIDE)\n'
_ORDERED = "        scope, at = _order(news)\n        self._cache.purge(scope, at)\n"
_CHARGED = "        price = worker.model.price if worker.model else None\n        cost = call_cost("

MUTANTS = (
    Mutant(
        "cancellation is not forwarded",
        {
            "gateway/calls.py": {
                "await call.read()": "await asyncio.shield(asyncio.ensure_future(call.read()))",
                "    call.cancel()\n    if not": "    if not",
            }
        },
        "test_cancels.py::test_a_cancel_reaches_the_upstream[before the first token-StreamGenerate]",
        "TimeoutError",
    ),
    Mutant(
        "a status is swallowed",
        {
            "gateway/visits.py": {
                "            await status_map.abort(context, error)\n": "            return\n"
            }
        },
        "test_kills.py::test_an_upstream_that_cuts_its_answer_is_an_explicit_error",
        "{'silent cuts': ",
    ),
    Mutant(
        "after text was delivered the call is made again",
        {"gateway/journey.py": {"return self.deliver is not None and bool(self.text)": "return False"}},
        "test_kills.py::test_an_upstream_that_cuts_its_answer_is_an_explicit_error",
        "'wrong tokens': ",
    ),
    Mutant(
        "the cost of an attempt is doubled",
        {"gateway/calls.py": {_CHARGED: _CHARGED.replace("call_cost", "2 * call_cost")}},
        "test_kills.py::test_an_upstream_that_cuts_its_answer_is_an_explicit_error",
        "{'charged otherwise': ",
    ),
    Mutant(
        "a cut stream is free",
        {"gateway/calls.py": {"journey.estimated_usage() if journey.text else ": ""}},
        "test_kills.py::test_an_upstream_that_cuts_its_answer_is_an_explicit_error",
        "{'charged otherwise': ",
    ),
    Mutant(
        "a draft whose worker died is not forgotten",
        {"gateway/journey.py": {f"{_FORGOTTEN}        self.logprobs": "        self.logprobs"}},
        "test_drafted_streams.py::test_no_stream_is_cut_silently_or_says_a_token_twice_whoever_is_killed",
        "'wrong tokens': ",
    ),
    Mutant(
        "a fallback for a model that was never called is a second call",
        {"gateway/conductor.py": {"command.repeats and failures.called_in_vain(journey)": "command.repeats"}},
        "test_drafted_streams.py::test_a_model_that_is_gone_costs_no_answer_while_another_one_serves",
        "StatusCode.UNAVAILABLE",
    ),
    Mutant(
        "the drain is skipped",
        {"gateway/server.py": {"self._health.drain()": "await self._public.stop(0)"}},
        "test_restarts.py::test_a_rolling_restart_under_load_fails_no_request[gateway]",
        "StatusCode.",
    ),
    Mutant(
        "the worker's drain is skipped",
        {
            "worker/server.py": {
                "await asyncio.sleep(self._settings.lame_duck_s)\n": "await self._server.stop(0)\n"
            }
        },
        "test_restarts.py::test_a_rolling_restart_under_load_fails_no_request[worker]",
        "StatusCode.",
    ),
    Mutant(
        "the time limit of Redis is removed",
        {
            "adapters/redis_client.py": {
                "SOCKET_S: Final = 0.25": "SOCKET_S: Final = 60.0",
                "timeout=cap_s / SLICES": "timeout=None",
            }
        },
        "test_valkey.py::test_a_sick_valkey_costs_no_answer_and_is_said[frozen]",
        "DEADLINE_EXCEEDED",
    ),
    Mutant(
        "a dead answer cache is the caller's failure",
        {
            "gateway/answer_cache.py": {
                "return Found(_AWAY, ": "raise LookupError\n            return Found(_AWAY, "
            }
        },
        "test_valkey.py::test_a_sick_valkey_costs_no_answer_and_is_said[killed and restarted empty]",
        "StatusCode.INTERNAL",
    ),
    Mutant(
        "the deadline of a worker's call is removed",
        {"gateway/worker_channel.py": {"timeout=_left_s(end), metadata": "timeout=None, metadata"}},
        "test_deadlines.py::test_each_hop_has_less_time_than_the_one_before",
        "'<' not supported between instances of 'int' and 'NoneType'",
    ),
    Mutant(
        "a caller's deadline has no limit",
        {"gateway/visits.py": {"min(left, LONGEST_S)": "left"}},
        "test_deadlines.py::test_a_longer_deadline_than_any_call_may_take_is_cut_at_the_next_hop",
        "<= 600",
    ),
    Mutant(
        "the prompt is logged",
        {
            "gateway/decider.py": {
                _DECIDE: _DECIDE + '        _LOG.info("asked", what=str(journey.wire.messages[-1]))\n'
            }
        },
        "test_silence.py::test_nothing_secret_leaves_by_a_side_door",
        "canary='prompt'",
    ),
    Mutant(
        "a bad bundle takes the good one with it",
        {
            "gateway/bundle_store.py": {
                "        found = await": "        self.current = None\n        found = await"
            }
        },
        "test_bundles.py::test_bad_bundles_change_nothing_and_good_ones_swap_under_load",
        "assert ''",
    ),
    Mutant(
        "gRPC decodes by itself",
        {"gateway/server.py": {"interceptors=[self._door, Decoding()]": "interceptors=[self._door]"}},
        "test_hostile.py::test_broken_messages_are_refused_cleanly",
        "StatusCode.UNKNOWN",
    ),
    Mutant(
        "metadata has two limits",
        {
            "adapters/channels.py": {
                "METADATA_BYTES),\n)\n\n_CLIENT": "2 * METADATA_BYTES),\n)\n\n_CLIENT",
            }
        },
        "test_hostile.py::test_metadata_is_cut_at_8_kib_always",
        "== {7000:",
    ),
    Mutant(
        "retries cost nothing",
        {"gateway/retry_budget.py": {"        if self._tokens < 1:\n": "        if False:\n"}},
        "test_retries.py::test_not_every_failure_is_worth_a_second_call",
        "calls <=",
    ),
    Mutant(
        "calls that are over are kept",
        {
            "gateway/calls.py": {
                "    if not isinstance(call, Hedge):\n        worker.calls.discard(call)\n": ""
            }
        },
        "test_soak.py::test_nothing_grows_under_clients_that_leave_and_come_back",
        "AssertionError: {'gateway': ",
    ),
    Mutant(
        "an answer waits for its samples",
        {"gateway/conductor.py": {_RECORDED: _RECORDED + _WAITED}},
        "../integration/test_shadow.py::test_a_hanging_shadow_model_holds_up_no_answer",
        "s for 60 answers",
    ),
    Mutant(
        "samples cost what they like",
        {"gateway/shadow.py": {"account, most, self.settings.budget_nanousd": "account, most, 1 << 60"}},
        "../integration/test_shadow.py::test_a_spent_budget_ends_the_samples_and_not_the_answers",
        "KeyError: 'budget'",
    ),
    Mutant(
        "a run that lost its lease ends the job all the same",
        {"adapters/job_scripts/end.lua": {"if not held(fence) then return 0 end\n": ""}},
        "../integration/test_job_records.py::test_a_run_that_lost_its_lease_writes_nothing",
        "[False, False, True, False]",
    ),
    Mutant(
        "a job is taken from a runner that holds it",
        {"adapters/job_scripts/claim.lua": {_HELD: ""}},
        "../integration/test_job_records.py::test_of_many_runners_one_gets_the_job",
        "Left contains 2 more items",
    ),
    Mutant(
        "the reconciler never looks",
        {"jobs/reconciler.py": {"await self._records.due(AT_ONCE)": "list[tuple[str, str, str]]()"}},
        "../integration/test_jobs_runner.py::test_a_broker_that_forgot_everything_costs_no_job[valkey]",
        "in vain for forgotten to end",
    ),
    Mutant(
        "the queue is told of a job before its record is written",
        {"gateway/job_desk.py": {_SUBMITTED: f"{_SUBMITTED}        await self._enqueue(one)\n"}},
        "../integration/test_job_service.py::test_the_record_is_there_before_the_queue_is_told",
        "a runner would find no job",
    ),
    Mutant(
        "a job that is run again is charged again",
        {"adapters/ledger.py": {"self.lost[lost.record_id] = lost.cost_nanousd": "pass"}},
        "../integration/test_jobs_runner.py"
        "::test_a_runner_that_is_killed_in_the_middle_costs_a_run_and_no_job[valkey]",
        "too many values to unpack",
    ),
    Mutant(
        "a watch ends without its job's end",
        {"gateway/job_desk.py": {_WATCH_OVER: "                    return\n"}},
        "../integration/test_job_service.py"
        "::test_a_watcher_of_a_job_whose_events_are_gone_is_told_how_it_ended",
        "not enough values to unpack",
    ),
    Mutant(
        "events of a job whose reply got lost are there twice",
        {"adapters/job_scripts/append.lua": {"7 + parts - first": "7"}},
        f"{_RECORDS}test_a_write_that_is_made_again_is_there_once_in_whatever_order_it_comes",
        "assert [<State.QUEUE",
    ),
    Mutant(
        "a run's fence is a count",
        {"adapters/redis_jobs.py": {"secrets.token_hex(8)": '"1"'}},
        f"{_RECORDS}test_a_run_that_a_server_forgot_is_not_taken_for_the_next_one",
        "assert not True",
    ),
    Mutant(
        "the death of a runner's process is noticed in Celery's own time",
        {"jobs/parent.py": {"pool=Pool": 'pool="prefork"'}},
        "test_job_poison.py::test_a_process_that_is_killed_is_replaced_at_once",
        " < 4.0",
    ),
    Mutant(
        "who waits for another one's answer asks all the same",
        {"gateway/flights.py": {"asyncio.timeout(max(0.0, until - time.monotonic()))": "asyncio.timeout(0)"}},
        "test_shared_cache.py::test_five_hundred_equal_misses_are_one_call",
        "nobody asks twice",
    ),
    Mutant(
        "the lease of a leader that is frozen has no end",
        {"gateway/flights.py": {"LEASE_S: Final = 1.5": "LEASE_S: Final = 1e4"}},
        "test_shared_cache.py::test_a_leader_that_is_frozen_holds_nobody_up_beyond_its_lease",
        "one goes on for all others",
    ),
    Mutant(
        "memory does not hear of a purge",
        {"gateway/purging.py": {_ORDERED: ""}},
        "../integration/test_shared_answers.py::test_a_purge_reaches_every_process_and_leaves_nothing[scope0]",
        "TimeoutError",
    ),
    Mutant(
        "a purge passes over tags",
        {"gateway/purges.py": {'(*entry.tags, "")': '("",)'}},
        "../integration/test_shared_answers.py::test_a_purge_reaches_every_process_and_leaves_nothing[scope1]",
        "assert 0 >= 1",
    ),
    Mutant(
        "a tenant's name is not part of what it asks",
        {"gateway/answer_cache.py": {"        tenant.encode(),\n": ""}},
        "test_shared_cache.py::test_no_answer_is_another_tenant_s_or_to_another_question",
        "and got",
    ),
)
