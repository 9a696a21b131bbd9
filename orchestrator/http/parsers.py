"""Bodies: how they may be encoded, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.exceptions import APIException
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from orchestrator.http import encodings, strict_json
from orchestrator.kind_problems import Problem


class UnsupportedCharset(APIException):
    """The body is declared to be in another encoding than UTF-8."""

    status_code = 415
    default_detail = "Only UTF-8 is supported. Convert the body, and send charset=utf-8 or no charset."


class UnsupportedCoding(APIException):
    """The body is compressed in a way that is not supported; the header names those that are (RFC 9110, 15.5.16)."""

    status_code = 415

    def __init__(self, *accepted: str) -> None:
        self.headers = {"Accept-Encoding": ", ".join(accepted or ("identity",))}
        also = f", or with Content-Encoding: {' or '.join(accepted)}" if accepted else ", without a Content-Encoding"
        super().__init__(f"Send the body as it is{also}.")


def content_codings(request: Request, *accepted: str) -> list[str]:
    """The codings that a body was compressed with, at most one of those accepted.

    Raises UnsupportedCharset or UnsupportedCoding.
    """
    if not encodings.is_utf_8(request.content_type or ""):
        raise UnsupportedCharset
    codings = encodings.codings(request.headers.get("Content-Encoding", ""))
    if len(codings) > 1 or not set(codings) <= set(accepted):
        raise UnsupportedCoding(*accepted)
    return codings


class JSONParser(BaseParser):
    """Strict JSON, see `orchestrator.http.strict_json`. Django bounds how much is read, before reading it."""

    media_type = "application/json"
    exact = False

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        assert parser_context is not None
        request = parser_context["request"]
        content_codings(request)
        body = request.body
        if name := encodings.foreign_encoding(body):
            raise strict_json.BadJSON([Problem("", "not_utf_8", f"The body is {name}; JSON is sent as UTF-8.")])
        body = body.removeprefix(encodings.BOM)
        return self.read(body) if body.strip() else {}

    def read(self, body: bytes) -> Any:
        """The value of a body that is not empty; raises BadJSON."""
        return strict_json.read(body, exact=self.exact)


class ExactJSONParser(JSONParser):
    """Strict JSON whose numbers with a point are the Decimals that were written."""

    exact = True
