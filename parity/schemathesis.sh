#!/usr/bin/env bash
# Asks a service everything that its own OpenAPI document allows, and much that it does not, and fails when
# it answers with a server error or with something else than the document says, or takes what the document excludes.
#
#   parity/schemathesis.sh            starts a service with the demo model and asks it
#
# Wants `schemathesis` (pip install schemathesis) on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v schemathesis >/dev/null || { echo "schemathesis is not installed: pip install schemathesis"; exit 1; }
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
cargo build --release --quiet
"${CARGO_TARGET_DIR:-target}/release/longreel" serve --json --listen 127.0.0.1:0 --data "$folder/data" \
    >"$folder/said" 2>"$folder/log" &
server=$!
for _ in $(seq 100); do grep -q listening "$folder/said" && break; sleep 0.1; done
address=$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' "$folder/said")
# Streams of events end when their job does; one that waits in the queue would be waited for. What a film is asked
# for has rules that no schema says (frames of 4n+1, values that need each other), so that requests which fit the
# document may be refused.
schemathesis run "$address/openapi.json" --url "$address" --checks all --exclude-checks positive_data_acceptance \
    --exclude-path-regex 'events$' --max-examples "${EXAMPLES:-30}" --workers 1 --seed 1 "$@"
