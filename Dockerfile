# docker build --tag opendify .
# Build arguments: PYTHON_VERSION (3.11 or newer), VERSION and REVISION (only for the image's labels).
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# First what changes seldom: the locked libraries, as wheels, into an environment of their own without pip.
COPY requirements/build.lock requirements/runtime.lock requirements/
RUN python -m venv --without-pip /opt/opendify && \
    pip --python /opt/opendify/bin/python install --only-binary :all: --require-hashes -r requirements/runtime.lock && \
    pip install --only-binary :all: --require-hashes -r requirements/build.lock

# Then OpenDify itself: its wheel, made with the locked build tools and nothing else.
COPY pyproject.toml README.md LICENSE ./
COPY opendify/ opendify/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist . && \
    pip --python /opt/opendify/bin/python install --no-deps --no-index /dist/*.whl

FROM python:${PYTHON_VERSION}-slim
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="OpenDify" \
      org.opencontainers.image.description="The OpenAI-compatible front door of Dify" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

ENV PATH="/opt/opendify/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SERVER_HOST=0.0.0.0 \
    SERVER_PORT=8000 \
    LITESTAR_APP=opendify.app:create_app

RUN groupadd --system --gid 10001 opendify && \
    useradd --system --uid 10001 --gid opendify --no-create-home --home-dir /app --shell /usr/sbin/nologin opendify
COPY --from=build /opt/opendify /opt/opendify

# The working directory: litestar.toml is read from here, if one is mounted. Nothing is ever written.
WORKDIR /app
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8000

# The exec forms start no shell, so that SIGTERM reaches the server: it refuses new requests and ends running ones
# within DRAIN_SECONDS. Give the container more time than that to stop.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-c", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ['SERVER_PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["opendify"]
CMD ["serve"]
