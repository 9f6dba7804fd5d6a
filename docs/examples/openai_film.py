"""A film from a prompt, with OpenAI's client (pip install openai):

    python openai_film.py "a red circle moves right on a blue background" 4 film.mp4
"""

import os
import sys

from openai import OpenAI

url = os.environ.get("LONGREEL_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("LONGREEL_KEY", "no-key"))

prompt, seconds, path = sys.argv[1:4]
# Keys that their API has no names for go along as they are.
film = client.videos.create_and_poll(prompt=prompt, seconds=seconds, extra_body={"seed": 7})
print("asked:", film.id)
if film.status != "completed":
    sys.exit(f"it is {film.status}: {film.error.message}")
client.videos.download_content(film.id).write_to_file(path)
print("saved:", path)
