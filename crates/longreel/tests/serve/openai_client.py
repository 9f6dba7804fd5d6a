"""What a program written for the OpenAI videos API does, with the official client as it is on PyPI.

    pip install openai
    python openai_client.py http://127.0.0.1:8000/v1 [KEY]

Prints one line for each call that worked, and ends with an error at the first that did not.
"""

import json
import sys
import warnings

import openai

# The client says that a service of its maker will end; this one does not.
warnings.filterwarnings("ignore", category=DeprecationWarning)

# What the videos API has no names for goes along as extra keys.
SMALL = {"size": "48x32", "extra_body": {
    "base_num_frames": 17, "overlap_history": 5, "steps": 4, "addnoise_condition": 20, "seed": 7,
}}


def film(**more):
    """Arguments of a short film."""
    extra = SMALL["extra_body"] | more.pop("extra_body", {})
    return {"prompt": "A red circle moves.", "size": SMALL["size"], "extra_body": extra} | more


def said(call, **what):
    print(json.dumps({"call": call} | what, ensure_ascii=False), flush=True)


def main(base_url, key="no-key"):
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)

    video = client.videos.create_and_poll(**film(seconds="2"), poll_interval_ms=50)
    assert video.status == "completed" and video.progress == 100, video
    assert (video.seconds, video.size, video.object) == ("2.041", "48x32", "video"), video
    assert video.completed_at >= video.created_at and video.error is None, video
    said("create_and_poll", id=video.id, model=video.model)

    again = client.videos.retrieve(video.id)
    assert again.to_dict() == video.to_dict(), (again, video)
    said("retrieve")

    for variant, kind, begins in [
        (None, "video/mp4", b"ftyp"),
        ("video", "video/mp4", b"ftyp"),
        ("thumbnail", "image/jpeg", b"\xff\xd8"),
        ("spritesheet", "image/jpeg", b"\xff\xd8"),
    ]:
        chosen = {} if variant is None else {"variant": variant}
        content = client.videos.download_content(video.id, **chosen)
        body = content.read()
        assert content.response.headers["content-type"] == kind, content.response.headers
        assert begins in body[:8], body[:8]
        said("download_content", variant=variant, bytes=len(body))

    ids = [video.id]
    for number in range(4):
        waiting = client.videos.create(**film(seconds="1", prompt=f"Film {number}."))
        assert waiting.status in ("queued", "in_progress"), waiting
        ids.append(waiting.id)
    listed = [video.id for video in client.videos.list(limit=2, order="asc")]
    assert listed == ids, (listed, ids)
    page = client.videos.list(limit=3, after=ids[-1])
    assert [video.id for video in page.data] == ids[-2:-5:-1] and page.has_more, page
    said("list", videos=len(listed))

    try:
        remix = client.videos.remix(video.id, prompt="A blue circle moves.")
    except openai.NotFoundError as error:
        said("remix", skipped=str(error))
    else:
        assert remix.remixed_from_video_id == video.id and remix.id != video.id, remix
        assert client.videos.poll(remix.id, poll_interval_ms=50).status == "completed"
        ids.append(remix.id)
        said("remix", id=remix.id)

    for wrong, kind in [
        ({"prompt": "a", "seconds": "many"}, openai.BadRequestError),
        ({"prompt": "a", "model": "sora-2"}, openai.BadRequestError),
    ]:
        try:
            client.videos.create(**wrong)
            raise AssertionError(f"{wrong} was taken")
        except kind as error:
            assert error.code and error.body["message"], error.body
            said("create", refused=error.code)

    for id in ids:
        client.videos.poll(id, poll_interval_ms=50)
        deleted = client.videos.delete(id)
        assert deleted.deleted and deleted.id == id and deleted.object == "video.deleted", deleted
    assert not client.videos.list().data
    try:
        client.videos.retrieve(video.id)
        raise AssertionError("a deleted video is there")
    except openai.NotFoundError:
        said("delete", videos=len(ids))


if __name__ == "__main__":
    main(*sys.argv[1:3])
