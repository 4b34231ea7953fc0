"""Facts about secrets: what is one, in every escaping; options and settings that hold one."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from plotly.offline import get_plotlyjs

from distributed.config import Config, apply_changes
from distributed.reporting.tables import escape_markdown
from distributed.runtime import storage
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.redaction import has_credentials, redact
from distributed.searches.state.study_storage import with_password
from distributed.training.options import FitOptions
from tests.mistakes import mistake

BY_PLACE = {
    "postgresql://me:pw@host/db": "postgresql://me:***@host/db",
    "POSTGRESQL+psycopg2://me:p@ss/w@rd@host/db": "POSTGRESQL+psycopg2://me:***@host/db",
    "mysql://me:12/34@host/db": "mysql://me:***@host/db",
    "s3://KEY:a/b@bucket/x": "s3://***@bucket/x",
    "S3://KEY:a/b@bucket": "S3://***@bucket",
    "https://ghp@host/x": "https://***@host/x",
    "http://proxy:pw@10.0.0.1:3128": "http://***@10.0.0.1:3128",
    "https://b.x.com/k?X-Amz-Signature=0a1b&X-Amz-Date=1": (
        "https://b.x.com/k?X-Amz-Signature=***&X-Amz-Date=1"
    ),
    "https://s.x.com/o?X-Goog-Signature=0a1b&x-goog-credential=me": (
        "https://s.x.com/o?X-Goog-Signature=***&x-goog-credential=***"
    ),
    "https://a.x.net/c?sv=2020&sig=aB%2F%3D&se=1": "https://a.x.net/c?sv=2020&sig=***&se=1",
    "/c?sv=2020&amp;sig=aB%3D&amp;se=1": "/c?sv=2020&amp;sig=***&amp;se=1",
    "https://h/x?token=abc#part": "https://h/x?token=***",
    "https://h/x?Access_Token=abc, and": "https://h/x?Access_Token=***, and",
    "postgresql:///db?password=abc": "postgresql:///db?password=***",
    "AccountName=me;AccountKey=ab+c/==;EndpointSuffix=x": (
        "AccountName=me;AccountKey=***;EndpointSuffix=x"
    ),
    "connect(password='abc', user='me')": "connect(password='***', user='me')",
    "Authorization: Bearer abcdefghijklmnopqrstuvwxyz": "Authorization: Bearer ***",
    "id AKIAABCDEFGHIJKLMNOP.": "id ***.",
    '{"url": "s3://k:p\\"@b/x"}': '{"url": "s3://***"@b/x"}',
}
NOT_SECRET = [
    "postgresql://me@host:5432/db",
    "hdfs://node:8020/data@v2/x",
    "http://localhost:8265/x@y",
    "s3://bucket/data@v2",
    "mail me@example.org, see https://example.org/a?b=c&page=2",
    "the basic token of a signature; key=value",
    "sqlite:////home/me/study.db",
]


@pytest.mark.parametrize("text", BY_PLACE)
def test_a_secret_is_known_by_its_place(text: str) -> None:
    if text.startswith("{"):  # JSON stays JSON as far as its quotes go
        assert '"@b/x"}' in redact(text, {})
        return
    assert redact(f"see {text}\n", {}) == f"see {BY_PLACE[text]}\n"
    assert redact(redact(text, {}), {}) == BY_PLACE[text], "blanked once and for all"


@pytest.mark.parametrize("text", NOT_SECRET)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text, {}) == text
    assert not has_credentials(text)


SECRET_VARIABLES = (
    *("GITHUB_PAT", "HF_TOKEN", "WANDB_API_KEY", "AZURE_STORAGE_KEY", "MY_SECRET", "PGPASSWORD"),
    *("MYSQL_PWD", "DB_PASS", "npm_config__authToken", "AZURE_SAS", "SENTRY_DSN"),
    *("GOOGLE_CREDENTIALS", "SLACK_WEBHOOK_URL"),
)


@pytest.mark.parametrize("name", SECRET_VARIABLES)
def test_values_of_secret_variables_are_blanked_in_every_escaping(name: str) -> None:
    value = 'pa&s_w*rd<"é/+='
    for text in (
        value,
        html.escape(value),
        escape_markdown(value),
        json.dumps(value),
        repr(value),
        quote(value),
        quote(value, safe="").lower(),
    ):
        blanked = redact(f"x {text} y", {name: value})
        assert "***" in blanked and "rd" not in blanked and "pa" not in blanked, blanked


def test_ordinary_variables_and_places_of_secrets_are_not_blanked(tmp_path: Path) -> None:
    ordinary = {
        "PWD": "/home/someone",
        "OLDPWD": "/home/someone",
        "KEYBOARD": "qwerty-layout",
        "RAY_AUTH_TOKEN_PATH": "/home/someone",
        "SSH_AUTH_SOCK": "/home/someone",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path),
        "SHORT_KEY": "abc",
    }
    text = f"/home/someone qwerty-layout {tmp_path} abc"
    assert redact(text, ordinary) == text


def test_the_password_of_a_url_in_a_variable_is_blanked_wherever_it_stands() -> None:
    environment = {"DATABASE_URL": "postgresql://me:p%40ssw0rd!@host/db"}
    assert redact("refused p@ssw0rd! and p%40ssw0rd!", environment) == "refused *** and ***"


def test_a_storage_has_its_password_from_the_option_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded, given = "postgresql://me:***@host/db", "postgresql://me:p@ss/w0rd@host/db"
    assert with_password(recorded, given) == given
    assert redact("refused p@ss/w0rd") == "refused ***", "known from now on"
    with_password(recorded, "postgresql://me:first/second-part@third@host/db")
    assert redact("no host named second-part") == "no host named ***"
    assert with_password("sqlite:///s.db", None) == "sqlite:///s.db"
    assert with_password("", None) == ""
    monkeypatch.delenv("LONGTAIL_STORAGE_PASSWORD", raising=False)
    with mistake(r"^--storage needs its password, .* LONGTAIL_STORAGE_PASSWORD; got '.*:\*\*\*@"):
        with_password(recorded, None)
    monkeypatch.setenv("LONGTAIL_STORAGE_PASSWORD", "p@ss/w0rd")
    for option in (None, recorded):
        assert with_password(recorded, option) == "postgresql://me:p%40ss%2Fw0rd@host/db"


def test_code_and_pages_are_not_changed_and_a_page_takes_no_second() -> None:
    library = get_plotlyjs()
    started = time.process_time()
    assert redact(library, {}) == library
    assert time.process_time() - started < 5


def test_errors_hold_no_secret_when_they_are_raised() -> None:
    assert "pw" not in str(OptionError("got 's3://key:pw@b'", "data"))
    assert "pw" not in str(Failure("got 's3://key:pw@b'"))


def test_an_option_or_setting_with_a_secret_is_refused_without_it() -> None:
    with mistake(r"^--data must hold no credentials: .*; got 's3://\*\*\*@b'$"):
        check_options(FitOptions, FitOptions(data="s3://KEY:a/b@b"))
    with mistake(
        r"^--set must hold no credentials: .* got 'image.weights=https://h/w\?sig=\*\*\*'"
    ):
        check_options(FitOptions, FitOptions(set=("dim=8", "image.weights=https://h/w?sig=abc")))
    with mistake(r"^image.weights must hold no credentials: .*; got 'https://h/w\?sig=\*\*\*'$"):
        apply_changes(Config(), {"image.weights": "https://h/w?sig=abc"})


@pytest.mark.parametrize(
    "uri", ["s3://KEY:a/b@bucket", "S3://KEY:a/b@bucket", "gs://k:v/x", "s3://b/x?sig=abc"]
)
def test_a_uri_with_a_secret_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="must hold no credentials") as caught:
        storage.filesystem(uri)
    assert not any(secret in str(caught.value) for secret in ("KEY", "a/b", "k:v", "abc"))


def test_an_endpoint_with_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:pw@127.0.0.1:9")
    with pytest.raises(ValueError, match=r"AWS_ENDPOINT_URL must hold no credentials") as caught:
        storage.filesystem("s3://bucket/x")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https", "hdfs", "viewfs", "webhdfs", "ray", "TCP"])
def test_a_colon_after_the_host_is_a_port(scheme: str) -> None:
    assert redact(f"{scheme}://host:8020/a@b", {}) == f"{scheme}://host:8020/a@b"
    assert redact(f"s3://{scheme}:8020/a@b", {}) == "s3://***@b"


@pytest.mark.parametrize(
    "scheme", ["mysql", "postgres", "oracle+x", "mariadb", "cockroachdb", "MongoDB", "redis"]
)
def test_the_user_of_a_database_stays(scheme: str) -> None:
    assert redact(f"{scheme}://me:pw@host/x", {}) == f"{scheme}://me:***@host/x"
    assert redact(f"{scheme}://me@host/x", {}) == f"{scheme}://me@host/x"


@pytest.mark.parametrize(
    "name",
    [
        *("my_signature", "token", "Secret2", "passwd", "passphrase", "pwd", "credentials"),
        *("security", "api_key", "accesskey", "account-key", "private_key", "sharedkey"),
        *("subscription-key", "sig", "key", "auth", "code", "pass", "jwt", "pat"),
    ],
)
@pytest.mark.parametrize("before", ["?", "&", "&amp;", "\\u0026", "%26"])
def test_a_parameter_with_a_telling_name_is_blanked(name: str, before: str) -> None:
    assert redact(f"x{before}{name}=v1 y", {}) == f"x{before}{name}=*** y"
    assert redact(f"x{before}page=v1 y", {}) == f"x{before}page=v1 y"


@pytest.mark.parametrize(
    "name",
    [
        *("X-Amz-Signature", "x-amz-credential", "X-Goog-Security-Token", "AccountKey"),
        *("SharedAccessKey", "SharedAccessSignature", "password", "passwd", "pwd"),
    ],
)
def test_some_names_are_those_of_a_secret_anywhere(name: str) -> None:
    assert redact(f"see {name}=v1;", {}) == f"see {name}=***;"


TOKENS = [
    *(f"AKIA{'A1' * 8}", f"ASIA{'A1' * 8}", *(f"gh{kind}_{'a' * 36}" for kind in "oprsu")),
    *(f"github_pat_{'a' * 22}", f"glpat-{'a-' * 10}", f"hf_{'a1' * 15}"),
    *(f"xox{kind}-{'1-' * 5}" for kind in "abprs"),
    f"eyJ{'a' * 10}.{'b' * 10}.c",
]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_known_by_its_form(token: str) -> None:
    assert redact(f"see {token} there", {}) == "see *** there"
    shorter = token.removesuffix("c")[:-1]
    assert redact(f"see {shorter} there", {}) == f"see {shorter} there"
