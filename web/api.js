/* Requests to the service. Addresses are relative, so that the page works under any prefix of a proxy. */

/** What the service refused, or why it was not reached. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || 'error');
    this.status = status;
    this.code = body.code || 'error';
    this.title = body.title || '';
    this.detail = body.detail || '';
    this.requestId = body.request_id || '';
    /** What it is about, as data: `field`, `value`, `limit`, `allowed`, `retry_after`, where there are any. */
    this.about = body;
  }
}

/** Tells `connection` (with `detail` true or false) and `key` (a key is asked for). */
export const service = new EventTarget();
let connected = true;

function reached(now) {
  if (now === connected) return;
  connected = now;
  service.dispatchEvent(new CustomEvent('connection', { detail: now }));
}

export const isConnected = () => connected;

/** Seeds have 64 bits, numbers of JavaScript 53. Inside a text quotes are escaped, so that this finds keys only. */
export const parse = text => JSON.parse(text.replace(/"seed":(\d+)/g, '"seed":"$1"') || 'null');

/* Requests whose answer never came, with their keys: whoever sends the same once more gets the film of the first. */
const unanswered = new Map();
const newToken = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');

const nameOf = (path, body) => JSON.stringify([path, body instanceof FormData
  ? [...body].map(([name, value]) => [name, value instanceof File ? [value.name, value.size, value.lastModified] : value]) : body]);

/** Sends `body` (a FormData as a form, anything else as JSON) and gives the answer's JSON. */
export async function call(method, path, body, { signal, once = method === 'POST' } = {}) {
  const options = { method, headers: {}, signal, credentials: 'same-origin' };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.headers['content-type'] = 'application/json';
    options.body = JSON.stringify(body);
  }
  const name = once && body !== undefined ? nameOf(path, body) : null;
  if (name) {
    if (!unanswered.has(name)) unanswered.set(name, newToken());
    options.headers['idempotency-key'] = unanswered.get(name);
  }
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    reached(false);
    throw new Problem(0, { code: 'offline' });
  }
  const bad = [502, 503, 504].includes(response.status) && !text.startsWith('{');
  reached(!bad);
  if (!bad) unanswered.delete(name);
  let answer = null;
  try { answer = parse(text); } catch { /* A proxy's own page, not an answer of the service. */ }
  if (response.ok) return answer;
  if (response.status === 401) service.dispatchEvent(new Event('key'));
  throw new Problem(response.status, answer || { title: response.statusText, code: bad ? 'offline' : 'error' });
}

export const get = (path, options) => call('GET', path, undefined, options);

/** The same, or null where the service has no such address. */
export async function getIfThere(path, options) {
  try { return await get(path, options); } catch (error) {
    if (error.status === 404 || error.status === 405) return null;
    throw error;
  }
}

export const video = id => `v1/videos/${id}`;
export const file = (id, name) => `v1/videos/${id}/files/${name}`;
/** An address that the service names from its root. */
export const relative = address => address.replace(/^\//, '');
