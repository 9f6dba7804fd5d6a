// A film from a prompt, with Node's own fetch, steered while it is made:
//
//     node film.mjs "a red circle moves right on a blue background" 4 film.mp4
import { writeFile } from "node:fs/promises";

const url = process.env.LONGREEL_URL ?? "http://127.0.0.1:8000";
const key = process.env.LONGREEL_KEY ?? "no-key";

async function call(path, body) {
  const answer = await fetch(url + path, {
    method: body ? "POST" : "GET",
    headers: { authorization: `Bearer ${key}`, ...(body && { "content-type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) {
    // Problems say what is wrong and what would be right.
    throw new Error(`${path}: ${(await answer.json()).detail}`);
  }
  return answer;
}

const [prompt, seconds, path] = process.argv.slice(2);
const film = await (await call("/v1/videos", { prompt, seconds: Number(seconds), seed: 7 })).json();
console.log("asked:", film.id);

// Another prompt for what is not begun yet. With the last segment in work there is nothing left to steer.
try {
  await call(`/v1/videos/${film.id}/steer`, { prompt: "a red circle moves left on a blue background" });
  console.log("steered");
} catch (error) {
  console.log("not steered:", error.message);
}

let video;
do {
  await new Promise((done) => setTimeout(done, 500));
  video = await (await call(`/v1/videos/${film.id}`)).json();
  console.log(`${video.status}, ${video.progress}%`);
} while (!["completed", "failed"].includes(video.status));
if (video.status === "failed") throw new Error(JSON.stringify(video.error));

const content = await call(`/v1/videos/${film.id}/content`);
await writeFile(path, Buffer.from(await content.arrayBuffer()));
console.log("saved:", path);
