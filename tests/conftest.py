"""Rules for every test: one printed seed, short forms by default, and in CI no test may be skipped."""

from __future__ import annotations

import signal
from collections.abc import Generator

from headgate.adapters import unreported  # isort: skip  # noqa: F401
import pytest
from hypothesis import settings

# Tests share their machine: a slow moment of it is no fault of what they try.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

# A script that runs the tests in its background has them ignore Ctrl-C, and with them all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEFAULT_SEED = 20261123


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--seed`, `--long` and `--no-skips`."""
    group = parser.getgroup("headgate")
    group.addoption(
        "--seed", type=int, default=DEFAULT_SEED, help="where every random draw of the tests starts"
    )
    group.addoption("--long", action="store_true", help="try the promises in their long form: minutes each")
    group.addoption("--no-skips", action="store_true", help="a skipped test is a failed test")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the seed, so that a failed run can be repeated."""
    terminalreporter.write_line(f"seed: {terminalreporter.config.getoption('seed')} (repeat with --seed)")


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The run's seed."""
    value = pytestconfig.getoption("seed")
    assert isinstance(value, int)
    return value


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With `--no-skips`, turns a skipped test into a failed one."""
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    if report.skipped and not expected_failure and item.config.getoption("no_skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and this run allows no skips: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """With `--no-skips`, turns a skipped file into a failed one."""
    report = yield
    if report.skipped and collector.config.getoption("no_skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and this run allows no skips: {report.longrepr}"
    return report
