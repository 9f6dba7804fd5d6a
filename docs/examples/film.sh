#!/bin/sh
# A film from a prompt, with curl: film.sh "a red circle moves right on a blue background" 4 film.mp4
set -eu
url=${LONGREEL_URL:-http://127.0.0.1:8000} key=${LONGREEL_KEY:-no-key}
call() { curl --silent --show-error --fail-with-body --header "authorization: Bearer $key" "$@"; }

# Ask. The same idempotency key gives the same film, however often this is sent. What is refused says why.
film=$(call "$url/v1/videos" --header "idempotency-key: film-$$-$(date +%s)" \
    --form-string "prompt=$1" --form-string "seconds=$2" --form-string seed=7) || { echo "$film" >&2; exit 1; }
id=$(echo "$film" | sed 's/.*"id":"\([^"]*\)".*/\1/')
echo "asked: $id"

# Look until it has ended.
while :; do
    film=$(call "$url/v1/videos/$id") || { echo "$film" >&2; exit 1; }
    case $(echo "$film" | sed 's/.*"status":"\([^"]*\)".*/\1/') in
    completed) break ;;
    failed) echo "$film" >&2; exit 1 ;;
    esac
    sleep 1
done

call "$url/v1/videos/$id/content" --output "$3"
echo "saved: $3"
