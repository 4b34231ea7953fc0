"""Blanks passwords, keys and tokens in text: the one place that decides what is a secret.

Secrets are: the password of a URL (the whole user part, but for a database, whose user name stays);
the signatures, tokens and keys of signed URLs and connection strings; tokens that are known by
their form; and the values of environment variables with names such as *_TOKEN, *_PAT, *_KEY,
*_SECRET and *PASSWORD, however they are escaped.

What a command prints goes through `redact_streams`, the errors of runtime/errors.py, the reasons of
failures and every report through `redact`, and options and settings through `check_no_credentials`,
so that a file of state has nothing to blank.
"""

from __future__ import annotations

import functools
import html
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO, cast
from urllib.parse import quote, unquote

BLANK = "***"
MIN_LENGTH = 8  # characters of a value that is blanked wherever it stands; shorter ones are words

SECRET_VARIABLE = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|SIGNATURE|WEBHOOK|APIKEY|CONNECTION_?STRING|.+_PWD$"
    r"|(^|_)(KEYS?|PAT|PASS|AUTH|SAS|DSN|COOKIE)(_|$)"
)
# Variables that say where a secret is, or how it is used.
NOT_A_SECRET = ("_PATH", "_FILE", "_DIR", "_SOCK", "_MODE", "_NAME", "_TYPE", "_USER", "_HOST")

URL = re.compile(r"""\b([a-z][a-z0-9+.-]{0,30})://((?:[^\s"'<>`\\]|\\[^\s"'])+)""", re.IGNORECASE)
DATABASE = re.compile(r"sql|postgres|oracle|maria|cockroach|mongo|redis", re.IGNORECASE)
SCHEMES_WITH_PORTS = ("http", "https", "hdfs", "viewfs", "webhdfs", "ray", "tcp")
PORT = re.compile(r"\d{1,5}(?:[/?#]|$)")

VALUE = r"""((?:[^\s"'<>`&;,\\]|\\[^\s"'])+)"""
NEXT = r"[?&]|&amp;|\\u0026|%26"  # what stands before a parameter of a query
# In a query: ?X-Amz-Signature=..., &access_key=...
NAMED_SECRETS = re.compile(
    rf"((?:{NEXT})[\w%-]*"
    r"(?:signature|token|secret|passw|passphrase|pwd|credential|security"
    r"|(?:api|access|account|private|shared|subscription)[-_]?key)[\w%-]*=)" + VALUE,
    re.IGNORECASE,
)
SHORT_NAMES = re.compile(rf"((?:{NEXT})(?:sig|key|auth|code|pass|jwt|pat)=)" + VALUE, re.IGNORECASE)
# Names that are always those of a secret, anywhere in a text.
CERTAIN_NAMES = re.compile(
    r"\b((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AccountKey"
    r"|SharedAccess(?:Key|Signature)|password|passwd|pwd)=['\"]?)" + VALUE,
    re.IGNORECASE,
)
BEARER = re.compile(r"\b(Bearer\s+)([\w.~+/=-]{20,})", re.IGNORECASE)
# Each with words in lower case of which a text that it matches holds one: a search for a word takes
# a hundredth of the time.
PARAMETERS = {
    NAMED_SECRETS: ["signature", "token", "secret", "pass", "pwd", "credential", "security", "key"],
    SHORT_NAMES: ["sig=", "key=", "auth=", "code=", "pass=", "jwt=", "pat="],
    CERTAIN_NAMES: ["x-amz-", "x-goog-", "accountkey", "sharedaccess", "passw", "pwd="],
    BEARER: ["bearer"],
}
KNOWN_FORMS = {  # the beginning of a token, and what else it has
    "AKIA": r"[0-9A-Z]{16}",
    "ASIA": r"[0-9A-Z]{16}",
    **{f"gh{kind}_": r"\w{36,}" for kind in "oprsu"},
    "github_pat_": r"\w{22,}",
    "glpat-": r"[\w-]{20,}",
    "hf_": r"[A-Za-z0-9]{30,}",
    **{f"xox{kind}-": r"[\w-]{10,}" for kind in "abprs"},
    "eyJ": r"[\w-]{10,}\.[\w-]{10,}\.[\w-]+",
}

_remembered: set[str] = set()


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Returns the text with every secret replaced by three stars."""
    values = (*os.environ.items(),) if environment is None else (*environment.items(),)
    for core, pattern in _patterns(values, frozenset(_remembered)):
        if core in text:  # much faster than the pattern, which seldom matches
            text = pattern.sub(BLANK, text)
    for beginning, rest in KNOWN_FORMS.items():
        if beginning in text:
            text = re.sub(rf"\b{beginning}{rest}", BLANK, text)
    return blank_parameters(text)


def blank_parameters(text: str) -> str:
    """Blanks what is secret by its place: passwords in URLs, signatures in queries."""
    if "://" in text:
        text = URL.sub(_blank_user, text)
    lower = text.lower()
    for pattern, words in PARAMETERS.items():
        if any(word in lower for word in words):
            text = pattern.sub(rf"\g<1>{BLANK}", text)
    return text


def _blank_user(url: re.Match[str]) -> str:
    """Returns a URL without its user part; of a database's URL only the password goes.

    A password may hold `@` and `/` as a person typed them, so it ends at the last `@`. A colon
    after the host is a port, and an `@` behind it part of the path.
    """
    scheme, rest = str(url[1]), str(url[2])
    user, at, host = rest.rpartition("@")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    name, colon, _ = user.partition(":")
    has_port = scheme.lower() in SCHEMES_WITH_PORTS and PORT.match(rest.partition(":")[2])
    if not at or not ("@" in authority or (":" in authority and not has_port)):
        return f"{scheme}://{rest}"
    if DATABASE.search(scheme):
        return f"{scheme}://{name}{colon}{BLANK if colon else ''}@{host}"
    return f"{scheme}://{BLANK}@{host}"


def has_credentials(text: str) -> bool:
    """Whether the text is or holds a URL with a password, a key or a signature."""
    return "://" in text and blank_parameters(text) != text


def check_no_credentials(name: str, value: object) -> None:
    """Raises ValueError for a value, or one among several, that holds credentials.

    name: of the option or setting, for the message.
    """
    if isinstance(value, str) and has_credentials(value):
        raise ValueError(
            f"{name} must hold no credentials: they belong in the environment;"
            f" got {blank_parameters(value)!r}"
        )
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for part in value:
            check_no_credentials(name, part)


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    upper = name.upper()
    return bool(SECRET_VARIABLE.search(upper)) and not upper.endswith(NOT_A_SECRET)


def remember(url: str) -> None:
    """Blanks the password and the tokens of this URL from now on, wherever they stand."""
    _remembered.update(_secrets_of_url(url))


def _secrets_of_url(text: str) -> Iterator[str]:
    """The secret parts of the URLs in a text."""
    for url in URL.finditer(text):
        user, at, _ = url[2].rpartition("@")
        if at and _blank_user(url) != url[0]:
            password = user.partition(":")[2] or user
            # A library that reads the URL in another way takes a part of it for the host.
            yield from (password, *re.split(r"[@/:?#]", password))
    for pattern in PARAMETERS:
        yield from (match[2] for match in pattern.finditer(text))


@functools.lru_cache(maxsize=4)
def _patterns(
    variables: tuple[tuple[str, str], ...], remembered: frozenset[str]
) -> list[tuple[str, re.Pattern[str]]]:
    """For every secret value, longest first: a part that no escaping changes, and its pattern."""
    values = set(remembered)
    for name, value in variables:
        if is_secret_variable(name) and not ("/" in value and os.path.exists(value)):
            values |= {value, *value.splitlines()}
        values |= set(_secrets_of_url(value))
    values |= {unquote(value) for value in values}
    ordered = sorted({v.strip() for v in values if len(v.strip()) >= MIN_LENGTH}, key=len)
    return [(_core(value), _in_any_escaping(value)) for value in reversed(ordered)]


def _core(value: str) -> str:
    """The longest run of letters and digits."""
    runs: list[str] = re.findall(r"[A-Za-z0-9]*", value)
    return max(runs, key=len)


def _in_any_escaping(value: str) -> re.Pattern[str]:
    """Matches a value as it is, and as HTML, Markdown, JSON, Python and URLs escape it."""
    return re.compile("".join(map(_escaped_character, value)))


def _escaped_character(c: str) -> str:
    if c.isascii() and c.isalnum():
        return c
    forms = {c, html.escape(c), f"&#{ord(c)};", f"&#x{ord(c):x};", quote(c, safe="")}
    forms |= {quote(c, safe="").lower(), f"\\u{ord(c):04x}"}
    return rf"\\*(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"


class RedactedStream:
    """A text stream that blanks secrets in whatever is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def redact_streams() -> None:
    """Blanks secrets in all that this process prints, tracebacks of libraries included."""
    sys.stdout = cast(TextIO, RedactedStream(sys.stdout))
    sys.stderr = cast(TextIO, RedactedStream(sys.stderr))
