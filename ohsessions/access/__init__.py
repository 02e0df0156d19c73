"""Who may do what: roles, the policy, tokens, and the encryption of secrets at rest.

The setting ACCESS_POLICY names a subclass of AccessPolicy. No token or secret is ever logged.
"""

from ohsessions.access.encryption import decrypt, encrypt
from ohsessions.access.policy import AccessPolicy, check_may_open, policy
from ohsessions.access.roles import Role
from ohsessions.access.tokens import (
    TOKEN_SALT,
    Grant,
    authorize,
    invalid_token,
    issue_token,
    read_token,
    unknown_session,
)

__all__ = [
    "TOKEN_SALT",
    "AccessPolicy",
    "Grant",
    "Role",
    "authorize",
    "check_may_open",
    "decrypt",
    "encrypt",
    "invalid_token",
    "issue_token",
    "policy",
    "read_token",
    "unknown_session",
]
