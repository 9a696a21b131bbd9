#!/usr/bin/env python3
"""Submits 1,000 student records to a running Muster and watches them: a first thing to try.

    python misc/test_api.py [http://127.0.0.1:8000] [--token TOKEN]

It needs nothing but Python. Three records are bad and one comes twice, to show what becomes of those.
"""

import argparse
import json
import time
import urllib.error
import urllib.request
from typing import Any

WATCH_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--token", help="as `manage.py token USERNAME` makes it; where REQUIRE_AUTH is on")
    asked = parser.parse_args()
    began_at = time.monotonic()
    accepted = send(asked.url + "/api/data/ingest/", asked.token, {"records": records()})
    print(f"{accepted['message']} Accepted in {1000 * (time.monotonic() - began_at):.0f} ms: {accepted['status_url']}")
    status = watch(asked.url + f"/api/data/status/{accepted['task_id']}/", asked.token)
    print(f"{status['stored_records']} stored, {status['failed_records']} not, in {status['duration']:.1f} s.")
    errors = send(asked.url + f"/api/data/status/{accepted['task_id']}/errors/", asked.token)["results"]
    for error in errors:
        print(f"  record {error['index']}: " + " ".join(each["message"] for each in error["errors"]))
    right = status["status"] == "COMPLETED" and [error["index"] for error in errors] == [17, 400, 700, 999]
    raise SystemExit(0 if right else 1)


def records() -> list[dict[str, object]]:
    run = f"{time.time():.0f}"
    sent: list[dict[str, object]] = [
        {
            "student_id": f"{run}-{number:04}",
            "first_name": "Asha",
            "last_name": f"Rao {number}",
            "email": f"asha.rao.{number}@example.org",
            "grade": str(number % 12 + 1),
            "date_of_birth": "2015-06-30",
        }
        for number in range(1_000)
    ]
    sent[17]["grade"] = "13"
    sent[400]["date_of_birth"] = "2026-02-30"
    sent[700]["student_id"] = sent[5]["student_id"]
    del sent[999]["email"]
    return sent


def watch(url: str, token: str | None) -> dict[str, object]:
    """Prints each new status message until the ingestion has ended."""
    said = ""
    while True:
        status = send(url, token)
        if status["status_message"] != said:
            said = status["status_message"]
            print(said)
        if status["completed_at"]:
            return status
        time.sleep(WATCH_SECONDS)


def send(url: str, token: str | None, body: object = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as refusal:
        raise SystemExit(f"{refusal.code}: {refusal.read().decode()}") from None
    except urllib.error.URLError as error:
        raise SystemExit(
            f"{url} cannot be reached ({error.reason}). Is Muster running? `make up` starts it."
        ) from None


if __name__ == "__main__":
    main()
