"""A film from a prompt, with Python's own library, watched while it is made:

    python film.py "a red circle moves right on a blue background" 4 film.mp4
"""

import json
import os
import sys
import urllib.request

URL = os.environ.get("LONGREEL_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("LONGREEL_KEY", "no-key")


def call(path, body=None, **headers):
    headers["Authorization"] = f"Bearer {KEY}"
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        return urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        # Problems say what is wrong and what would be right.
        sys.exit(f"{path}: {json.load(error)['detail']}")


def events(id):
    """What happens to a film, once each: after a broken connection it goes on behind the last event."""
    last = "0"
    while True:
        with call(f"/v1/videos/{id}/events", Last_Event_ID=last) as stream:
            if stream.status == 204:  # it has ended, and everything was told
                return
            for line in stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    last = value
                elif name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)["data"]


prompt, seconds, path = sys.argv[1], float(sys.argv[2]), sys.argv[3]
film = json.load(call("/v1/videos", {"prompt": prompt, "seconds": seconds, "seed": 7}))
print("asked:", film["id"])
for kind, data in events(film["id"]):
    if kind == "progress":
        print(f"segment {data['segment'] + 1} of {data['segments']}, step {data['step']} of {data['steps']}")
    elif kind == "segment":
        print(f"{data['frames']} frames can be played")
    elif kind == "state" and data["state"] in ("failed", "cancelled"):
        sys.exit(f"it is {data['state']}: {json.load(call('/v1/videos/' + film['id']))['error']}")
with call(f"/v1/videos/{film['id']}/content") as content, open(path, "wb") as file:
    file.write(content.read())
print("saved:", path)
