# One image for every process of Muster: `docker build .` makes it. The stage `test` adds what the tests need.

FROM python:3.13-slim AS requirements
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# pip stays outside: what runs cannot install anything.
RUN python -m venv --without-pip /opt/muster
COPY requirements.txt .
# Every package comes as a wheel that has one of the hashes, so nothing is compiled but Python's bytecode.
RUN pip --python /opt/muster/bin/python install --no-compile --only-binary :all: --require-hashes -r requirements.txt \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/muster/lib

FROM requirements AS test-requirements
COPY requirements-dev.txt .
RUN pip --python /opt/muster/bin/python install --no-compile --only-binary :all: --require-hashes -r requirements-dev.txt

FROM python:3.13-slim AS runtime
# The folder is where a volume with secrets is mounted, which takes over its owner.
RUN groupadd --gid 10001 muster \
    && useradd --uid 10001 --gid muster --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin muster \
    && install --directory --owner muster --group muster --mode 0700 /secrets
COPY --from=requirements /opt/muster /opt/muster
ENV PATH=/opt/muster/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY manage.py Procfile ./
COPY config config
COPY orchestrator orchestrator
COPY scheduler scheduler
COPY ingestion ingestion
# The key is of no use afterwards, and no part of the image.
RUN SECRET_KEY=only-for-collecting-the-static-files-0123456789 python manage.py collectstatic --no-input --verbosity 0 \
    && python -m compileall -q .
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=20s --timeout=15s --start-period=60s \
    CMD ["python", "-m", "config.alive", "http://127.0.0.1:8000/api/health/"]
CMD ["granian", "--interface", "wsgi", "--host", "0.0.0.0", "--port", "8000", "--blocking-threads", "32", "--backpressure", "256", "--respawn-failed-workers", "--respawn-interval", "0.5", "--workers-kill-timeout", "5", "--log-level", "error", "config.wsgi:application"]

FROM runtime AS test
COPY --from=test-requirements /opt/muster /opt/muster
COPY . .
# They write into /tmp alone, as everything else does.
ENV PYTEST_ADDOPTS="-p no:cacheprovider" HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis HOME=/tmp

FROM runtime
