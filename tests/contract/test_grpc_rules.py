"""What every coroutine and every call of a stub must keep to: read from the source, mutants included.

swallow    who catches CancelledError or BaseException raises it on: else a cancel ends nowhere
deadline   every call of a stub passes `timeout=`, and not None: gRPC then ends it itself, on both sides
wrapped    no asyncio.timeout or wait_for around a call of a stub: cancelled from outside, C-core leaks
channel    only the factories make channels: there the options are, and the check of the loop
threads    servers are grpc.aio's, whose queue nobody hides in, and every pool of threads has a size
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "services").rglob("*.py"))
FACTORIES: Final = {
    "services/headgate/adapters/channels.py": "the gateway's and the laptop stack's",
    "services/headgate/client/link.py": "a caller's, who knows nothing of adapters",
    "services/headgate/cli/operate.py": "one call of the operator's, then the process ends",
}
CAUGHT: Final = {"CancelledError", "BaseException"}
LIMITS: Final = {"timeout", "timeout_at", "wait_for"}
MAKERS: Final = {"insecure_channel", "secure_channel"}
LINK: Final = "unary"
"""The client's link calls what is chosen, after it has changed its channel if that must be."""

MUTANTS: Final = {
    "swallow": """
async def handler(call):
    try:
        await call
    except asyncio.CancelledError:
        log("bye")
""",
    "swallow bare": """
async def handler(call):
    try:
        await call
    except:
        return None
""",
    "swallow among others": """
async def handler(call):
    try:
        await call
    except (ValueError, BaseException) as error:
        raise Other from error
""",
    "swallow suppressed": """
async def handler(call):
    with contextlib.suppress(asyncio.CancelledError):
        await call
""",
    "deadline": "async def ask(self):\n    return await self._stub.Generate(request)\n",
    "deadline made in place": "async def ask(ch):\n    return await health.HealthStub(ch).Check(r)\n",
    "deadline of a name": "async def ask(ch):\n    one = HealthStub(ch)\n    return await one.Check(r)\n",
    "deadline handed on": "async def ask(self):\n    return await self._run(self._stub.Generate, request)\n",
    "deadline forgotten by the helper": """
class Client:
    async def ask(self):
        return await self._call(self._stub.Generate, request)
    async def _call(self, method, request):
        return await method(request)
""",
    "deadline of None": "async def ask(self):\n    return await self._stub.Generate(r, timeout=None)\n",
    "deadline of None in the helper": """
class Client:
    async def ask(self):
        return await self._call(self._stub.Generate, request)
    async def _call(self, method, request):
        return await method(request, timeout=None)
""",
    "deadline forgotten by who chooses": """
class Client:
    async def ask(self):
        return await self._call(lambda link: link.router_stub.Generate, request)
    async def _call(self, choose, request):
        return await choose(self._link)(request)
""",
    "deadline of what is chosen": "def ask(self):\n    return self._run(lambda link: link.stub.Route, 5)\n",
    "wrapped": """
async def ask(self):
    async with asyncio.timeout(5):
        return await self._stub.Generate(request, timeout=5)
""",
    "wrapped wait_for": """
async def ask(self):
    return await asyncio.wait_for(self._stub.Generate(request, timeout=5), 5)
""",
    "channel": "channel = grpc.aio.insecure_channel('127.0.0.1:1')\n",
    "threads": "server = grpc.server(ThreadPoolExecutor(4))\n",
    "threads without a size": "pool = futures.ThreadPoolExecutor(thread_name_prefix='x')\n",
    "threads of the loop": "async def f(loop):\n    return await loop.run_in_executor(None, work)\n",
}


def _name(node: ast.AST | None) -> str:
    """The last word of a dotted name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _passes(call: ast.Call, keyword: str) -> bool:
    """Whether it passes the keyword, and not None, which is no limit."""
    return any(given.arg == keyword and not _is_none(given.value) for given in call.keywords)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class Stubs:
    """The stubs of a module, by the names that they go under."""

    def __init__(self, tree: ast.AST) -> None:
        self._names = {
            _name(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and self._made(node.value)
            for target in node.targets
        }

    @staticmethod
    def _made(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and _name(node.func).endswith("Stub")

    def methods(self, tree: ast.AST) -> Iterator[ast.Attribute]:
        """Every `stub.Method` in it; gRPC's methods alone begin with a capital."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr[:1].isupper() and self._is_stub(node.value):
                yield node

    def _is_stub(self, node: ast.AST) -> bool:
        name = _name(node)
        return self._made(node) or name in self._names or name.endswith("stub")


def swallows(tree: ast.AST) -> list[int]:
    """Lines of handlers that keep a cancellation to themselves."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    lines = [one.lineno for one in handlers if _caught(one) and not _raises_on(one)]
    suppressed = [call for call in _calls(tree) if _name(call.func) == "suppress"]
    return lines + [call.lineno for call in suppressed if any(_name(arg) in CAUGHT for arg in call.args)]


def _caught(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(_name(kind) in CAUGHT for kind in kinds)


def _raises_on(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))


def endless(tree: ast.AST) -> list[int]:
    """Lines where a stub is called without a deadline, or handed to somebody who gives it none."""
    stubs, helpers = Stubs(tree), _helpers(tree)
    timed = {id(call.func) for call in _calls(tree) if _passes(call, "timeout")}
    given = [call.args[0] for call in _calls(tree) if call.args and _name(call.func) in helpers]
    helped = {id(one.body if isinstance(one, ast.Lambda) else one) for one in given}
    return [method.lineno for method in stubs.methods(tree) if id(method) not in timed | helped]


def _helpers(tree: ast.AST) -> set[str]:
    """Functions that call their first argument, or what it chooses, with a timeout, or have LINK do so."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        for call in _calls(node)
        if _helps(call, {arg.arg for arg in node.args.args[:2]} - {"self"})
    }


def _helps(call: ast.Call, first: set[str]) -> bool:
    if _name(call.func) == LINK:
        return bool(call.args) and _name(call.args[0]) in first
    called = call.func.func if isinstance(call.func, ast.Call) else call.func
    return _passes(call, "timeout") and _name(called) in first


def wrapped(tree: ast.AST) -> list[int]:
    """Lines where asyncio's clock stands over a call of a stub."""
    stubs = Stubs(tree)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncWith) and _limits(node)]
    waits = [call for call in _calls(tree) if _name(call.func) == "wait_for"]
    return [node.lineno for node in (*blocks, *waits) if any(stubs.methods(node))]


def _limits(block: ast.AsyncWith) -> bool:
    made = [item.context_expr for item in block.items]
    return any(isinstance(one, ast.Call) and _name(one.func) in LIMITS for one in made)


def channels_made(tree: ast.AST) -> list[int]:
    """Lines where a channel is made."""
    return [call.lineno for call in _calls(tree) if _name(call.func) in MAKERS]


def unbounded(tree: ast.AST) -> list[int]:
    """Lines where threads are started that nobody counts."""
    return [call.lineno for call in _calls(tree) if _starts_threads(call)]


def _starts_threads(call: ast.Call) -> bool:
    name, first = _name(call.func), call.args[0] if call.args else None
    if name == "server" and isinstance(call.func, ast.Attribute):
        return _name(call.func.value) == "grpc"
    if name == "ThreadPoolExecutor":
        return first is None and not _passes(call, "max_workers")
    return name == "run_in_executor" and isinstance(first, ast.Constant)


RULES: Final = {
    "swallow": swallows,
    "deadline": endless,
    "wrapped": wrapped,
    "channel": channels_made,
    "threads": unbounded,
}
EXCUSED: Final = {"channel": set(FACTORIES)}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds_everywhere(rule: str) -> None:
    found = {
        name: lines
        for name, tree in _trees()
        if name not in EXCUSED.get(rule, ()) and (lines := RULES[rule](tree))
    }
    assert not found


def test_who_calls_what_is_chosen_gives_it_a_deadline() -> None:
    (link,) = [tree for name, tree in _trees() if name.endswith("client/link.py")]
    assert LINK in _helpers(link)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_noticed(mutant: str) -> None:
    assert RULES[mutant.split()[0]](ast.parse(MUTANTS[mutant]))


def test_the_rules_look_at_real_calls() -> None:
    """The walk itself must not come up empty: gateway, client and laptop stack call stubs."""
    callers = {name for name, tree in _trees() if any(Stubs(tree).methods(tree))}
    assert {"gateway/worker_channel.py", "client/aio.py", "client/sync.py"} <= {
        name.removeprefix("services/headgate/") for name in callers
    }
    assert any(channels_made(tree) for name, tree in _trees() if name in FACTORIES)


@pytest.mark.parametrize("name", FACTORIES)
def test_no_factory_makes_a_channel_at_import(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    inside = {id(call) for node in ast.walk(tree) if _is_function(node) for call in _calls(node)}
    assert all(id(call) in inside for call in _calls(tree) if _name(call.func) in MAKERS)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _trees() -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))
