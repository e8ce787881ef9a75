#!/usr/bin/env bash
# Fail if a file of the repository has a package registry's address, a path of one machine, or a secret.
# Checks tracked files and files that a commit would add.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

found=0

# check NAME EXTENDED_REGEX: print matching lines, and fail at the end.
check() {
  local status=0
  git --no-pager grep --untracked -nIE -e "$2" -- . ':!scripts/check_tree.sh' || status=$?
  case $status in
    0) echo "tree: $1 in the lines above. Remove it." >&2; found=1 ;;
    1) ;;
    *) echo "tree: git grep failed ($status)" >&2; exit 2 ;;
  esac
}

check 'the address of a package registry or mirror' \
  'python[h]osted|py[p]i\.org|py[p]i/simple|/simple/|/maven2/?|rep[o]1?\.mave[n]|(index|find-links)(-url)?[= ]+https?:'
check 'a path of one machine' '(^|[^[:alnum:]_./-])/(work|root|Users)/'
check 'a private key' '-----BEGIN ([A-Z]+ )*PRIVATE KEY-----'
check 'an access key or token' \
  'AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}|xox[baprs]-[A-Za-z0-9-]{10}|pypi-AgEI'
check 'a password in an address' '[a-z]+://[^/@:"'"'"' {}<]+:[^/@"'"'"' {}<]+@'

[ "$found" = 0 ] && echo "tree: no registry addresses, machine paths or secrets"
exit "$found"
