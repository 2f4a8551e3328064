from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import psutil

from headgate.adapters.config import of_process
from headgate.adapters.diagnosis import CORE_BYTES
from headgate.client import Client, HeadgateError
from headgate.local.ports import claim, split
from tests.integration.gateway_rig import metrics, scrubbed

GONE_S = 30.0


def _routes(client: Client) -> bool:
    try:
        return bool(client.route("12 + 30 = ?", timeout_s=10).model)
    except HeadgateError:
        return False


def test_ctrl_c_leaves_no_process_and_no_folder(up):
    headgate = up()
    processes = headgate.descendants()
    assert len(processes) >= 5  # guard, Valkey, two workers, gateway
    if sys.platform == "linux":  # Elsewhere psutil cannot ask.
        limits = {process.rlimit(psutil.RLIMIT_CORE)[1] for process in processes}
        assert limits <= {0, CORE_BYTES}, "a core of any of them could hold prompts or answers"
    with Client(headgate.address) as client:
        assert client.generate("12 + 30 = ?", model="small").decision.model == "small"
    assert headgate.left_behind() != []
    assert headgate.interrupt() == 0
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []
    assert headgate.left_behind() == []
    assert headgate.lines[-1] == "stopped"


def test_ctrl_c_while_it_starts_leaves_nothing_either(start, home, until, config):
    (home / "headgate.yaml").write_text(config)
    headgate = start("up")
    until(lambda: headgate.child("--model", "small"))
    processes = headgate.descendants()
    headgate.interrupt()
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []
    assert headgate.left_behind() == []


def test_a_killed_worker_comes_back_and_answers(up, until):
    headgate = up()
    worker = headgate.child("--model", "small")
    worker.kill()
    headgate.says(r"small +│ was ended by SIGKILL; starting again in 0\.2 s")
    headgate.says(r"small +│ is back")
    assert headgate.child("--model", "small").pid != worker.pid
    with Client(headgate.address) as client:

        def answers() -> bool:
            try:
                return client.generate("12 + 30 = ?", model="small", timeout_s=10).decision.model == "small"
            except HeadgateError:
                return False

        until(answers)


def test_every_worker_has_a_page_of_metrics_and_after_a_crash_a_new_one(up, until):
    headgate = up()
    for model in ("small", "large"):
        where = headgate.says(rf"^{model}: metrics http://(\S+)/metrics")[1]
        assert metrics(where)[f'headgate_worker_busy{{model="{model}"}}'] == 0
    headgate.child("--model", "small").kill()
    headgate.says(r"small +│ is back")

    def found() -> bool:
        """Its line may come after the one above, which is not its own."""
        where = re.findall(r"small +│ .* serving .*metrics=(\S+)", "\n".join(headgate.lines))[-1]
        try:
            return metrics(where)['headgate_worker_busy{model="small"}'] == 0
        except OSError:
            return False

    until(found)


def test_a_killed_gateway_comes_back_on_its_port(up, until):
    headgate = up()
    headgate.child("headgate.gateway").kill()
    headgate.says(r"gateway +│ is back")
    with Client(headgate.address) as client:
        assert client.route("12 + 30 = ?").model


def test_nothing_outlives_a_killed_supervisor(up):
    headgate = up()
    processes = headgate.descendants()
    headgate.process.kill()
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []
    assert headgate.left_behind() == []


def test_a_second_ctrl_c_kills(up, config):
    headgate = up(config.replace("lame_duck_s: 0", "lame_duck_s: 60"))
    processes = headgate.descendants()
    headgate.process.send_signal(signal.SIGINT)
    headgate.says("draining")
    headgate.interrupt()
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []
    assert headgate.left_behind() == []


def test_gateway_processes_share_one_port(up, until, config):
    headgate = up(config.replace("  drain_s: 2\n", "  drain_s: 2\n  processes: 2\n"))
    gateways = [one for one in headgate.descendants() if "headgate.gateway" in one.cmdline()]
    assert len(gateways) == 2
    gateways[0].kill()
    with Client(headgate.address) as client:
        until(lambda: _routes(client))


def test_every_gateway_process_is_reloaded_and_scraped_at_ports_of_its_own(up, config):
    with claim("127.0.0.1", 17_400) as admin, claim("127.0.0.1", 17_500) as metrics:
        first = {"admin": admin.address, "metrics": metrics.address}
    mine = config.replace("admin_listen: 127.0.0.1:0", f"admin_listen: {first['admin']}")
    mine = mine.replace("metrics_listen: 127.0.0.1:0", f"metrics_listen: {first['metrics']}\n  processes: 2")
    headgate = up(mine)
    reloaded, status = (run(headgate, command).stdout for command in ("reload", "status"))
    for number in range(2):
        admin, metrics = (of_process(number, first[name]) for name in ("admin", "metrics"))
        headgate.says(f"admin {re.escape(admin)}, metrics http://{re.escape(metrics)}/metrics")
        with urlopen(f"http://{metrics}/metrics", timeout=10) as page:
            assert "headgate_inside" in page.read().decode()
        assert re.search(rf"^{re.escape(admin)}: config [0-9a-f]{{12}}, bundle \S+$", reloaded, re.MULTILINE)
        assert f"{admin}: headgate " in status
    assert "small serving at " in status
    port = split(first["admin"])[1]
    by_hand = subprocess.run(
        [sys.executable, "-c", snippet_of_the_guide((port, port + 1))],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert len(by_hand.stdout.splitlines()) == 4, "a config digest and a bundle of each process"
    (headgate.home / "headgate.yaml").write_text(mine + "no_such_key: 1\n")
    refused = run(headgate, "--config", "good.yaml", "reload")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("no_such_key") == 2, "each process says why"


def snippet_of_the_guide(ports):
    guide = (Path(__file__).parents[2] / "docs/howto/operate.md").read_text()
    shown = re.search(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)[1]
    assert "in [7072]:" in shown
    return shown.replace("[7072]", repr(ports), 1)


def run(headgate, *arguments):
    """A command beside the running stack; `good.yaml` is its config as it was."""
    good = headgate.home / "good.yaml"
    if not good.exists():
        good.write_bytes((headgate.home / "headgate.yaml").read_bytes())
    return subprocess.run(
        [sys.executable, "-m", "headgate.cli", *arguments], cwd=headgate.home, env=scrubbed(),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_port_in_use_is_one_sentence(start, home):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        headgate = start("up", "--listen", f"127.0.0.1:{port}")
        assert headgate.process.wait(60) == 1
    headgate.says("port")
    assert headgate.lines == [
        f"headgate: port {port} on 127.0.0.1 is in use (gateway.listen): "
        "stop what listens there, or set gateway.listen to another port"
    ]
    assert headgate.left_behind() == []


def test_a_misspelt_key_names_its_line(start, home):
    (home / "headgate.yaml").write_text("version: 1\ngateway:\n  open: true\n  proceses: 2\n")
    headgate = start("up")
    assert headgate.process.wait(60) == 1
    headgate.says("proceses")
    assert headgate.lines == [
        "headgate: headgate.yaml:4: gateway.proceses: no such setting; did you mean 'processes'?"
    ]


def test_a_broken_bundle_is_one_sentence(start, home, config):
    (home / "broken.bundle").write_bytes(os.urandom(64))
    (home / "headgate.yaml").write_text(config + "policy: {bundle: broken.bundle}\n")
    headgate = start("up")
    assert headgate.process.wait(60) == 1
    assert headgate.says(r"^headgate: gateway did not start: policy\.bundle: broken\.bundle: .+")
    assert "Traceback" not in "\n".join(headgate.lines)
