"""The parser of a request with records, which need not become dicts only to be written as JSON again."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ingestion.records.staging import Staged
from ingestion.records.student import FIELDS
from ingestion.services.receiving import MAX_RECORDS
from orchestrator.http import strict_json
from orchestrator.http.parsers import JSONParser

_Text = str | None | UnsetType
_Grade = str | Annotated[int, Meta(ge=0, le=99)] | None | UnsetType

# Any of the fields, and no other. What they may hold is for the job to say.
_Record = msgspec.defstruct(
    "_Record",
    [(name, _Grade if name == "grade" else _Text, UNSET) for name in FIELDS],
    forbid_unknown_fields=True,
    gc=False,
)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    records: Annotated[list[_Record], Meta(min_length=1, max_length=MAX_RECORDS)]  # type: ignore[valid-type]
    mode: str | UnsetType = UNSET
    on_conflict: str | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Body)
_encoder = msgspec.json.Encoder()


class RecordsParser(JSONParser):
    """Strict JSON, whose `records` are Staged if all are as records mostly are."""

    def read(self, body: bytes) -> Any:
        return staged_body(body) or super().read(body)


def staged_body(body: bytes) -> dict[str, Any] | None:
    """What `strict_json.read` returns, but for its records; None if they have to be read like any JSON, or refused."""
    try:
        sent = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    lines = _encoder.encode_lines(sent.records)
    options = {name: value for name in ("mode", "on_conflict") if (value := getattr(sent, name)) is not UNSET}
    again = lines + _encoder.encode({"records": 0, **options})
    if strict_json.repeats_key(body, again) or b"\\u0000" in again:
        return None
    return {"records": Staged.of_documents(lines.splitlines()), **options}
