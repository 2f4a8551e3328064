"""The brokers that jobs may wait on, real ones: a Valkey, or a RabbitMQ node of our own.

A node takes seconds to start, so a session has one, and whoever wants a broker gets a vhost of it that
nobody else has. It listens on loopback only, on ports of its own, and knows no other node of this machine.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import amqp
import pytest

from headgate.adapters.job_brokers import DEAD, PREFIX
from headgate.adapters.job_queue import CLASSES, TASK, queue_of
from tests.integration.gateway_rig import START_S, Valkey, wait_for

BROKERS: Final = ("valkey", "rabbitmq")
CERTIFICATE: Final = Path(__file__).parent / "tls/cert.pem"
"""Of `localhost`, signed by itself."""
VHOSTS: Final = 16
"""Of one session, each for one broker that a test asks for."""
_SCRIPTS: Final = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/lib/rabbitmq/sbin"), Path("/usr/local/sbin"))
"""Where the scripts lie that run as whoever calls them: Debian's on the path become another user first."""
_USER: Final = "headgate"
RIGHTS: Final = {
    "configure": "^headgate-",
    "write": r"^(headgate-.*|amq\.default)$",
    "read": "^headgate-",
}
"""What docs/howto/queue-work.md tells operators to grant, and nothing more."""
_QUEUES: Final = (*(queue_of(one) for one in CLASSES), DEAD)


class Broker(Protocol):
    """What a test does to a broker, whichever it is."""

    name: str
    url: str

    def stop(self) -> None:
        """Ends the server."""

    def die(self) -> None:
        """Kills the server, and takes what it has kept."""

    def start(self) -> None:
        """Starts it again where it was, with what it has kept."""

    def pause(self) -> None:
        """Freezes the server, which still takes connections."""

    def resume(self) -> None:
        """Thaws it."""

    def forget(self) -> None:
        """Loses every task and every queue, while it serves."""

    def held(self) -> int:
        """Tasks that it has, taken ones too."""

    def put_rubbish(self) -> int:
        """Puts what is no message of Celery's beside the tasks; how many of them the broker must give up."""


class OnValkey:
    """Lists on a Valkey, which may be the one of the records; it keeps nothing over a restart."""

    name = "valkey"

    def __init__(self, server: Valkey) -> None:
        self._server = server
        self.url = server.url

    def stop(self) -> None:
        """Kills it."""
        self._server.stop()

    die = stop

    def start(self) -> None:
        """Starts it, empty."""
        self._server.start()

    def pause(self) -> None:
        """SIGSTOP."""
        self._server.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._server.popen.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Deletes what Celery keeps."""
        for key in self._server.client.keys(f"{PREFIX}*"):
            self._server.client.delete(key)

    def held(self) -> int:
        """In the lists, and taken."""
        lists = sum(self._server.client.llen(f"{PREFIX}{one}") for one in _QUEUES)
        return int(lists + self._server.client.hlen(f"{PREFIX}unacked"))

    def put_rubbish(self) -> int:
        """Entries of the list that are no messages; a list has no place for what is given up."""
        for raw in (b"{}", b"no JSON \xff", b'{"body": 1, "properties": []}', b'{"properties": {}}'):
            self._server.client.lpush(f"{PREFIX}{queue_of('batch')}", raw)
        return 0


class Node:
    """A RabbitMQ node of our own."""

    def __init__(self, directory: Path) -> None:
        self._scripts = _scripts()
        self._directory = directory
        self._password = secrets.token_urlsafe(12)
        self._free = [f"v{number}" for number in range(VHOSTS)]
        (directory / "plugins").write_text("[].")
        (directory / "definitions.json").write_text(json.dumps(self._definitions()))
        wait_for(self._comes_up_somewhere, 2 * START_S, "rabbitmq to find its ports")

    def vhost(self) -> OnRabbitMQ:
        """A broker that nobody else uses."""
        return OnRabbitMQ(self, self._free.pop())

    def start(self) -> None:
        """Starts it where it was."""
        wait_for(self._comes_up, 2 * START_S, "rabbitmq to have its ports again")

    def stop(self) -> None:
        """Ends it cleanly."""
        self.popen.terminate()
        try:
            self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kills it, as a power cut does."""
        self.popen.kill()
        self.popen.wait(20)

    def lose_everything(self) -> None:
        """Takes the data of a node that is down: a disk that is gone."""
        shutil.rmtree(self._directory / "mnesia")

    def close(self) -> None:
        """Ends it and what it started."""
        if self.popen.poll() is None:
            self.stop()
        self._epmd.kill()
        self._epmd.wait(20)

    def url(self, vhost: str, password: str = "", tls_host: str = "") -> str:
        """Of a vhost, with user and password."""
        user = f"{_USER}:{password or self._password}"
        if tls_host:
            return f"amqps://{user}@{tls_host}:{self.tls_port}/{vhost}"
        return f"amqp://{user}@127.0.0.1:{self.port}/{vhost}"

    def connection(self, vhost: str) -> amqp.Connection:
        """One that is open."""
        one = amqp.Connection(
            f"127.0.0.1:{self.port}", _USER, self._password, virtual_host=vhost,
            connect_timeout=5, read_timeout=10,
        )  # fmt: skip
        one.connect()
        return one

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` says."""
        command = [str(self._scripts / "rabbitmqctl"), "--quiet", *arguments]
        run = subprocess.run(
            command, env=self._environ(), capture_output=True, text=True, check=True, timeout=60
        )
        return run.stdout

    def _definitions(self) -> dict[str, Any]:
        rights = [{"user": _USER, "vhost": one, **RIGHTS} for one in self._free]
        return {
            "users": [{"name": _USER, "password": self._password, "tags": []}],
            "vhosts": [{"name": one} for one in self._free],
            "permissions": rights,
        }

    def _comes_up_somewhere(self) -> bool:
        """On ports that no client's connection is ever given, so that they are free after a restart."""
        draw = random.SystemRandom()
        self.port, self.tls_port, self._peers, self._names = draw.sample(range(20_000, 32_000), 4)
        self._write_config()
        self._epmd = subprocess.Popen(["epmd", "-port", str(self._names), "-address", "127.0.0.1"])
        try:
            up = self._comes_up()
        except BaseException:
            self.close()
            raise
        if not up:
            self._epmd.kill()
            self._epmd.wait(20)
        return up

    def _write_config(self) -> None:
        # Else a queue tells rabbitmqctl every five seconds only what it holds.
        (self._directory / "advanced.config").write_text("[{rabbit, [{quorum_tick_interval, 200}]}].")
        (self._directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.certfile = {CERTIFICATE}\n"
            f"ssl_options.keyfile = {CERTIFICATE.with_name('key.pem')}\n"
            f"load_definitions = {self._directory / 'definitions.json'}\n"
            "vm_memory_high_watermark.absolute = 2GB\n"
            "log.file.level = info\nlog.console = false\n"
        )

    def _comes_up(self) -> bool:
        """Whether it serves; False when a port is taken."""
        with (self._directory / "node.log").open("ab") as out:
            self.popen = subprocess.Popen(
                [str(self._scripts / "rabbitmq-server"), "-noinput"],
                env=self._environ(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        wait_for(lambda: self._answers() or self.popen.poll() is not None, START_S, "rabbitmq to answer")
        return self.popen.poll() is None

    def _answers(self) -> bool:
        """Whether this node answers: no other one has the password."""
        try:
            self.connection("v0").close()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def _environ(self) -> dict[str, str]:
        at = self._directory
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(at),
            "RABBITMQ_NODENAME": f"headgate-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._peers),
            "ERL_EPMD_PORT": str(self._names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(at / "mnesia"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(at / "mnesia" / "flags"),
            "RABBITMQ_LOG_BASE": str(at / "log"),
            # The script becomes the node itself, which is then ours to stop and to kill.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
        }


class OnRabbitMQ:
    """A vhost of the node, with the rights that operators are told to grant."""

    name = "rabbitmq"

    def __init__(self, node: Node, vhost: str) -> None:
        self.node = node
        self.vhost = vhost
        self.url = node.url(vhost)

    def stop(self) -> None:
        """Stops the whole node."""
        self.node.stop()

    def die(self) -> None:
        """Kills the node, and its disk is gone."""
        self.node.kill()
        self.node.lose_everything()

    def start(self) -> None:
        """Starts the node, with what data it has."""
        self.node.start()

    def pause(self) -> None:
        """SIGSTOP."""
        self.node.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.node.popen.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Deletes the queues, each once it is made.

        RabbitMQ lists a queue before it has its process. One that is deleted in between leaves a process
        that no queue owns, and nobody can make a queue of that name any more.
        """
        for one in _QUEUES:
            wait_for(lambda queue=one: self._deleted(queue), START_S, f"{one} to be made and deleted")

    def held(self) -> int:
        """In the queues of the classes, and taken."""
        rows = json.loads(
            self.node.ctl("list_queues", "-p", self.vhost, "name", "messages", "--formatter", "json")
        )
        return sum(row["messages"] for row in rows if row["name"] != DEAD)

    def put_rubbish(self) -> int:
        """Messages that no client of Celery would make."""
        ours = {"task": TASK, "id": "rubbish"}
        headers: tuple[dict[str, Any], ...] = (
            {}, {"task": 7}, {"task": {"a": "map"}}, {"task": TASK}, {"compression": "none such"}, ours,
            {**ours, "timelimit": "long"}, {**ours, "eta": "tomorrow"}, {**ours, "expires": {}},
        )  # fmt: skip
        odd = [(b"\xff{", one, "application/json") for one in headers]
        odd += [(b"[]", {}, ""), (b"[[], {}]", ours, "application/json"), (b"", ours, "text/plain")]
        with self.node.connection(self.vhost) as connection:
            channel = connection.channel()
            for body, named, kind in odd:
                message = amqp.Message(body, application_headers=named, content_type=kind)
                channel.basic_publish(message, routing_key=queue_of("batch"))
            message = amqp.Message(b"{", content_encoding="utf-99")
            channel.basic_publish(message, routing_key=queue_of("batch"))
        return len(odd) + 1

    def _deleted(self, queue: str) -> bool:
        """Deletes a queue if its process answers, and says whether it is gone."""
        try:
            with self.node.connection(self.vhost) as connection:
                # Only the process can say what is the next task; without one RabbitMQ ends the connection.
                connection.channel().basic_get(queue)
                connection.channel().queue_delete(queue)
        except amqp.NotFound:
            return True
        except (OSError, amqp.AMQPError):
            return False
        return True

    def lose_sight_of(self, queue: str) -> None:
        """Forgets a queue whose process goes on, and ends all connections: what is left of a queue that is
        deleted while it is made."""
        resource = f'rabbit_misc:r(<<"{self.vhost}">>, queue, <<"{queue}">>)'
        self.node.ctl("eval", f'rabbit_amqqueue:internal_delete({resource}, <<"test">>).')
        self.node.ctl("close_all_connections", "-p", self.vhost, "test")

    def dead(self) -> int:
        """Tasks that it has given up."""
        with self.node.connection(self.vhost) as connection:
            return int(connection.channel().queue_declare(DEAD, passive=True).message_count)


def _scripts() -> Path:
    for one in _SCRIPTS:
        if (one / "rabbitmq-server").exists() and (one / "rabbitmqctl").exists():
            return one
    pytest.skip("rabbitmq-server is not installed; tests/system-packages.txt names what tests need")


def node(directory: Path) -> Iterator[Node]:
    """For a fixture: a node that ends with it."""
    one = Node(directory)
    yield one
    one.close()
