"""Every setting of Muster, read from the environment once; a bad value refuses to boot."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec
from django.core.exceptions import ImproperlyConfigured
from msgspec import Meta

BASE_DIR = Path(__file__).resolve().parent.parent

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set from outside: a name, a type with its bounds, a default and a line of help."""

    SECRET_KEY: Annotated[
        str, Meta(min_length=32, description="Signs sessions and cookies: 50 random characters, say. Keep it secret.")
    ]
    DATABASE_URL: Annotated[
        str, Meta(description="PostgreSQL 15 or later: postgresql://user:password@host:port/name?option=value")
    ] = "postgresql://muster@127.0.0.1:5432/muster"
    BROKER_URL: Annotated[str, Meta(description="Valkey or Redis (redis://…) or RabbitMQ (amqp://…).")] = (
        "redis://127.0.0.1:6379/0"
    )
    QUORUM_QUEUES: Annotated[
        bool, Meta(description="Queues of RabbitMQ that its nodes keep copies of; for a cluster.")
    ] = False
    CACHE_URL: Annotated[
        str,
        Meta(description="Valkey or Redis that merges bells; empty: the broker if it is one, else none."),
    ] = ""
    DEBUG: Annotated[bool, Meta(description="Django's debug mode; for development only.")] = False
    REQUIRE_AUTH: Annotated[bool, Meta(description="Refuse requests without a token.")] = True
    ALLOW_ANYONE: Annotated[
        bool, Meta(description="Says in so many words that REQUIRE_AUTH may be off although DEBUG is off.")
    ] = False
    ALLOWED_HOSTS: Annotated[str, Meta(description="Host names served, separated by commas.")] = (
        "localhost,127.0.0.1,[::1]"
    )
    CSRF_TRUSTED_ORIGINS: Annotated[str, Meta(description="Origins that may post to the admin, by commas.")] = ""
    SECURE_COOKIES: Annotated[bool, Meta(description="Serve only over HTTPS: secure cookies, redirects and HSTS.")] = (
        True
    )
    LOG_LEVEL: Annotated[str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level logged.")] = "INFO"
    EXTRA_APPS: Annotated[str, Meta(description="Django apps with kinds of your own, separated by commas.")] = ""
    QUEUES: Annotated[
        str, Meta(description="Queues that workers serve, besides control; a kind names one of them.")
    ] = "default,io"

    ORCHESTRATION_STEP_SECONDS: Annotated[
        float, Meta(ge=0, le=86_400, description="Time each draw and each aggregation takes.")
    ] = 180
    MAX_UNFINISHED_ORCHESTRATIONS: Annotated[
        int, Meta(ge=1, description="Unfinished orchestrations a user may have.")
    ] = 3

    INGESTION_EXTERNAL_SERVICE: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)+)?$",
            description="Dotted path of what is called once for every 100 good records: a function of a list of "
            "records and the keyword idempotency_key; empty: a stand-in that waits.",
        ),
    ] = ""
    INGESTION_EXTERNAL_CALL_SECONDS: Annotated[
        float, Meta(ge=0, le=3_600, description="Time the stand-in for the outside service takes.")
    ] = 0.5

    INGESTION_MAX_UPLOAD_RECORDS: Annotated[int, Meta(ge=1, description="Most records of one streamed upload.")] = (
        1_000_000
    )
    INGESTION_MAX_UPLOAD_BYTES: Annotated[
        int, Meta(ge=1, description="Most bytes of one streamed upload, after unpacking.")
    ] = 2_000_000_000

    PRIORITY_STEP_SECONDS: Annotated[
        float, Meta(ge=0, le=86_400, description="Head start that one step of priority gives in the queue.")
    ] = 60
    HEARTBEAT_SECONDS: Annotated[Seconds, Meta(description="How often a worker process renews its row.")] = 5
    LEASE_SECONDS: Annotated[Seconds, Meta(description="A worker row not renewed for so long is dead.")] = 15
    DEAF_SECONDS: Annotated[
        Seconds, Meta(description="A worker that is free, and hears no bell while bells lie in its queues, ends.")
    ] = 60
    TICK_SECONDS: Annotated[Seconds, Meta(description="How often Beat asks for upkeep.")] = 1
    TIME_SLICE_SECONDS: Annotated[Seconds, Meta(description="How long one answered bell goes on claiming.")] = 1
    SHUTDOWN_GRACE_SECONDS: Annotated[
        float, Meta(ge=0, le=3_600, description="Time running jobs have to finish once a worker is told to stop.")
    ] = 10

    IDEMPOTENCY_KEY_HOURS: Annotated[
        float, Meta(gt=0, le=8_760, description="How long a client's Idempotency-Key is remembered.")
    ] = 24
    RETENTION_DAYS: Annotated[
        float,
        Meta(
            ge=0,
            le=36_500,
            description="How long a job is kept after its end, with all that goes with it; 0: for ever.",
        ),
    ] = 30
    RETENTION_DAYS_BY_KIND: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9_.]+=\d{1,5}(\.\d+)?(,|$))*$",
            description="Other times for some kinds, separated by commas: scheduler.add=2,demo.slices=0.5",
        ),
    ] = ""
    MAX_BODY_BYTES: Annotated[int, Meta(ge=1_000, description="Largest request body.")] = 5_000_000
    MAX_RESULT_BYTES: Annotated[int, Meta(ge=1_000, description="Largest result of a job, as JSON.")] = 1_000_000
    MAX_CHILDREN: Annotated[int, Meta(ge=1, description="Most children of one pipeline.")] = 100_000
    MAX_WAIT_SECONDS: Annotated[float, Meta(ge=0, le=3_600, description="Longest ?wait= of a request.")] = 60
    MAX_WAITERS: Annotated[int, Meta(ge=0, description="Requests of one web process that may wait at once.")] = 16
    REQUESTS_PER_MINUTE: Annotated[int, Meta(ge=1, description="Requests a user may send in a minute.")] = 60_000

    FAILPOINTS: Annotated[
        str, Meta(description="A folder whose files make processes crash at the points they name; for tests.")
    ] = ""

    WORKER_PROCESSES: Annotated[
        int, Meta(ge=1, le=512, description="Processes of `manage.py up`'s worker-default.")
    ] = 2
    WORKER_THREADS: Annotated[int, Meta(ge=1, le=4_096, description="Threads of `manage.py up`'s worker-io.")] = 32
    DATA_DIR: Annotated[str, Meta(description="Where `manage.py up` keeps its servers' data.")] = "data"
    WEB_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of `manage.py up`'s web server.")] = 8000
    FLOWER_URL: Annotated[
        str, Meta(description="Where people reach Flower; empty: FLOWER_PORT of the host they reach the admin by.")
    ] = ""
    FLOWER_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of `manage.py up`'s Flower.")] = 5555
    POSTGRES_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of the embedded PostgreSQL.")] = 54320
    VALKEY_PORT: Annotated[int, Meta(ge=1, le=65_535, description="Port of the embedded Valkey.")] = 63790


# Their values may hold passwords, which belong in no log.
SECRET = ("SECRET_KEY", "DATABASE_URL", "BROKER_URL", "CACHE_URL")

REDIS = ("redis", "rediss")

# msgspec's words for what a variable should be, in those of whoever sets it.
PLAIN_WORDS = {
    r"Expected `bool`, got `\w+`": "Expected true or false",
    r"Expected `int`, got `\w+`": "Expected a whole number",
    r"Expected `float`, got `\w+`": "Expected a number",
    r"Expected `(?:int|float)` ([<>]=?) ([\d.]+)": r"Expected a number \1 \2",
    r"Expected `str` of length >= (\d+)": r"Expected \1 characters or more",
    r"Expected `str` matching regex": "Expected what matches",
}


def read_environment(variables: dict[str, str]) -> Environment:
    """The settings in `variables`, converted and checked. NAME_FILE names a file with the value instead, as secrets
    are often handed to containers.

    Raises ImproperlyConfigured with the variable's name and what would be right.
    """
    given = {}
    for name in Environment.__struct_fields__:
        if name in variables:
            given[name] = variables[name]
        elif path := variables.get(f"{name}_FILE"):
            given[name] = _content(name, Path(path))
    try:
        return msgspec.convert(given, Environment, strict=False)
    except msgspec.ValidationError as error:
        raise ImproperlyConfigured(_in_words(error, given)) from None


def _content(name: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(
            f"{name}_FILE must name a file with the value of {name}; {path} cannot be read: {error}."
        ) from None


def _in_words(error: msgspec.ValidationError, given: dict[str, str]) -> str:
    """The first misfit as a sentence, with the setting's line of help."""
    detail, _, _ = str(error).partition(" - at `")
    name = re.findall(r"`(?:\$\.)?([A-Z_]+)`", str(error))[-1]
    meaning = get_type_hints(Environment, include_extras=True)[name].__metadata__[-1].description
    if name not in given:
        return f"{name} is not set. {meaning}"
    for theirs, plain in PLAIN_WORDS.items():
        detail = re.sub(theirs, plain, detail)
    value = "" if name in SECRET else f" {given[name]!r}"
    return f"{name}{value} does not fit: {detail}. {meaning}"


def database(url: str) -> dict[str, Any]:
    """Django's DATABASES entry for a postgresql:// URL; its query string becomes connection options."""
    parts = checked_url("DATABASE_URL", url, ("postgresql", "postgres"), "postgresql://user:password@host:port/name")
    if len(parts.path) < 2:
        raise ImproperlyConfigured("DATABASE_URL names no database: postgresql://user:password@host:port/name")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "CONN_MAX_AGE": 300,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 5, **dict(parse_qsl(parts.query))},
    }


def checked_url(name: str, url: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    """The URL's parts. Raises ImproperlyConfigured, without the URL, whose password belongs in no log."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in schemes and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ImproperlyConfigured(
            f"{name} must look like {example}; characters such as @ or / in a password as %40 or %2F."
        )
    return parts


def is_redis(url: str) -> bool:
    return urlsplit(url).scheme in REDIS


def split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def importable(name: str) -> bool:
    """Whether there is a module of that name, or a module with a class of that name."""
    try:
        return bool(find_spec(name) or ("." in name and find_spec(name.rpartition(".")[0])))
    except (ImportError, ValueError):
        return False


ENV = read_environment(dict(os.environ))
# A last tick older than this means that ticks have stopped.
TICK_STOPPED_AFTER_SECONDS = max(10, 10 * ENV.TICK_SECONDS)
QUEUES = split(ENV.QUEUES)
EXTRA_APPS = split(ENV.EXTRA_APPS)
ALLOWED_HOSTS = split(ENV.ALLOWED_HOSTS)

if not (ENV.REQUIRE_AUTH or ENV.DEBUG or ENV.ALLOW_ANYONE):
    raise ImproperlyConfigured(
        "REQUIRE_AUTH is off while DEBUG is off: anyone who reaches the port could submit and cancel jobs. "
        "Set REQUIRE_AUTH=true, or ALLOW_ANYONE=true if that is what you want."
    )
if not (ALLOWED_HOSTS or ENV.DEBUG):
    raise ImproperlyConfigured(
        "ALLOWED_HOSTS is empty, so every request would be refused: name the hosts by which people reach Muster."
    )
if not ENV.HEARTBEAT_SECONDS * 2 <= ENV.LEASE_SECONDS:
    raise ImproperlyConfigured("LEASE_SECONDS must be at least twice HEARTBEAT_SECONDS.")
if not QUEUES or not all(re.fullmatch(r"[\w.-]+", name) and name != "control" for name in QUEUES):
    raise ImproperlyConfigured(
        f"QUEUES {ENV.QUEUES!r} does not fit: name one queue or more, separated by commas, in letters, digits, dots "
        "and hyphens; control is Muster's own."
    )
if missing := [name for name in EXTRA_APPS if not importable(name)]:
    raise ImproperlyConfigured(
        f"EXTRA_APPS names {missing[0]!r}, which cannot be imported: install that Django app, or start where it lies."
    )
checked_url(
    "BROKER_URL",
    ENV.BROKER_URL,
    (*REDIS, "amqp", "amqps"),
    "redis://host:port/0 (Valkey or Redis; rediss with TLS) or amqp://user:password@host:port/vhost (RabbitMQ; amqps)",
)
if ENV.CACHE_URL:
    checked_url("CACHE_URL", ENV.CACHE_URL, (*REDIS, "unix"), "redis://host:port/1, or be empty")

# Days by the names of kinds.
RETENTION_DAYS_BY_KIND = {
    kind: float(days) for kind, _, days in (each.partition("=") for each in split(ENV.RETENTION_DAYS_BY_KIND))
}

SECRET_KEY = ENV.SECRET_KEY
DEBUG = ENV.DEBUG
CSRF_TRUSTED_ORIGINS = split(ENV.CSRF_TRUSTED_ORIGINS)
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "config.admin.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "orchestrator",
    "scheduler",
    "ingestion",
    *EXTRA_APPS,
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "config.static_files.StaticFiles",
    "config.api.EitherSlashMiddleware",
    "config.api.ChunkedBodyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": database(ENV.DATABASE_URL)}

# The cache only merges bells, so the engine works, a little busier, with any cache or none.
# A request never touches it: throttling counts in memory, process by process.
_cache_url = ENV.CACHE_URL or (ENV.BROKER_URL if is_redis(ENV.BROKER_URL) else "")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": _cache_url,
        "KEY_PREFIX": "muster",
        "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 1},
    }
    if _cache_url
    # A worker could not clear a flag that another process keeps for itself, so without a shared cache none is kept.
    else {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# Without `collectstatic` (development, tests) the files are served from the packages themselves.
WHITENOISE_USE_FINDERS = not STATIC_ROOT.is_dir()
WHITENOISE_AUTOREFRESH = DEBUG

if ENV.SECURE_COOKIES:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
X_FRAME_OPTIONS = "DENY"

DATA_UPLOAD_MAX_MEMORY_SIZE = ENV.MAX_BODY_BYTES

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "config.api.Authentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["config.api.Access"],
    "DEFAULT_PARSER_CLASSES": ["config.api.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["config.api.JSONRenderer"],
    "DEFAULT_THROTTLE_CLASSES": ["config.api.UserThrottle"],
    "DEFAULT_THROTTLE_RATES": {"user": f"{ENV.REQUESTS_PER_MINUTE}/minute"},
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "config.api.problem_response",
    "URL_FORMAT_OVERRIDE": None,
}

REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer"}

UNFOLD = {"SITE_TITLE": "Muster", "SITE_HEADER": "Muster"}

SPECTACULAR_SETTINGS = {
    "TITLE": "Muster",
    "DESCRIPTION": "Job orchestration on PostgreSQL and Celery: submit work, watch it, cancel it, retry it.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "displayRequestDuration": True,
        "persistAuthorization": True,
        "tryItOutEnabled": True,
        # Or the address of this document is sent to validator.swagger.io.
        "validatorUrl": None,
    },
    "TAGS": [{"name": "orchestration"}, {"name": "jobs"}, {"name": "ingestion"}, {"name": "health"}],
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.openapi.publish_payload_types",
    ],
    "ENUM_NAME_OVERRIDES": {"JobStatus": "orchestrator.states.Status", "TaskStatus": "scheduler.models.TaskStatus"},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s %(message)s"}},
    # Whoever asks whether all is ready need not read each "not yet" in the log as an error.
    "filters": {
        "no_503": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"django.request": {"filters": ["no_503"]}},
    "root": {"handlers": ["console"], "level": ENV.LOG_LEVEL},
}
