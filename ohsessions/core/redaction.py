"""Redaction of secrets in texts, in JSON, and in streams whose parts may split a secret anywhere.

It knows only the secrets that it is given. It finds them verbatim, not encoded or reworded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ohsessions.core.runtime import JSON

PLACEHOLDER = "<secret>"
MIN_LENGTH = 4
"""Shorter secrets are left alone. Their redaction would tear holes in every text, and the holes would reveal
the secrets."""

Span = tuple[int, int]


class Redactor:
    """Replaces secrets with `<secret>`. Secrets that overlap or adjoin become one `<secret>`.

    Secrets shorter than MIN_LENGTH characters are ignored. Every character that belongs to an occurrence of
    a secret is removed, so the result depends neither on the order of the secrets nor on the parts of a
    stream. For each secret, the time is linear in the text.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Redact these secrets, too, from now on, also in streams that have begun."""
        more = {secret for secret in secrets if len(secret) >= MIN_LENGTH}
        self._secrets = sorted(more.union(self._secrets))
        # The smallest shift by which each secret can overlap itself.
        self._periods = [(secret + secret).find(secret, 1) for secret in self._secrets]

    def redact(self, text: str) -> str:
        stream = self.stream()
        return stream.feed(text) + stream.flush()

    def redact_json(self, value: JSON) -> JSON:
        """Return the same value with all its strings redacted, also the keys of objects. Numbers stay."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact_json(key): self.redact_json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_json(item) for item in value]
        return value

    def stream(self) -> SecretStream:
        """Return a stream for one text that comes in parts."""
        return SecretStream(self)

    def spans(self, text: str) -> list[Span]:
        """Return the (start, end) of each secret in the text, in order. No two overlap or adjoin."""
        merged: list[Span] = []
        for start, end in sorted(self._occurrences(text)):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def _occurrences(self, text: str) -> Iterator[Span]:
        for secret, period in zip(self._secrets, self._periods, strict=True):
            start = text.find(secret)
            while start >= 0:
                end = start + len(secret)
                # No search here, so that "aaaa" in many a's takes linear time.
                while text.startswith(secret[-period:], end):
                    end += period
                yield start, end
                start = text.find(secret, end - len(secret) + 1)

    def undecided(self, text: str) -> int:
        """Return the start of the earliest secret that the end of `text` may cut off; the length if none."""
        return min((self._undecided(text, secret) for secret in self._secrets), default=len(text))

    @staticmethod
    def _undecided(text: str, secret: str) -> int:
        start = text.find(secret[0], max(0, len(text) - len(secret) + 1))
        while start >= 0 and not secret.startswith(text[start:]):
            start = text.find(secret[0], start + 1)
        return len(text) if start < 0 else start


class SecretStream:
    """Redacts a text that comes in parts. The results, joined, are equal to redact() of the whole text.

    It holds back the end of the text while that may be the beginning of a secret: never more characters than
    the longest secret has.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._covered = 0  # characters of `_held` that belong to a secret which began before
        self._after_secret = False  # the last text returned was a placeholder

    def feed(self, text: str) -> str:
        """Add the next part, and return the text that is certain by now."""
        text = self._held + text
        return self._give(text, self._redactor.undecided(text))

    def flush(self) -> str:
        """End the text, and return the rest. The stream can then be used for another text."""
        rest = self._give(self._held, len(self._held))
        self._after_secret = False
        return rest

    def _give(self, text: str, until: int) -> str:
        """Return `text` up to `until`, and hold the rest. No secret that begins before that is cut."""
        given: list[str] = []
        done = self._covered
        for start, end in self._redactor.spans(text):
            if start >= until:
                break
            if start > done:
                given.append(text[done:start])
                self._after_secret = False
            if not self._after_secret:
                given.append(PLACEHOLDER)
                self._after_secret = True
            done = max(done, end)
        if done < until:
            given.append(text[done:until])
            self._after_secret = False
        self._held = text[until:]
        self._covered = max(0, done - until)
        return "".join(given)
