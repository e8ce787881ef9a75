#!/bin/sh
# Run once, on an empty volume, by the image of PostgreSQL: a database and an owner for the catalog and for Dagster.
set -eu

database() {
  psql --username "$POSTGRES_USER" --dbname postgres -v ON_ERROR_STOP=1 -v name="$1" -v password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

database polaris "$POLARIS_DB_PASSWORD"
database dagster "$DAGSTER_DB_PASSWORD"
