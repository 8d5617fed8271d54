# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What every script here begins with:  . "$(dirname "$0")/lib.sh"
# Strict mode, one way to speak, one way to give up. Refuses nothing by itself; has no effect but functions and options.

set -o errexit -o nounset -o pipefail
shopt -s inherit_errexit

readonly PROGRAM="${0##*/}"

# say TEXT…: progress for people, on stderr, so that stdout stays usable by programs.
say() {
    printf '%s: %s\n' "$PROGRAM" "$*" >&2
}

# die TEXT…: says what was wrong and what to do next, and ends with 1.
die() {
    say "error: $*"
    exit 1
}

# need_root: ends unless the effective user is root.
need_root() {
    [[ "$(id --user)" == 0 ]] || die "must run as root; try: sudo $0 $*"
}
