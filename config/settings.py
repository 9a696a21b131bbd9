"""Django's settings, made of those that can be set from outside: config/environment.py."""

import logging
import os
import socket
from datetime import timedelta
from pathlib import Path

from config.consistency import require_consistent
from config.environment import CONTROL_QUEUE as CONTROL_QUEUE
from config.environment_variables import exports_traces, names_in, read_environment
from config.local.environment import data_dir, set_environment
from config.queues import CONTROL, declared_queues
from config.server_urls import REDIS_SCHEMES as REDIS_SCHEMES
from config.server_urls import database, is_redis

BASE_DIR = Path(__file__).resolve().parent.parent

# Every program finds the stack that `manage.py up` started beside it.
set_environment()
ENV = read_environment(dict(os.environ))
require_consistent(ENV)
DATA_DIR = data_dir()

# Where packets vanish, the kernel would otherwise keep a connection for a quarter of an hour, and an idle one for two.
# The user timeout is for what was sent; who waits for an answer has sent all, and only the probes tell.
DATABASE_TCP = {
    "tcp_user_timeout": int(ENV.TCP_USER_TIMEOUT_SECONDS * 1_000),
    "keepalives_idle": ENV.TCP_KEEPALIVE_IDLE_SECONDS,
    "keepalives_interval": ENV.TCP_KEEPALIVE_INTERVAL_SECONDS,
    "keepalives_count": ENV.TCP_KEEPALIVE_PROBES,
}
# The same for a socket, of which not every system knows all.
SOCKET_TCP = {
    getattr(socket, name): value
    for name, value in zip(
        ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), DATABASE_TCP.values(), strict=True
    )
    if hasattr(socket, name)
}
REDIS_TCP = {"socket_keepalive": True, "socket_keepalive_options": SOCKET_TCP}
# A last tick older than this means that ticks have stopped.
TICK_STOPPED_AFTER_SECONDS = max(10, 10 * ENV.TICK_SECONDS)
# Those of jobs by their names; and all that workers serve.
QUEUES = declared_queues(ENV.QUEUES)
SERVED_QUEUES = {**QUEUES, CONTROL_QUEUE: CONTROL}
EXTRA_APPS = names_in(ENV.EXTRA_APPS)
ALLOWED_HOSTS = names_in(ENV.ALLOWED_HOSTS)
TRUSTED_PROXIES = names_in(ENV.TRUSTED_PROXIES)

# By OpenTelemetry's own variables, which its packages read.
EXPORT_TRACES = exports_traces(os.environ)

_first, _, _last = ENV.CLIENT_PRIORITIES.partition("-")
CLIENT_PRIORITIES = range(int(_first), int(_last) + 1)

# Days by the names of kinds.
RETENTION_DAYS_BY_KIND = {
    kind: float(days) for kind, _, days in (each.partition("=") for each in names_in(ENV.RETENTION_DAYS_BY_KIND))
}

SECRET_KEY = ENV.SECRET_KEY
DEBUG = ENV.DEBUG
CSRF_TRUSTED_ORIGINS = names_in(ENV.CSRF_TRUSTED_ORIGINS)
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "config.formats"
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
    "axes",
    "config",
    "orchestrator",
    "scheduler",
    "ingestion",
    "access",
    *EXTRA_APPS,
]

MIDDLEWARE = [
    *(["orchestrator.http.request_context.TracingMiddleware"] if EXPORT_TRACES else []),
    *(["orchestrator.http.request_context.RequestIdMiddleware"] if ENV.LOG_FORMAT == "json" else []),
    "config.security_headers.SecurityHeaders",
    "config.admin.CompressedPages",
    "django.middleware.security.SecurityMiddleware",
    "orchestrator.http.middleware.ReadableAddressMiddleware",
    "config.admin.BadInputMiddleware",
    "config.static_files.StaticFiles",
    "orchestrator.http.middleware.EitherSlashMiddleware",
    "orchestrator.http.middleware.ChunkedBodyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "config.admin.Messages",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "access.audit.AuditMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # Before those of the apps, since some of Unfold's are replaced.
        "DIRS": [BASE_DIR / "config" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"muster": "orchestrator.shown.filters"},
        },
    },
]

DATABASES = {"default": database(ENV.DATABASE_URL, DATABASE_TCP)}

# The cache only merges bells, so the engine works, a little busier, with any cache or none.
# A request never touches it: throttling counts in memory, process by process.
_cache_url = ENV.CACHE_URL or (ENV.BROKER_URL if is_redis(ENV.BROKER_URL) else "")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": _cache_url,
        "KEY_PREFIX": "muster",
        "OPTIONS": {
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
            **({} if _cache_url.startswith("unix:") else REDIS_TCP),
        },
    }
    if _cache_url
    # A worker could not clear a flag that another process keeps for itself, so without a shared cache none is kept.
    else {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
# Failures of an account from an address, before that address must wait to log in as it; others may.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
# Trying on does not make it longer.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_CLIENT_IP_CALLABLE = "access.failed_attempts.address_of"
AXES_LOCKOUT_CALLABLE = "access.logins.refused"
AXES_HTTP_RESPONSE_CODE = 429
AXES_VERBOSE = False
# Its pages do not have the admin's theme; `manage.py axes_reset` lets whoever is locked out in at once.
AXES_ENABLE_ADMIN = False

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# Without `collectstatic` (development, tests) the files are served from the packages themselves.
WHITENOISE_USE_FINDERS = not STATIC_ROOT.is_dir()
WHITENOISE_AUTOREFRESH = DEBUG
# What browsers ask for at the root: favicon.ico.
WHITENOISE_ROOT = BASE_DIR / "config" / "root"

if ENV.SECURE_COOKIES:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = ENV.HSTS_PRELOAD
# To be in browsers' lists for good is a decision about the whole domain.
SILENCED_SYSTEM_CHECKS = ["security.W021"]
X_FRAME_OPTIONS = "DENY"

DATA_UPLOAD_MAX_MEMORY_SIZE = ENV.MAX_BODY_BYTES

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "orchestrator.http.authentication.Authentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["orchestrator.http.authentication.Access"],
    "DEFAULT_PARSER_CLASSES": ["orchestrator.http.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["orchestrator.http.responses.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "orchestrator.http.negotiation.Negotiation",
    "DEFAULT_THROTTLE_CLASSES": ["orchestrator.http.throttling.UserThrottle"],
    "DEFAULT_THROTTLE_RATES": {
        "user": f"{ENV.REQUESTS_PER_MINUTE}/minute",
        "address": f"{ENV.REQUESTS_PER_MINUTE_PER_ADDRESS}/minute",
    },
    "DEFAULT_SCHEMA_CLASS": "orchestrator.http.openapi.Schema",
    "EXCEPTION_HANDLER": "config.refusals.problem_response",
    "URL_FORMAT_OVERRIDE": None,
}

# A mail server that does not answer must not keep a worker's thread.
EMAIL_TIMEOUT = 15

REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": timedelta(days=ENV.TOKEN_DEFAULT_DAYS)}

UNFOLD = {
    "SITE_TITLE": "Muster",
    "SITE_HEADER": "Muster",
    "SITE_ICON": f"{STATIC_URL}config/favicon.svg",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": f"{STATIC_URL}config/favicon.svg"},
    ],
    "SIDEBAR": {"navigation": "config.sidebar.sidebar"},
    "STYLES": [f"{STATIC_URL}orchestrator/admin.css"],
    "SCRIPTS": [f"{STATIC_URL}orchestrator/live.js"],
    "DASHBOARD_CALLBACK": "orchestrator.admin.home.dashboard",
}

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
        "persistAuthorization": False,
        "tryItOutEnabled": True,
        # Or the address of this document is sent to validator.swagger.io.
        "validatorUrl": None,
    },
    "LICENSE": {"name": "MIT", "identifier": "MIT"},
    "SERVERS": [{"url": "/", "description": "Where this document is served."}],
    "TAGS": [
        {"name": "orchestration", "description": "The two-batch orchestration."},
        {"name": "jobs", "description": "Jobs of any kind."},
        {"name": "pipelines", "description": "Graphs of jobs that take each other's results."},
        {"name": "tasks", "description": "Additions, one by one or in batches."},
        {"name": "schedules", "description": "Recurring tasks."},
        {"name": "ingestion", "description": "Student records in bulk."},
        {"name": "notifications", "description": "Who is told of the ends of jobs."},
        {"name": "audit", "description": "Who changed what."},
        {"name": "health", "description": "Liveness and readiness."},
    ],
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "orchestrator.http.components.publish_payload_types",
        "orchestrator.http.components.publish_headers",
        "scheduler.http.components.publish_bodies",
        "ingestion.http.serializers.publish_record",
        "orchestrator.http.components.forbid_nul",
    ],
    "ENUM_NAME_OVERRIDES": {
        "JobStatus": "orchestrator.states.Status",
        "TaskStatus": "scheduler.models.TaskStatus",
        "UniqueOnConflict": "orchestrator.unique.ON_CONFLICT",
        "NotificationVia": "orchestrator.models.Notification.Via",
        "AuditVia": "access.models.AuditEntry.Via",
        "DeliveryState": "orchestrator.models.Delivery.State",
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "orchestrator.logs.LineFormatter", "fmt": "%(asctime)s %(levelname)-7s %(name)s %(message)s"}
        if ENV.LOG_FORMAT == "plain"
        else {"()": "orchestrator.telemetry.json_lines.formatter"}
    },
    # Whoever asks whether all is ready need not read each "not yet" in the log as an error.
    "filters": {
        "no_503": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        },
        "as_warning": {"()": "orchestrator.logs.AsWarning"},
    },
    "handlers": {
        "console": {"class": "orchestrator.logs.ConsoleHandler", "formatter": "line"},
        "job_log": {"class": "orchestrator.job_log.KeepLines"},
    },
    "loggers": {
        "django.request": {"filters": ["no_503"]},
        **{
            f"django.security.{name}": {"filters": ["as_warning"]}
            for name in (
                "DisallowedHost",
                "RequestDataTooBig",
                "SuspiciousOperation",
                "TooManyFieldsSent",
                "TooManyFilesSent",
            )
        },
        # A line for each message would be one for each bell and tick. What changed in files is told by the reloader.
        **{
            name: {"level": max(ENV.LOG_LEVEL, "WARNING", key=logging.getLevelName)}
            for name in ("celery", "kombu", "watchfiles")
        },
    },
    "root": {"handlers": ["console", "job_log"], "level": ENV.LOG_LEVEL},
}
