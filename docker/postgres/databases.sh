#!/bin/sh
# PostgreSQL's image runs this once, on an empty volume: create the databases of the catalog and of Dagster.
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
