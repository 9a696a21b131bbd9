# One image for every process of Muster: `docker build .` makes it. The stage `test` adds what the tests need.

FROM python:3.13-slim AS requirements
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# pip stays outside: what runs cannot install anything.
RUN python -m venv --without-pip /opt/muster
COPY requirements*.txt ./
# Every package comes as a wheel that has one of the hashes, so nothing is compiled but Python's bytecode. Yours, if there
# is a requirements-extra.txt, are installed together with Muster's, so that pip refuses what contradicts them.
RUN pip --python /opt/muster/bin/python install --no-compile --only-binary :all: --require-hashes -r requirements.txt \
        $(test ! -e requirements-extra.txt || echo -r requirements-extra.txt) \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/muster/lib

FROM requirements AS test-requirements
RUN pip --python /opt/muster/bin/python install --no-compile --only-binary :all: --require-hashes -r requirements-dev.txt

# Your own apps that are folders beside Muster's, not installed packages.
FROM python:3.13-slim AS extra-apps
ARG EXTRA_APPS=
WORKDIR /context
COPY . .
RUN mkdir /extra-apps && for app in $(echo "$EXTRA_APPS" | tr , ' '); do \
        test ! -d "${app%%.*}" || cp -r "${app%%.*}" /extra-apps; \
    done

FROM python:3.13-slim AS runtime
# The folders are where volumes with secrets are mounted, which take over their owner.
RUN groupadd --gid 10001 muster \
    && useradd --uid 10001 --gid muster --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin muster \
    && install --directory --owner muster --group muster --mode 0700 /secrets /secrets/app /secrets/roles /secrets/migrate \
        /secrets/flower /secrets/postgres /secrets/valkey
COPY --from=requirements /opt/muster /opt/muster
ENV PATH=/opt/muster/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY manage.py Procfile ./
COPY access access
COPY config config
COPY orchestrator orchestrator
COPY scheduler scheduler
COPY ingestion ingestion
COPY --from=extra-apps /extra-apps ./
ARG EXTRA_APPS=
# The key is of no use afterwards, and no part of the image.
RUN SECRET_KEY=only-for-collecting-the-static-files-0123456789 python manage.py collectstatic --no-input --verbosity 0 \
    && python -m compileall -q .
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=20s --timeout=15s --start-period=60s \
    CMD ["python", "-m", "config.healthcheck", "http://127.0.0.1:8000/api/health/"]
CMD ["granian", "--interface", "asginl", "--http", "1", "--no-ws", "--host", "0.0.0.0", "--port", "8000", "--http1-header-read-timeout", "10000", "--http1-buffer-size", "65536", "--backlog", "4096", "--backpressure", "8192", "--respawn-failed-workers", "--respawn-interval", "0.5", "--workers-kill-timeout", "5", "--log-level", "error", "config.asgi:application"]

FROM runtime AS test
COPY --from=test-requirements /opt/muster /opt/muster
COPY . .
# They write into /tmp alone, as everything else does.
ENV PYTEST_ADDOPTS="-p no:cacheprovider" HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis HOME=/tmp

FROM runtime
