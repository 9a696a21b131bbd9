"""What the OpenAPI document says beyond what drf-spectacular finds: headers, texts, and the payload of each kind."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from orchestrator.http.openapi import PROBLEM_HEADERS, RATE_LIMIT, REPLAYED
from orchestrator.kind_problems import BadPayload
from orchestrator.kinds import Kind, all_kinds, is_switched_off


def publish_headers(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Adds the headers that come with a status, whatever the endpoint is."""
    for operation in (each for path in result["paths"].values() for each in path.values()):
        takes_key = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))
        for status, response in operation["responses"].items():
            headers = dict(response.get("headers", {}))
            if "429" in operation["responses"]:
                headers |= RATE_LIMIT
            if "application/problem+json" in response.get("content", {}):
                headers |= PROBLEM_HEADERS.get(status, {})
            if takes_key and status < "300":
                headers["Idempotency-Replayed"] = REPLAYED
            if headers:
                response["headers"] = headers
    return result


# PostgreSQL holds no NUL in a text. Without the u flag, which JSON Schema leaves open, this is the way to write one.
NO_NUL = r"^[^\u0000]*$"
# A text that is more than blanks, which are stripped: those of Python, of which ECMA-262 does not know all.
NOT_BLANK = r"^[^\u0000]*[^\s\u001c-\u001f\u0085\u0000][^\u0000]*$"


def forbid_nul(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Adds to each text of a request without a pattern that it holds no NUL, and in a query is not blank."""
    components = result["components"]["schemas"]
    components["HoldsNul"] = ANYTHING_WITH_NUL
    seen: set[str] = set()
    for operation in (each for path in result["paths"].values() for each in path.values()):
        for parameter in operation.get("parameters", []):
            _refuse_nul(parameter["schema"], components, seen)
            _refuse_blank(parameter)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            _refuse_nul(content["schema"], components, seen)
    return result


def _refuse_nul(schema: dict[str, Any], components: dict[str, Any], seen: set[str]) -> None:
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    if name and name not in seen:
        seen.add(name)
        _refuse_nul(components[name], components, seen)
    if schema.get("type") == "string" and not schema.keys() & {"pattern", "enum", "const", "format"}:
        schema["pattern"] = NO_NUL
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for each in [*inner, *(part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, []))]:
        if isinstance(each, dict):
            _refuse_nul(each, components, seen)


def _refuse_blank(parameter: dict[str, Any]) -> None:
    schema = parameter["schema"].get("items", parameter["schema"])
    if parameter["in"] == "query" and schema.get("minLength") and schema.get("pattern") == NO_NUL:
        schema["pattern"] = NOT_BLANK


# An object of which nothing else is known. Said with `not`, which generators of clients read over, since they know no
# types that refer to themselves.
HOLDS_NUL = {"$ref": "#/components/schemas/HoldsNul"}
ANY_OBJECT = {"type": "object", "not": HOLDS_NUL}
ANYTHING_WITH_NUL = {
    "description": "A string that contains NUL, or an array or object that holds such a string; refused everywhere.",
    "anyOf": [
        {"type": "string", "pattern": r"\u0000"},
        {"type": "array", "items": {}, "contains": HOLDS_NUL},
        {"type": "object", "not": {"propertyNames": {"pattern": NO_NUL}, "additionalProperties": {"not": HOLDS_NUL}}},
    ],
}


def publish_payload_types(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Makes every kind's payload type a component, and the new job of each kind another."""
    kinds = [kind for kind in all_kinds() if not (kind.internal or is_switched_off(kind))]
    payloads, components = msgspec.json.schema_components(
        [kind.payload_type for kind in kinds], ref_template="#/components/schemas/{name}"
    )
    known = result["components"]["schemas"]
    known |= components
    if whole := known.get("NewJobRequest"):
        forms = {_name_of(kind): _new_job(whole, kind, payload) for kind, payload in zip(kinds, payloads, strict=True)}
        known |= forms
        known["NewJobRequest"] = {
            "description": whole["description"],
            "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in forms],
        }
    return result


def _name_of(kind: Kind) -> str:
    return "New" + "".join(part.capitalize() for part in re.split(r"[._]", kind.name)) + "Job"


def _new_job(whole: dict[str, Any], kind: Kind, payload: dict[str, Any]) -> dict[str, Any]:
    """A new job of that kind, which has to be named but for the one that is meant where none is."""
    # What a kind declares itself is not asked for. The steps of a pipeline may wait, not the pipeline.
    left_out = ["unique"] * bool(kind.unique) + ["wait_for"] * bool(kind.plan)
    fields = {name: field for name, field in whole["properties"].items() if name not in left_out}
    is_default = fields["kind"]["default"] == kind.name
    named = {"type": "string", "const": kind.name} | ({"default": kind.name} if is_default else {})
    may_lack = _fits_empty(kind)
    choices = [payload, {"type": "null"}] if may_lack else [payload]
    # A payload of any form is one schema, which matches null as well.
    form = {"anyOf": choices} if payload else {}
    properties = {"kind": named, "payload": {"description": fields["payload"]["description"], **form}}
    required = ["kind"] * (not is_default) + ["payload"] * (not may_lack)
    needs: dict[str, Any] = {"required": required} if required else {}
    return {**whole, **needs, "description": kind.description, "properties": fields | properties}


def _fits_empty(kind: Kind) -> bool:
    """Whether a payload that is not given, which means {}, will do."""
    try:
        kind.read_payload({})
    except BadPayload:
        return False
    return True
