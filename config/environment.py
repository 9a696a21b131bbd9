"""What can be set from outside, by environment variables: names, types, bounds and defaults."""

from typing import Annotated

import msgspec
from msgspec import Meta

# The queue of ticks and other upkeep, which no job may hold up.
CONTROL_QUEUE = "control"
DEFAULT_QUEUES = "default:prefork:2,io:threads:32"

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set from outside: a name, a type with its bounds, a default and a line of help."""

    SECRET_KEY: Annotated[
        str,
        Meta(
            min_length=32,
            description="Signs sessions and cookies. Use about 50 random characters, and keep it secret.",
        ),
    ]
    DATABASE_URL: Annotated[
        str,
        Meta(
            description="PostgreSQL 15 or later: postgresql://user:password@host:port/name?option=value. "
            "Separate several hosts by commas."
        ),
    ] = "postgresql://muster@127.0.0.1:5432/muster"
    BROKER_URL: Annotated[str, Meta(description="Valkey or Redis (redis://…) or RabbitMQ (amqp://…).")] = (
        "redis://127.0.0.1:6379/0"
    )
    QUORUM_QUEUES: Annotated[bool, Meta(description="Use RabbitMQ's quorum queues, which a cluster replicates.")] = (
        False
    )
    CACHE_URL: Annotated[
        str,
        Meta(
            description="Valkey or Redis in which duplicate bells are merged. Empty: the broker if it is "
            "Valkey or Redis, else no cache."
        ),
    ] = ""
    TCP_USER_TIMEOUT_SECONDS: Annotated[
        float,
        Meta(
            ge=1,
            le=3_600,
            description="Close a connection when data sent on it has not been acknowledged for this long. This and "
            "the next three hold for either end of a connection to PostgreSQL.",
        ),
    ] = 5
    TCP_KEEPALIVE_IDLE_SECONDS: Annotated[
        int,
        Meta(ge=1, le=3_600, description="Send the first keepalive probe after a connection has been idle this long."),
    ] = 5
    TCP_KEEPALIVE_INTERVAL_SECONDS: Annotated[
        int, Meta(ge=1, le=3_600, description="Time between keepalive probes.")
    ] = 2
    TCP_KEEPALIVE_PROBES: Annotated[
        int, Meta(ge=1, le=100, description="Close a connection after this many unanswered keepalive probes.")
    ] = 3
    DEBUG: Annotated[bool, Meta(description="Django's debug mode. For development only.")] = False
    REQUIRE_AUTH: Annotated[bool, Meta(description="Reject requests without a token.")] = True
    ALLOW_UNAUTHENTICATED: Annotated[
        bool,
        Meta(description="Explicitly allows requests without a token: needed to turn REQUIRE_AUTH off in production."),
    ] = False
    ALLOWED_HOSTS: Annotated[str, Meta(description="Host names to serve, separated by commas.")] = (
        "localhost,127.0.0.1,[::1]"
    )
    CSRF_TRUSTED_ORIGINS: Annotated[
        str,
        Meta(
            description="Origins that may submit the admin's forms, such as https://muster.example.org, "
            "separated by commas."
        ),
    ] = ""
    SECURE_COOKIES: Annotated[
        bool, Meta(description="Serve over HTTPS only: secure cookies, redirects to HTTPS, and HSTS.")
    ] = True
    HSTS_PRELOAD: Annotated[
        bool,
        Meta(description="Allow browsers to preload the domain as HTTPS-only, which is hard to undo."),
    ] = False
    LOG_LEVEL: Annotated[
        str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged.")
    ] = "INFO"
    LOG_FORMAT: Annotated[
        str,
        Meta(
            pattern="^(plain|json)$",
            description="Form of the log: plain lines, or JSON, an object a line, which names the request or the "
            "attempt at a job that it is about.",
        ),
    ] = "plain"
    SENTRY_DSN: Annotated[
        str,
        Meta(description="Where Sentry is sent each job that failed for good, and other errors. Empty: nowhere."),
    ] = ""
    JOB_LOG_LINES: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="How many lines that its handler logs are kept of each attempt at a job: of more, the first "
            "and the last half. 0: none.",
        ),
    ] = 500
    EXTRA_APPS: Annotated[str, Meta(description="Your own Django apps that define kinds, separated by commas.")] = ""
    QUEUES: Annotated[
        str,
        Meta(
            description="The queues of jobs, separated by commas, each as name:pool:size with the pool prefork "
            "(processes) or threads. For prefork, :max_tasks_per_child=… (jobs) and :max_memory_per_child=… (kB) may "
            "follow."
        ),
    ] = DEFAULT_QUEUES

    ORCHESTRATION_STEP_SECONDS: Annotated[
        float, Meta(ge=0, le=86_400, description="Duration of each draw and each aggregation of an orchestration.")
    ] = 180
    MAX_UNFINISHED_ORCHESTRATIONS: Annotated[
        int, Meta(ge=1, description="Unfinished orchestrations allowed per user.")
    ] = 3

    INGESTION_EXTERNAL_SERVICE: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)+)?$",
            description="Dotted path of the function called once for every 100 valid records, with a list of "
            "records and the keyword argument idempotency_key. Empty: a placeholder that only waits.",
        ),
    ] = ""
    INGESTION_EXTERNAL_CALL_SECONDS: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600,
            description="How long that placeholder waits. 0: it is not called, and a request's records are one step.",
        ),
    ] = 0.5

    INGESTION_MAX_UPLOAD_RECORDS: Annotated[
        int, Meta(ge=1, description="Maximum number of records in one streamed upload.")
    ] = 1_000_000
    INGESTION_MAX_UPLOAD_BYTES: Annotated[
        int, Meta(ge=1, description="Maximum size of one streamed upload in bytes, after decompression.")
    ] = 2_000_000_000

    PRIORITY_STEP_SECONDS: Annotated[
        float, Meta(ge=0, le=86_400, description="Head start in the queue for each step of priority.")
    ] = 60
    OWNER_SLOT_SHARE: Annotated[
        float,
        Meta(
            ge=0.001,
            le=1,
            description="The most of a queue's slots that jobs of one owner may hold, one at least. 1: all of them.",
        ),
    ] = 0.5
    HEARTBEAT_SECONDS: Annotated[Seconds, Meta(description="How often a worker process renews its lease.")] = 5
    LEASE_SECONDS: Annotated[
        Seconds, Meta(description="A worker process that has not renewed its lease for this long counts as dead.")
    ] = 15
    CONSUMER_STALL_SECONDS: Annotated[
        Seconds, Meta(description="Restart an idle worker whose queue has had unread messages this long.")
    ] = 60
    TICK_SECONDS: Annotated[Seconds, Meta(description="How often Beat triggers upkeep.")] = 1
    TIME_SLICE_SECONDS: Annotated[
        Seconds, Meta(description="How long a worker keeps claiming jobs of a kind after one bell.")
    ] = 1
    ASYNC_SLOTS: Annotated[
        int, Meta(ge=1, le=10_000, description="Async jobs that a worker process runs at once on its event loop.")
    ] = 1_000
    ASYNC_CONNECTIONS: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="Async jobs of a worker process that use the database at once; others wait for a connection.",
        ),
    ] = 8
    SHUTDOWN_GRACE_SECONDS: Annotated[
        float,
        Meta(ge=0, le=3_600, description="How long running jobs may take to finish after a worker is asked to stop."),
    ] = 10
    HARD_TIMEOUT_GRACE_SECONDS: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600,
            description="A handler still running this long after its timeout is ended together with its process.",
        ),
    ] = 5

    AUDIT_DAYS: Annotated[
        float,
        Meta(ge=0, le=36_500, description="How long audit entries are kept. 0: forever."),
    ] = 365
    TOKEN_DEFAULT_DAYS: Annotated[
        float, Meta(gt=0, le=3_650, description="Lifetime of a token for which none is given.")
    ] = 30
    TOKEN_MAX_DAYS: Annotated[float, Meta(gt=0, le=3_650, description="Maximum lifetime of any token.")] = 365

    IDEMPOTENCY_KEY_HOURS: Annotated[
        float, Meta(gt=0, le=8_760, description="How long an Idempotency-Key is remembered.")
    ] = 24
    RETENTION_DAYS: Annotated[
        float,
        Meta(
            ge=0,
            le=36_500,
            description="How long a finished job, with everything that belongs to it, is kept. 0: forever.",
        ),
    ] = 30
    RETENTION_DAYS_BY_KIND: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9_.]+=\d{1,5}(\.\d+)?(,|$))*$",
            description="Different retention for some kinds, separated by commas: scheduler.add=2,demo.slices=0.5",
        ),
    ] = ""
    DELIVERY_DAYS: Annotated[
        float,
        Meta(ge=0, le=36_500, description="How long the log of sent notifications is kept. 0: forever."),
    ] = 30
    WEBHOOK_PRIVATE_NETWORKS: Annotated[
        str,
        Meta(
            description="Networks to which webhooks may be sent though they are not public, separated by commas. "
            "Towards them http:// is allowed, too."
        ),
    ] = ""
    METRICS_TOKEN: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9._~+/=-]{16,200})?$",
            description="The token with which /metrics is read. Empty: it is served to this machine alone.",
        ),
    ] = ""
    PUBLIC_URL: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+/?)?$",
            description="Where users reach this service, such as https://muster.example.org: for links in messages. "
            "Empty: no links.",
        ),
    ] = ""
    MAX_BODY_BYTES: Annotated[int, Meta(ge=1_000, description="Maximum size of a request body in bytes.")] = 5_000_000
    MAX_RESULT_BYTES: Annotated[
        int, Meta(ge=1_000, description="Maximum size of a job's result in bytes, as JSON.")
    ] = 1_000_000
    MAX_CHILDREN: Annotated[int, Meta(ge=1, description="Maximum number of children of a pipeline.")] = 100_000
    MAX_WAIT_SECONDS: Annotated[float, Meta(ge=0, le=3_600, description="Maximum ?wait= of a request.")] = 60
    MAX_WAITERS: Annotated[
        int,
        Meta(
            ge=0,
            description="Requests with ?wait= that one web process holds open at the same time; each user "
            "gets at most a quarter.",
        ),
    ] = 16
    MAX_WATCHERS: Annotated[
        int, Meta(ge=0, le=4_096, description="Event streams that one web process serves at the same time.")
    ] = 1_000
    MAX_WATCHERS_PER_USER: Annotated[
        int, Meta(ge=0, le=4_096, description="Those of them that one user may have open.")
    ] = 100
    WATCH_HEARTBEAT_SECONDS: Annotated[
        float, Meta(gt=0, le=300, description="Send something on an event stream after so long without an event.")
    ] = 15
    MAX_WATCH_SECONDS: Annotated[
        Seconds,
        Meta(description="Close an event stream after so long; the client connects again, and its token is checked."),
    ] = 900
    WEB_THREADS: Annotated[
        int, Meta(ge=4, le=512, description="Requests that one web process handles at the same time.")
    ] = 32
    MAX_BODY_SECONDS: Annotated[Seconds, Meta(description="Maximum time to receive a request body.")] = 60
    MIN_BODY_BYTES_PER_SECOND: Annotated[
        int, Meta(ge=0, description="Minimum transfer rate of a body or an upload, averaged over 10 s.")
    ] = 500
    MAX_SLOW_BODIES: Annotated[
        int,
        Meta(
            ge=2, description="Bodies that one web process waits for at the same time; each client gets at most half."
        ),
    ] = 64
    MAX_UPLOADS: Annotated[
        int,
        Meta(
            ge=2,
            le=512,
            description="Uploads that one web process reads at the same time; each client gets at most half.",
        ),
    ] = 16
    MAX_UPLOAD_SECONDS: Annotated[Seconds, Meta(description="Maximum time to receive an upload.")] = 21_600
    MAX_FAILED_LOGINS_PER_MINUTE: Annotated[
        int, Meta(ge=1, description="Failed logins, or wrong tokens, allowed per address and minute.")
    ] = 20
    TRUSTED_PROXIES: Annotated[
        str,
        Meta(
            description="Addresses or networks of reverse proxies, separated by commas, whose "
            "X-Forwarded-For is trusted."
        ),
    ] = ""
    REQUESTS_PER_MINUTE: Annotated[int, Meta(ge=1, description="Requests allowed per user and minute.")] = 60_000
    REQUESTS_PER_MINUTE_PER_ADDRESS: Annotated[
        int, Meta(ge=1, description="Requests allowed per address and minute, counted before a token is looked up.")
    ] = 120_000

    CLIENT_PRIORITIES: Annotated[
        str,
        Meta(
            pattern="^[0-9]-[0-9]$",
            description="Priorities that clients may ask for, unless they may exceed the limits of clients.",
        ),
    ] = "3-9"
    CLIENT_MAX_ATTEMPTS: Annotated[
        int, Meta(ge=1, le=1_000, description="Attempts that they may ask for, for a job.")
    ] = 25
    CLIENT_RUN_AT_DAYS: Annotated[
        float, Meta(gt=0, le=36_500, description="How far ahead the start of their jobs may be.")
    ] = 366
    CLIENT_MAX_UNFINISHED: Annotated[
        int, Meta(ge=1, description="Unfinished jobs that each of them may have, children not counted.")
    ] = 50_000
    CLIENT_MAX_STORED_BYTES: Annotated[
        int, Meta(ge=1, description="Bytes that the database may store for their unfinished jobs, as it stores them.")
    ] = 10_000_000_000
    CLIENT_MAX_SCHEDULES: Annotated[int, Meta(ge=0, description="Schedules that each of them may have.")] = 100
    CLIENT_MIN_SCHEDULE_SECONDS: Annotated[
        int, Meta(ge=1, le=86_400, description="Minimum time between two runs of one of their schedules.")
    ] = 60
    DEMO_KINDS: Annotated[bool, Meta(description="Let clients submit the demo kinds although REQUIRE_AUTH is on.")] = (
        False
    )

    FAILPOINTS: Annotated[
        str, Meta(description="For tests: a folder whose files name the points at which processes crash.")
    ] = ""

    DATA_DIR: Annotated[str, Meta(description="Folder for the data of the servers of `manage.py up`.")] = "data"
    WEB_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of the web server of `manage.py up`.")] = 8000
    FLOWER_BASIC_AUTH: Annotated[
        str,
        Meta(
            pattern="^([^:,]+:[^,]+)?$",
            description="Credentials for Flower, as user:password. Empty: Flower needs no login.",
        ),
    ] = ""
    FLOWER_URL: Annotated[
        str, Meta(description="Public URL of Flower. Empty: FLOWER_PORT on the host of the admin.")
    ] = ""
    TRACE_URL: Annotated[
        str,
        Meta(
            pattern=r"^(https?://\S*\{trace_id\}\S*)?$",
            description="Public URL of a trace, with {trace_id} where its id belongs, for the link on a job's page. "
            "Empty: no link.",
        ),
    ] = ""
    FLOWER_BATCH_JOBS_PER_SECOND: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Completed jobs of batches that each worker process reports to Flower per second, at most.",
        ),
    ] = 20
    TRACED_JOBS_PER_SECOND: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Attempts that each process exports spans of per second, at most, if it exports traces. Those "
            "that fail come on top.",
        ),
    ] = 20
    FLOWER_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of Flower of `manage.py up`.")] = 5555
    POSTGRES_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of the embedded PostgreSQL.")] = 54320
    VALKEY_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of the embedded Valkey.")] = 63790
