"""Cutting secrets out of text: whole, inside JSON, and in streams whose parts may split a secret anywhere.

It knows only the secrets it is given, and only as they are: no encoded or reworded form of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ohsessions.core.runtime import JSON

PLACEHOLDER = "<secret>"
MIN_LENGTH = 4
"""Shorter secrets are left alone: cut out, they would tear holes into every text and tell by the holes what
they are."""

Span = tuple[int, int]


class Redactor:
    """Puts `<secret>` in place of secrets; those that overlap or adjoin give one `<secret>`.

    Secrets shorter than MIN_LENGTH characters are ignored. Every character that belongs to an occurrence of
    a secret goes, so the result depends neither on the order of the secrets nor on the parts of a stream.
    Time is linear in the text, once for each secret.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Redact these from now on too, also in streams that have begun."""
        more = {secret for secret in secrets if len(secret) >= MIN_LENGTH}
        self._secrets = sorted(more.union(self._secrets))
        # The smallest shift by which each secret can overlap itself.
        self._periods = [(secret + secret).find(secret, 1) for secret in self._secrets]

    def redact(self, text: str) -> str:
        stream = self.stream()
        return stream.feed(text) + stream.flush()

    def redact_json(self, value: JSON) -> JSON:
        """The same value with all strings in it redacted, the keys of objects too. Numbers stay."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact_json(key): self.redact_json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_json(item) for item in value]
        return value

    def stream(self) -> SecretStream:
        """For one text that comes in parts."""
        return SecretStream(self)

    def spans(self, text: str) -> list[Span]:
        """Where secrets are, as (start, end), in order; none overlap or adjoin."""
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
                # Followed without a search, so that "aaaa" in many a's takes linear time.
                while text.startswith(secret[-period:], end):
                    end += period
                yield start, end
                start = text.find(secret, end - len(secret) + 1)

    def undecided(self, text: str) -> int:
        """Where the earliest secret begins that `text` may end in the middle of; its length if none does."""
        return min((self._undecided(text, secret) for secret in self._secrets), default=len(text))

    @staticmethod
    def _undecided(text: str, secret: str) -> int:
        start = text.find(secret[0], max(0, len(text) - len(secret) + 1))
        while start >= 0 and not secret.startswith(text[start:]):
            start = text.find(secret[0], start + 1)
        return len(text) if start < 0 else start


class SecretStream:
    """Redacts a text that comes in parts. What it gives, put together, is what redact() gives for the whole.

    It holds back the end of what came while that may be the beginning of a secret: never more than the
    longest secret has characters.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._covered = 0  # characters of `_held` that belong to a secret which began before
        self._after_secret = False  # the last thing given was a placeholder

    def feed(self, text: str) -> str:
        """Takes the next part; gives what is certain by now."""
        text = self._held + text
        return self._give(text, self._redactor.undecided(text))

    def flush(self) -> str:
        """The text has ended: gives the rest. The stream can be used for another text then."""
        rest = self._give(self._held, len(self._held))
        self._after_secret = False
        return rest

    def _give(self, text: str, until: int) -> str:
        """Gives `text` up to `until`, and holds the rest. No secret that begins before is cut off there."""
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
