"""A body is read as it is declared, or refused with what would be read."""

from __future__ import annotations

import codecs
import gzip
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from config.wsgi import Handler, Request
from orchestrator.http import encodings
from orchestrator.models import Job
from tests.api import Api

pytestmark = pytest.mark.django_db

JSON = "application/json"
RECORDS = (
    '{"records": [{"student_id": "S1", "first_name": "Zoë", "last_name": "L", "email": "z@example.org", "grade": 1}]}'
)
BODIES = {
    "/jobs": '{"owner": "Zoë"}',
    "/orchestrate/ada": " {}",
    "/tasks/": '{"operation": "1+2"}',
    "/tasks/batch-request/": '[{"operation": "1+2"}]',
    "/task-schedules/": '{"operation": "1+2", "interval": 60}',
    "/api/data/ingest/": RECORDS,
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        f"{JSON};charset=UTF-8",
        f'{JSON}; charset="utf-8"',
        "Application/JSON; Charset=utf8",
        f"{JSON};charset=us-ascii",
    ],
)
def test_utf_8_may_be_declared_in_any_way(api: Api, path: str, content_type: str) -> None:
    response = api.send("POST", path, BODIES[path].encode(), content_type=content_type)

    assert response.status_code in (201, 202), response.content


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "charset",
    ["iso-8859-1", '"ISO-8859-1"', "utf-16", "utf-32", "utf-7", "latin1", "x", '""', "utf-8; charset=utf-16"],
)
def test_another_charset_is_a_415(api: Api, path: str, charset: str) -> None:
    response = api.send("POST", path, BODIES[path].encode(), content_type=f"{JSON}; charset={charset}")

    assert response.status_code == 415
    assert "UTF-8" in response.json()["detail"]
    assert not Job.objects.exists()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "br", "deflate", "zstd", "gzip, gzip", "identity, gzip"])
def test_packed_json_is_a_415_that_says_how_to_send_it(api: Api, path: str, coding: str) -> None:
    response = api.send("POST", path, gzip.compress(BODIES[path].encode()), Content_Encoding=coding)

    assert (response.status_code, response["Accept-Encoding"]) == (415, "identity")
    assert "Content-Encoding" in response.json()["detail"]
    assert not Job.objects.exists()


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity", " , "])
def test_the_identity_coding_is_accepted(api: Api, coding: str) -> None:
    assert api.send("POST", "/jobs", b"{}", Content_Encoding=coding).status_code == 202


@pytest.mark.parametrize("path", BODIES)
def test_a_byte_order_mark_before_json_is_skipped(api: Api, path: str) -> None:
    response = api.send("POST", path, codecs.BOM_UTF8 + BODIES[path].encode())

    assert response.status_code in (201, 202), response.content


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_json_in_another_encoding_is_refused_with_its_name(api: Api, encoding: str) -> None:
    response = api.send("POST", "/jobs", BODIES["/jobs"].encode(encoding))

    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, "not_utf_8")
    assert encoding[:6].upper() in response.json()["detail"]


@pytest.mark.parametrize("text", [b"", b"a", b"ab", b"abc\0", b"\0", b"\xef\xbb\xbf{}", "é{}".encode()])
def test_bytes_that_may_be_utf_8_are_taken_for_it(text: bytes) -> None:
    assert encodings.foreign_encoding(text) is None


def asked(**environ: Any) -> int:
    """The status that the application answers, without the signals by which Django closes the test's connection."""
    setup_testing_defaults(environ)
    return Handler().get_response(Request(environ)).status_code


@pytest.mark.parametrize(
    "content_type",
    [
        f"{JSON}; charset*=foo'x'utf-8",
        f"{JSON}; charset=base64",
        f"{JSON}; charset=\0",
        "; ;",
        f"{JSON}" + ";" * 9_000,
    ],
)
@pytest.mark.parametrize("path", ["/jobs", "/api/data/ingest/stream/"])
def test_a_malformed_content_type_is_not_a_500(content_type: str, path: str) -> None:
    given = {"PATH_INFO": path, "CONTENT_TYPE": content_type, "HTTP_HOST": "localhost", "QUERY_STRING": "a=%ff"}
    body = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "2", "wsgi.input": BytesIO(b"{}")}

    assert asked(**given, **body) in (400, 415)
    assert asked(**given, REQUEST_METHOD="GET") in (400, 405)


def test_the_charset_of_a_body_is_not_that_of_the_query() -> None:
    query = {"PATH_INFO": "/jobs", "QUERY_STRING": "limit=7", "HTTP_HOST": "localhost"}

    assert asked(**query, CONTENT_TYPE=f"{JSON}; charset=utf-16") == 200
