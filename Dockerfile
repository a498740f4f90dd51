# The service as an image: docker build --tag care-case-clinical-trials:1.0.0 .
#
# With --build-arg LOCK=requirements-extras.lock it supports tracing and the demo (50 MB more):
#
#   docker run --rm -p 8080:8080 -e SERVICE_SERVER__HOST=0.0.0.0 IMAGE demo --folder /tmp/demo
#
# The service writes no files, so the root filesystem can be read-only, including /tmp. One container
# is one process and one event loop: use more replicas for more cores.

FROM python:3.13.14-slim-trixie AS build
ARG LOCK=requirements.lock
WORKDIR /build
COPY requirements.lock requirements-extras.lock requirements-dev.lock ./
# The build backend and its dependencies, by the hashes of the lock file.
RUN awk '/^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/, /# via/' \
        requirements-dev.lock > backend.lock \
    && python -m pip install --no-cache-dir --require-hashes --requirement backend.lock
# Without pip: the pip of the build image installs into it, so the final image has no installer.
RUN python -m venv --without-pip /app/venv \
    && python -m pip --python /app/venv/bin/python install --no-cache-dir --require-hashes \
        --requirement "${LOCK}"
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY docs/contract.md docs/
COPY sql sql
# In the demo, PostgreSQL runs only for a user that has a name.
RUN echo "service:x:10001:10001::/app:/usr/sbin/nologin" >> /etc/passwd
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && python -m pip --python /app/venv/bin/python install --no-cache-dir --no-deps dist/*.whl

FROM python:3.13.14-slim-trixie
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="care-case-clinical-trials-service" \
      org.opencontainers.image.description="Batch upserts of care-case clinical-trial records into PostgreSQL" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/app/venv/bin:$PATH \
    HOME=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SERVICE_CONFIG=/etc/service/service.toml
COPY --from=build /etc/passwd /etc/passwd
COPY --from=build /app/venv /app/venv
WORKDIR /app
# By number, so that Kubernetes can verify that it is not root.
USER 10001:10001
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["care-trials", "healthcheck"]
ENTRYPOINT ["care-trials"]
CMD ["serve"]
