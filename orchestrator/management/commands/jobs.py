"""`manage.py jobs`: lists, shows, watches, submits, cancels, retries and changes jobs."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from access import audit
from orchestrator import queries
from orchestrator.kind_problems import BadPayload, UnknownKind
from orchestrator.management import job_tree
from orchestrator.management.base import OperatorCommand
from orchestrator.management.job_arguments import add_filter, change_of, filter_of, future, job_id
from orchestrator.management.terminal import add_json, console_of, in_style, print_json, print_table
from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.steering import actions
from orchestrator.steering.actions import eligible, start
from orchestrator.steering.batches import Verb
from orchestrator.steering.selection import BadFilter, Count, count
from orchestrator.submission import BadSubmission, TooManyUnfinished, submit

# As shells have it for programs that Ctrl-C ended.
EXIT_CODES = {Status.COMPLETED: 0, Status.FAILED: 1, Status.CANCELLED: 130}
MAX_LISTED = 10_000
REFUSALS = (BadFilter, BadPayload, BadSubmission, TooManyUnfinished, UnknownKind)

EXAMPLES = """
Examples:
  manage.py jobs list --status FAILED --finished-after 2h
  manage.py jobs show 01980c5e-7a00-7000-8000-000000000000
  manage.py jobs submit demo.slices '{"slices": 3}' --owner ada --watch
  manage.py jobs submit orchestration.two_batches --watch
  manage.py jobs watch 01980c5e-7a00-7000-8000-000000000000
  manage.py jobs cancel --owner ada --status CREATED --dry-run
  manage.py jobs cancel --kind demo.slices --yes
  manage.py jobs retry --status FAILED --kind demo.slices --finished-after 1d
  manage.py jobs change --owner ada --set-priority 9
  manage.py jobs change 01980c5e-7a00-7000-8000-000000000000 --set-run-at now

A TIME is 2030-01-31T12:00:00Z, or how long ago: 90s, 30m, 2h, 7d. What is done is in the audit trail, as done by the
user of the shell.
"""


class Command(OperatorCommand):
    help = "Lists, shows, watches, submits, cancels, retries and changes jobs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog, parser.formatter_class = EXAMPLES, RawDescriptionHelpFormatter
        named = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, help: str, act: Callable[[dict[str, Any]], None]) -> CommandParser:
            added: CommandParser = named.add_parser(
                name, help=help, description=help, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
            )
            added.set_defaults(act=act)
            add_json(added)
            return added

        self._add_reading(action)
        self._add_submit(action("submit", "Submits a job.", self._submit))
        verbs: tuple[tuple[Verb, str], ...] = (
            ("cancel", "Cancels jobs, with the children of pipelines. Running ones are asked to stop."),
            ("retry", "Lets failed and cancelled jobs run again; of pipelines what did not complete."),
            ("change", "Changes the priority or the start of jobs that have not started."),
        )
        for verb, what in verbs:
            self._add_bulk(action(verb, what, self._act_on_many), verb)

    def _add_reading(self, action: Callable[..., CommandParser]) -> None:
        listing = action("list", "Lists jobs, newest first.", self._list)
        add_filter(listing)
        listing.add_argument("--limit", type=_limit, default=50, help=f"At most so many (50; up to {MAX_LISTED:,}).")
        for name, help, act in (
            ("show", "Shows a job with its children and failed attempts.", self._show),
            ("watch", "Draws a job and its children until it has ended; exits with 1 if it failed.", self._watch),
        ):
            action(name, help, act).add_argument("id", type=job_id, help="The job's id.")

    def _add_submit(self, parser: CommandParser) -> None:
        parser.add_argument("kind", help="The kind's name; `manage.py kinds list` lists them.")
        parser.add_argument("payload", nargs="?", help="The payload as JSON. {} if not given.")
        parser.add_argument("--owner", default="", help="Whose job it is. Nobody's if not given.")
        parser.add_argument("--priority", type=int, help="0 (most urgent) to 9; the kind's own if not given.")
        parser.add_argument("--run-at", type=future, metavar="TIME", help="Not before this time, or in 90s, 30m, 2h.")
        parser.add_argument("--max-attempts", type=int, help="The kind's own if not given.")
        parser.add_argument("--watch", action="store_true", help="Draw it until it has ended.")

    def _add_bulk(self, parser: CommandParser, verb: Verb) -> None:
        parser.add_argument("ids", nargs="*", type=job_id, metavar="ID", help="Just these jobs.")
        add_filter(parser)
        if verb == "change":
            parser.add_argument("--set-priority", type=int, metavar="0-9", help="The new priority.")
            parser.add_argument("--set-run-at", type=future, metavar="TIME", help="The new earliest start, or now.")
        parser.add_argument("--dry-run", action="store_true", help="Only count.")
        parser.add_argument("--yes", action="store_true", help="Do not ask first.")
        parser.add_argument("--no-wait", action="store_true", help="Do not wait until it is done.")

    @audit.by_command()
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["act"](options)
        except REFUSALS as refusal:
            raise CommandError(str(refusal)) from None
        except Job.DoesNotExist:
            raise CommandError("No job has this id, or it was deleted.") from None

    def _list(self, options: dict[str, Any]) -> None:
        try:
            jobs = filter_of(options).apply(Job.objects.all())
        except BadFilter:
            jobs = Job.objects.filter(parent=None)
        listed = list(queries.with_details(jobs.order_by("-id")).defer("payload", "result")[: options["limit"]])
        if options["json"]:
            return print_json(self, {"results": [summary(job) for job in listed]})
        rows = [
            (job.id, job.kind, in_style(job.status), job.owner, job.priority, job.created_at, _one_line(job.error))
            for job in listed
        ]
        return print_table(self, ("id", "kind", "status", "owner", "priority", "created", "error"), rows)

    def _show(self, options: dict[str, Any]) -> None:
        job = job_tree.read(options["id"])
        queries.add_attempts([job])
        shown = summary(job) | {"payload": job.payload, "result": job.result, "attempts": _attempts(job)}
        if options["json"]:
            return print_json(self, shown)
        rows = [(name, _one_line(value)) for name, value in shown.items() if value not in (None, "", [])]
        print_table(self, ("", ""), rows)
        if job.children_counts:
            console_of(self.stdout).print(job_tree.tree(job))
        return None

    def _watch(self, options: dict[str, Any]) -> None:
        self._watch_until_it_ends(options["id"], as_json=options["json"])

    def _submit(self, options: dict[str, Any]) -> None:
        run_at = options["run_at"]
        job = submit(
            options["kind"],
            _parsed(options["payload"]),
            owner=options["owner"],
            priority=options["priority"],
            run_at=None if run_at == "now" else run_at,
            max_attempts=options["max_attempts"],
        )
        if options["watch"]:
            self._watch_until_it_ends(job.id, as_json=options["json"])
        elif options["json"]:
            print_json(self, summary(job_tree.read(job.id)))
        else:
            self.stdout.write(str(job.id))

    def _watch_until_it_ends(self, id: Any, *, as_json: bool) -> None:
        job = job_tree.wait(id) if as_json else job_tree.watch(self, id)
        if as_json:
            print_json(self, summary(job) | {"result": job.result})
        elif job.status == Status.COMPLETED and job.result is not None:
            self.stdout.write(json.dumps(job.result, indent=2, ensure_ascii=False))
        if code := EXIT_CODES[Status(job.status)]:
            sys.exit(code)

    def _act_on_many(self, options: dict[str, Any]) -> None:
        verb: Verb = options["action"]
        described = filter_of(options)
        change = change_of(options) if verb == "change" else None
        jobs = described.apply(Job.objects.all())
        found = count(eligible(verb, jobs, change))
        if options["dry_run"]:
            return self._tell(options, {"action": verb, "matched": found.matched, "exact": found.exact}, _sum(found))
        if found.matched and not (options["yes"] or len(described.ids) == 1 or self._confirms(verb, _sum(found))):
            raise CommandError("Nothing was done.")
        started = start(verb, jobs, described.given, change=change)
        if started.job is None:
            return self._tell(options, {"action": verb, "matched": 0}, "No job matches that this can be done to.")
        if options["no_wait"]:
            answer = {"action": verb, "matched": started.matched, "job_id": str(started.job.id)}
            return self._tell(options, answer, f"{started.job.id} does it: manage.py jobs watch {started.job.id}")
        return self._finish(options, started.job, more=started.more)

    def _confirms(self, verb: str, number: str) -> bool:
        if not sys.stdin.isatty():
            raise CommandError(f"That would {verb} {number}; --yes does it without asking, --dry-run only counts.")
        return input(f"{verb.capitalize()} {number}? [y/N] ").strip().lower() in ("y", "yes")

    def _finish(self, options: dict[str, Any], job: Job, *, more: bool) -> None:
        """Does it here, so that no worker needs to be free; if this is interrupted, its job does the rest."""
        result = actions.finish(job, tell=lambda done, total: self._tell_progress(options, done, total))
        counts = {name.replace("_", " "): value for name, value in result.items() if type(value) is int}
        said = ", ".join(f"{value:,} {name}" for name, value in counts.items() if value or name == "matched")
        lines = [said, *(f"{each['job_id']}: {each['detail']}" for each in result["refusals"])]
        if more:
            lines.append("More jobs match than one action takes: repeat the command for them.")
        self._tell(options, result | {"job_id": str(job.id), "more": more}, "\n".join(lines))

    def _tell_progress(self, options: dict[str, Any], done: int, total: int) -> None:
        if done < total and not options["json"]:
            self.stderr.write(f"{done:,} of {total:,} jobs")

    def _tell(self, options: dict[str, Any], value: dict[str, Any], words: str) -> None:
        if options["json"]:
            print_json(self, value)
        else:
            self.stdout.write(words)


def summary(job: queries.JobDetail) -> dict[str, Any]:
    """A job without what can be large."""
    return {
        "job_id": job.id,
        "kind": job.kind,
        "status": job.status,
        "waiting_for": queries.waiting_for(job),
        "owner": job.owner,
        "queue": job.queue,
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "progress": {"done": job.progress_done, "total": job.progress_total, "message": job.progress_message},
        "error": job.error,
        "parent": job.parent_id,
        "name": job.name,
        "children": job.children_counts,
        "worker": job.worker_name,
        "run_at": job.run_at,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _attempts(job: queries.JobDetail) -> list[dict[str, Any]]:
    return [
        {"number": each.number, "outcome": each.outcome, "error": each.error, "worker": each.worker_name}
        for each in job.failed_attempts
    ]


def _one_line(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.partition("\n")[0] if isinstance(value, str) else value


def _sum(found: Count) -> str:
    jobs = "job" if found.matched == 1 else "jobs"
    return f"{found.matched:,} {jobs}" if found.exact else f"more than {found.matched:,} {jobs}"


def _parsed(payload: str | None) -> Any:
    try:
        return None if payload is None else json.loads(payload)
    except ValueError as error:
        raise CommandError(f"The payload is not JSON: {error}") from None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LISTED):
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_LISTED:,}")
    return int(text)
