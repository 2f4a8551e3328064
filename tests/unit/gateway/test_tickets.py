from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.status_map import KeyInvalidError
from headgate.gateway import tickets

PEPPER = b"pepper"
names = st.text(min_size=1, max_size=40)


@given(names, names, st.floats(2, 2e9))
def test_a_ticket_opens_for_its_tenant_until_its_time_is_over(tenant: str, name: str, expires: float) -> None:
    ticket = tickets.sign(PEPPER, tenant, name, 1.5, expires)
    assert ticket.isascii(), "it travels in metadata"
    told = tickets.read(PEPPER, ticket, round(expires) - 1)
    assert (told.tenant, told.job, told.since, told.until) == (tenant, name, 1500, round(expires))
    with pytest.raises(KeyInvalidError, match="over"):
        tickets.read(PEPPER, ticket, round(expires))


@pytest.mark.parametrize("place", range(0, 110, 7))
def test_a_ticket_that_was_changed_opens_nothing(place: int) -> None:
    ticket = tickets.sign(PEPPER, "acme", "job-1", 1.5, 1000.0)
    place %= len(ticket)
    other = ticket[:place] + ("0" if ticket[place] != "0" else "1") + ticket[place + 1 :]
    with pytest.raises(KeyInvalidError):
        tickets.read(PEPPER, other, 1.0)


@pytest.mark.parametrize("ticket", ["", ".", "a.b.c.d", "..." + "0" * 64, "ä.ö.ü.ß", "...é"])
def test_what_is_no_ticket_opens_nothing(ticket: str) -> None:
    with pytest.raises(KeyInvalidError):
        tickets.read(PEPPER, ticket, 0.0)


def test_another_gateway_s_ticket_opens_nothing() -> None:
    with pytest.raises(KeyInvalidError):
        tickets.read(b"another", tickets.sign(PEPPER, "acme", "job-1", 1.5, 1000.0), 1.0)


def test_a_ticket_with_more_time_is_the_same_job_s() -> None:
    ticket = tickets.prolonged(PEPPER, tickets.sign(PEPPER, "acme", "job-1", 1.5, 1000.0), 2000.0)
    assert tickets.read(PEPPER, ticket, 1500.0) == tickets.Ticket("acme", "job-1", 1500, 2000)
    with pytest.raises(KeyInvalidError):
        tickets.prolonged(b"another", ticket, 2000.0)
