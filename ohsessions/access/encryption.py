"""The encryption of stored secrets, and its keys (the setting SECRETS_KEYS)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.utils.encoding import force_bytes

from ohsessions.conf import conf
from ohsessions.core.errors import WireError

SECRETS_SALT = b"ohsessions.secrets"


def encrypt(text: str) -> str:
    """Encrypt a secret for a column. The first key encrypts, all keys decrypt."""
    return _fernet().encrypt(text.encode()).decode()


def decrypt(text: str) -> str:
    """Decrypt a text that encrypt() returned. Raises WireError 500 if no key fits."""
    try:
        return _fernet().decrypt(text.encode()).decode()
    except InvalidToken as error:
        message = "A stored secret cannot be decrypted: its key is no longer in SECRETS_KEYS."
        raise WireError(500, "internal", message) from error


def _fernet() -> MultiFernet:
    keys: Sequence[str | bytes] = conf.SECRETS_KEYS or [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    # A key may be any string. Fernet needs 32 bytes in base64, so they are derived from it.
    return MultiFernet([Fernet(_derive(key)) for key in keys])


def _derive(key: str | bytes) -> bytes:
    digest = hashlib.blake2b(SECRETS_SALT, key=hashlib.sha256(force_bytes(key)).digest(), digest_size=32)
    return base64.urlsafe_b64encode(digest.digest())
