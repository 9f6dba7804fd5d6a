#!/bin/sh
# A film from a prompt, with curl: film.sh "a red circle moves right on a blue background" 4 film.mp4
set -eu
url=${LONGREEL_URL:-http://127.0.0.1:8000} key=${LONGREEL_KEY:-no-key}
call() { curl --silent --show-error --fail-with-body --header "authorization: Bearer $key" "$@"; }

# Ask. The same idempotency key gives the same film, however often this is sent.
id=$(call "$url/v1/videos" --header 'content-type: application/json' --header "idempotency-key: film-$$" \
    --data "{\"prompt\": \"$1\", \"seconds\": $2, \"seed\": 7}" | sed 's/.*"id":"\([^"]*\)".*/\1/')
echo "asked: $id"

# Look until it has ended.
while :; do
    status=$(call "$url/v1/videos/$id" | sed 's/.*"status":"\([^"]*\)".*/\1/')
    case "$status" in
    completed) break ;;
    failed) call "$url/v1/videos/$id" && exit 1 ;;
    esac
    sleep 1
done

call "$url/v1/videos/$id/content" --output "$3"
echo "saved: $3"
