# One image for CryptoLake's services: producer, stream, API, dashboard, Dagster, and Spark from pyspark's jars.
# Same layout as a checkout after `make setup`, with the environment in .venv.

FROM python:3.11.14-slim-bookworm AS base
# The packages install manual pages, whose directory is missing in a slim image.
RUN mkdir -p /usr/share/man/man1 \
    && apt-get update \
    && apt-get install --no-install-recommends -y openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/cryptolake
ENV PATH=/opt/cryptolake/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv .venv
# Packages first, because they change rarely; by their hashes, as in scripts/setup.py.
COPY requirements/cluster.lock requirements/
RUN pip install --no-deps --require-hashes --requirement requirements/cluster.lock
COPY pyproject.toml README.md LICENSE dagster.yaml workspace.yaml ./
COPY dbt_project dbt_project
COPY cryptolake_assets cryptolake_assets
COPY docker/polaris docker/polaris
RUN pip install --no-deps --quiet --editable . \
    && python -m compileall -q cryptolake_assets
# Download the pinned jars and parse the dbt project; with an endpoint set, also the jars of S3 and PostgreSQL.
RUN CRYPTOLAKE_HOME=/tmp/home MINIO_ENDPOINT=http://minio:9000 cryptolake setup \
    && rm -rf /tmp/home

FROM base
RUN groupadd --gid 10001 cryptolake \
    && useradd --uid 10001 --gid cryptolake --create-home cryptolake \
    # A new named volume gets the owner of this directory.
    && install -d -o cryptolake -g cryptolake -m 0750 /var/lib/cryptolake
COPY --from=build /opt/cryptolake /opt/cryptolake
ENV CRYPTOLAKE_HOME=/var/lib/cryptolake \
    SPARK_HOME=/opt/cryptolake/.venv/lib/python3.11/site-packages/pyspark
USER cryptolake
CMD ["cryptolake", "--help"]
