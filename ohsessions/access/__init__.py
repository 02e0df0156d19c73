"""Permissions: roles, the policy, logins, tokens, and the encryption of stored secrets.

The setting ACCESS_POLICY names a subclass of AccessPolicy. No token or secret is ever logged.
"""

from ohsessions.access.access_policy import (
    AccessPolicy,
    check_may_open,
    check_may_start,
    policy,
    unknown_session,
    visible,
)
from ohsessions.access.encryption import decrypt, encrypt
from ohsessions.access.logins import Login, check_login, ended_logins, login_of
from ohsessions.access.roles import Role
from ohsessions.access.tokens import (
    Grant,
    authorize,
    bearer_token,
    invalid_token,
    issue_token,
)

__all__ = [
    "AccessPolicy",
    "Grant",
    "Login",
    "Role",
    "authorize",
    "bearer_token",
    "check_login",
    "check_may_open",
    "check_may_start",
    "decrypt",
    "encrypt",
    "ended_logins",
    "invalid_token",
    "issue_token",
    "login_of",
    "policy",
    "unknown_session",
    "visible",
]
