#!/bin/sh
# Install missing tools of the cluster tests: an S3 store (versitygw, built with Go) in the given directory, and, if run
# as root, PostgreSQL, Go and a JDK by apt. Prints each step.
# Usage: sh scripts/cluster_tools.sh DIRECTORY
set -eu
tools=$1
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
PATH=$PATH:/usr/local/go/bin # the directory of Go's installer, which may not be on the PATH
export HOME="${HOME:-$tools}" PATH
store=github.com/versity/versitygw/cmd/versitygw@v1.8.0

# need NAME PACKAGE: install a missing tool with apt, or print how to install it.
need() {
  if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "$1: not on this machine; installing $2"
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$2" >/dev/null
  else
    echo "$1 is not on this machine. Install it (Debian: apt-get install $2), then run this again." >&2
    exit 1
  fi
}

ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || need PostgreSQL postgresql
[ -x "${JAVA_HOME:-/nowhere}/bin/javac" ] || command -v javac >/dev/null 2>&1 || need "A JDK" openjdk-17-jdk-headless
if [ ! -x "$tools/versitygw" ] || [ "$(cat "$tools/versitygw.version" 2>/dev/null)" != "$store" ]; then
  command -v go >/dev/null 2>&1 || need Go golang-go
  echo "S3 store: building $store (a minute or two)"
  GOBIN=$tools GOFLAGS=-mod=mod go install "$store"
  echo "$store" >"$tools/versitygw.version"
fi
echo "PostgreSQL, a JDK and an S3 store: installed"
