"""Who a request says it is, and what of that is believed."""

import pytest

from memroute_router.lifecycle.claims import TenantSource, read_claims

FIELDS = {
    b"authorization": b"Bearer secret-key",
    b"x-memroute-tenant": b"somebody-important",
    b"x-memroute-priority": b"100",
    b"x-memroute-ttft-ms": b"250",
}


def test_headers_are_ignored_unless_they_are_trusted():
    """Any client can write them; a flood that calls itself critical is still a flood."""
    claims = read_claims(FIELDS, tenants=TenantSource.NONE, trusts_headers=False)
    assert (claims.tenant, claims.priority, claims.ttft_seconds) == ("", 0, None)


def test_trusted_headers_count():
    claims = read_claims(FIELDS, tenants=TenantSource.HEADER, trusts_headers=True)
    assert claims.tenant == "somebody-important"
    assert (claims.priority, claims.ttft_seconds) == (100, 0.25)


def test_a_key_tells_tenants_apart_and_is_not_kept():
    one = read_claims(FIELDS, tenants=TenantSource.KEY, trusts_headers=False).tenant
    other = read_claims(
        {b"x-api-key": b"other"}, tenants=TenantSource.KEY, trusts_headers=False
    ).tenant
    assert one != other
    assert "secret" not in one
    assert read_claims({}, tenants=TenantSource.KEY, trusts_headers=False).tenant == ""


@pytest.mark.parametrize("value", [b"", b"high", b"1e3", b"--5", b"99999999999", b"\xb2", b"5 "])
def test_a_claim_that_cannot_be_read_is_none(value):
    fields = {b"x-memroute-priority": value, b"x-memroute-ttft-ms": value}
    claims = read_claims(fields, tenants=TenantSource.HEADER, trusts_headers=True)
    assert (claims.priority, claims.ttft_seconds) == (0, None)


def test_priorities_are_bounded_both_ways():
    for value, told in ((b"-5", -5), (b"5000", 1000), (b"-5000", -1000)):
        fields = {b"x-memroute-priority": value}
        claims = read_claims(fields, tenants=TenantSource.NONE, trusts_headers=True)
        assert claims.priority == told
