"""Every setting of Muster, read from the environment once; a bad value refuses to boot."""

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from django.core.exceptions import ImproperlyConfigured
from msgspec import Meta

BASE_DIR = Path(__file__).resolve().parent.parent

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set from outside: a name, a type with its bounds, a default and a line of help."""

    SECRET_KEY: Annotated[str, Meta(min_length=32, description="Signs sessions and cookies. Keep it secret.")]
    DATABASE_URL: Annotated[
        str, Meta(description="PostgreSQL 15 or later: postgresql://user:password@host:port/name?option=value")
    ] = "postgresql://muster@127.0.0.1:5432/muster"
    BROKER_URL: Annotated[str, Meta(description="Valkey or Redis (redis://…) or RabbitMQ (amqp://…).")] = (
        "redis://127.0.0.1:6379/0"
    )
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
    TICK_SECONDS: Annotated[Seconds, Meta(description="How often Beat asks for upkeep.")] = 1
    TIME_SLICE_SECONDS: Annotated[Seconds, Meta(description="How long one answered bell goes on claiming.")] = 1
    SHUTDOWN_GRACE_SECONDS: Annotated[
        float, Meta(ge=0, le=3_600, description="Time running jobs have to finish once a worker is told to stop.")
    ] = 10

    IDEMPOTENCY_KEY_HOURS: Annotated[
        float, Meta(gt=0, le=8_760, description="How long a client's Idempotency-Key is remembered.")
    ] = 24
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


def read_environment(variables: dict[str, str]) -> Environment:
    """The settings in `variables`, converted and checked.

    Raises ImproperlyConfigured with the variable's name and what would be right.
    """
    given = {name: variables[name] for name in Environment.__struct_fields__ if name in variables}
    try:
        return msgspec.convert(given, Environment, strict=False)
    except msgspec.ValidationError as error:
        raise ImproperlyConfigured(f"The environment does not fit the settings: {error}") from None


def database(url: str) -> dict[str, Any]:
    """Django's DATABASES entry for a postgresql:// URL; its query string becomes connection options."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or len(parts.path) < 2:
        raise ImproperlyConfigured("DATABASE_URL must look like postgresql://user:password@host:port/name")
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


def is_redis(url: str) -> bool:
    return urlsplit(url).scheme in ("redis", "rediss", "valkey", "unix")


def split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


ENV = read_environment(dict(os.environ))

if not (ENV.REQUIRE_AUTH or ENV.DEBUG or ENV.ALLOW_ANYONE):
    raise ImproperlyConfigured(
        "REQUIRE_AUTH is off while DEBUG is off: anyone who reaches the port could submit and cancel jobs. "
        "Set REQUIRE_AUTH=true, or ALLOW_ANYONE=true if that is what you want."
    )
if not ENV.HEARTBEAT_SECONDS * 2 <= ENV.LEASE_SECONDS:
    raise ImproperlyConfigured("LEASE_SECONDS must be at least twice HEARTBEAT_SECONDS.")

QUEUES = split(ENV.QUEUES)

SECRET_KEY = ENV.SECRET_KEY
DEBUG = ENV.DEBUG
ALLOWED_HOSTS = split(ENV.ALLOWED_HOSTS)
CSRF_TRUSTED_ORIGINS = split(ENV.CSRF_TRUSTED_ORIGINS)
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "orchestrator",
    "scheduler",
    "ingestion",
    *split(ENV.EXTRA_APPS),
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
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
    "throttle": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "throttle"},
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Without `collectstatic` (development, tests) the files are served from the packages themselves.
WHITENOISE_USE_FINDERS = True
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
