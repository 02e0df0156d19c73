"""The part of a fault's description that its users may read."""

from __future__ import annotations

import pytest

from ohsessions.core.faults import Fault, public_reason


def test_users_read_no_more_of_a_faults_reason_than_its_public_part():
    fault = Fault("its runtime broke", "OSError: 10.0.0.5: refused")
    assert fault.reference in fault.public
    assert public_reason(fault.reason) == fault.public
    assert fault.reason.endswith("OSError: 10.0.0.5: refused")
    assert (
        public_reason(f"no connection for 15 s; {fault.reason}") == f"no connection for 15 s; {fault.public}"
    )


def test_each_fault_has_a_reference_of_its_own():
    assert Fault("it", "a").reference != Fault("it", "a").reference


@pytest.mark.parametrize("reason", ["", "by an operator", "no connection for 0.5 s", "closed"])
def test_reasons_without_a_fault_are_read_whole(reason):
    assert public_reason(reason) == reason


def test_what_older_versions_stored_is_cut_before_the_exception():
    assert public_reason("its runtime broke: RuntimeError: secret") == "its runtime broke"
