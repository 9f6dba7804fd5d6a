/* A film's settings taken from the command that makes it again, and the ways to ask for it once more. */

/** The words of a command as a POSIX shell reads them. */
export function words(command) {
  const found = [];
  let word = null;
  for (let at = 0; at < command.length; at += 1) {
    const c = command[at];
    if (c === "'") {
      const end = command.indexOf("'", at + 1);
      if (end < 0) return found;
      word = (word ?? '') + command.slice(at + 1, end);
      at = end;
    } else if (c === '"') {
      word ??= '';
      for (at += 1; at < command.length && command[at] !== '"'; at += 1) {
        if (command[at] === '\\' && '"\\$`'.includes(command[at + 1])) at += 1;
        word += command[at];
      }
    } else if (c === '\\') {
      at += 1;
      word = (word ?? '') + (command[at] ?? '');
    } else if (/\s/.test(c)) {
      if (word !== null) found.push(word);
      word = null;
    } else word = (word ?? '') + c;
  }
  if (word !== null) found.push(word);
  return found;
}

/* What belongs to files and to the machine, not to the film. */
const NOT_ASKED = new Set(['model', 'output', 'o', 'dtype', 'threads', 'device', 'no_memory_check', 'image', 'end_image', 'video', 'lora', 'upscaler',
  'codec', 'crf', 'noise', 'guidance_batch']);

/** The settings of a film as a request has them. */
export function settings(video) {
  const asked = { prompt: video.prompt };
  const flags = words(video.command || '').slice(2);
  for (let at = 0; at < flags.length; at += 1) {
    const [, dashed, inline] = /^--?([a-z][\w-]*)(?:=([^]*))?$/.exec(flags[at]) || [];
    if (!dashed) continue;
    const name = dashed.replaceAll('-', '_');
    const next = flags[at + 1];
    let value = inline;
    if (value === undefined && next !== undefined && !/^--?[a-z]/.test(next)) { value = next; at += 1; }
    if (NOT_ASKED.has(name)) continue;
    if (name === 'prompt_at') asked.prompt_at = [...(asked.prompt_at || []), value];
    else asked[name] = value ?? true;
  }
  asked.seed = String(video.seed);
  return asked;
}

/** The same without what is as the model has it, for a form and for reading. */
export function essentials(video, defaults) {
  const asked = settings(video);
  for (const [name, value] of Object.entries(asked)) {
    if (name === 'prompt' || name === 'seed') continue;
    const own = defaults?.[name];
    if (value === '' || (own !== undefined && String(own) === String(value))) delete asked[name];
  }
  for (const name of ['addnoise_condition', 'ar_step']) if (Number(asked[name]) === 0) delete asked[name];
  return asked;
}

const isNumber = value => /^-?\d+(\.\d+)?$/.test(value) && value.length < 16;
/* Seeds of 64 bits are written as they are. */
const json = asked => `{${Object.entries(asked).map(([name, value]) =>
  `${JSON.stringify(name)}: ${name === 'seed' || isNumber(value) ? value : JSON.stringify(value)}`).join(', ')}}`;
const quote = text => `'${text.replaceAll("'", "'\\''")}'`;
const origin = () => new URL('.', document.baseURI.split('#')[0]).href.replace(/\/$/, '');

export function curl(video, defaults, withKey) {
  const { prompt, ...rest } = essentials(video, defaults);
  const asked = { prompt, model: video.model, ...rest };
  return [`curl ${origin()}/v1/videos`, "-H 'content-type: application/json'", withKey && '-H "authorization: Bearer $LONGREEL_KEY"',
    `-d ${quote(json(asked))}`].filter(Boolean).join(' \\\n     ');
}

export function python(video, defaults, withKey) {
  const { prompt, ...rest } = essentials(video, defaults);
  const py = value => (value === true ? 'True' : isNumber(value) ? value : JSON.stringify(value));
  const extra = Object.entries(rest).map(([name, value]) => `        ${JSON.stringify(name)}: ${name === 'seed' ? value : py(value)},`);
  return `${withKey ? 'import os\n\n' : ''}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${origin()}/v1`)}, api_key=${withKey ? 'os.environ["LONGREEL_KEY"]' : '"none"'})
video = client.videos.create_and_poll(
    model=${JSON.stringify(video.model)},
    prompt=${JSON.stringify(prompt)},
    extra_body={
${extra.join('\n')}
    },
)
client.videos.download_content(video.id).write_to_file("film.mp4")
`;
}
