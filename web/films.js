/* What is known of films: what lists say, and what event streams tell of those that are being made. */
import { get, service, video as at, isConnected } from './api.js';
import { hears, hush, listenTo } from './streams.js';

/** By id: { video, live, liveAt, preview, changes }. `changes` rises when its segments may have changed. */
export const films = new Map();
/** Tells `film` (its id), `removed` (its id), `lists` and `health`. */
export const news = new EventTarget();

const tell = (name, detail) => news.dispatchEvent(new CustomEvent(name, { detail }));
/* Events of the past come hundreds at once; what they come to is told once. */
const TELL_MS = 40;
const changed = new Set();
function tellFilm(id) {
  if (!changed.size) {
    setTimeout(() => {
      const ids = [...changed];
      changed.clear();
      for (const one of ids) if (films.has(one)) tell('film', one);
    }, TELL_MS);
  }
  changed.add(id);
}
const POLL_MS = 3000;
const POLL_HIDDEN_MS = 20000;
/* Of one window; lists tell of the others. */
const STREAMS_MAX = 2;
const PAGE = 24;

export const isFinal = video => ['completed', 'failed', 'cancelled'].includes(video.state);
export const isStopping = video => Boolean(video.stopping);

/** What the gallery shows: `state` and `text` choose; `ids` are those found, newest first. */
export const list = { state: '', text: '', ids: [], hasMore: false, isKnown: false };
/** Films that are not finished, in the order in which they are made. */
export const queue = { ids: [] };
export let health = null;
/** The film that somebody looks at. */
let opened = null;

export function put(video) {
  let film = films.get(video.id);
  if (!film) {
    film = { video, live: null, liveAt: 0, preview: null, changes: 0 };
    films.set(video.id, film);
  } else {
    // A list that was asked for earlier may come later than an event.
    if (isFinal(film.video) && !isFinal(video)) return film;
    if (film.video.state !== video.state || film.video.segments_done !== video.segments_done) film.changes += 1;
    film.video = video;
    // What events told last is old where none are heard.
    if (!hears(video.id)) film.live = null;
  }
  if (isFinal(video)) hush(video.id);
  tellFilm(video.id);
  return film;
}

export function forget(id) {
  hush(id);
  films.delete(id);
  list.ids = list.ids.filter(other => other !== id);
  queue.ids = queue.ids.filter(other => other !== id);
  tell('removed', id);
  tell('lists');
}

/** Asks for one film; null when it is not there. */
export async function fetchFilm(id) {
  try { return put(await get(at(id))); } catch (error) {
    if (error.status !== 404) throw error;
    forget(id);
    return null;
  }
}

export function open(id) {
  opened = id;
  follow();
}

/** A film that was just asked for stands in front. */
export function added(video) {
  put(video);
  if (!queue.ids.includes(video.id)) queue.ids.push(video.id);
  if (!list.text && (!list.state || list.state === 'queued')) list.ids = [video.id, ...list.ids.filter(id => id !== video.id)];
  tell('lists');
  follow();
}

function query(after) {
  const words = new URLSearchParams({ limit: PAGE });
  if (list.state) words.set('state', list.state);
  if (list.text) words.set('text', list.text);
  if (after) words.set('after', after);
  return `v1/videos?${words}`;
}

/* A service that does not search yet answers with all films. */
const fits = video => (!list.state || video.state === list.state)
  && (!list.text || video.prompt.toLowerCase().includes(list.text.toLowerCase()));

export async function choose(state, text) {
  if (list.state === state && list.text === text) return;
  Object.assign(list, { state, text, isKnown: false });
  await refreshList();
}

async function refreshList() {
  const asked = query();
  const page = await get(asked);
  if (asked !== query()) return;
  page.data.forEach(put);
  const first = page.data.filter(fits).map(video => video.id);
  /* What is older than this page was read before and stays. */
  const last = page.last_id;
  const older = last && page.has_more ? list.ids.filter(id => id < last && films.has(id) && fits(films.get(id).video)) : [];
  if (!list.isKnown || !older.length) list.hasMore = page.has_more;
  list.ids = list.isKnown ? [...first, ...older] : first;
  list.isKnown = true;
  tell('lists');
}

export async function more() {
  const page = await get(query(list.ids[list.ids.length - 1]));
  page.data.forEach(put);
  list.ids = [...new Set([...list.ids, ...page.data.filter(fits).map(video => video.id)])];
  list.hasMore = page.has_more;
  tell('lists');
}

/* Running first, then as the queue stands. */
const inOrder = (a, b) => (b.state === 'running') - (a.state === 'running')
  || (a.queue_position ?? 1e9) - (b.queue_position ?? 1e9) || (a.id < b.id ? -1 : 1);

async function refreshQueue() {
  const page = await get('v1/videos?limit=100&order=asc&state=running,queued');
  const open = new Map(page.data.filter(video => !isFinal(video)).map(video => [video.id, video]));
  [...open.values()].forEach(put);
  /* What left the queue since is asked for once more: it is finished, or gone. */
  const left = [...films.values()].filter(film => !isFinal(film.video) && !open.has(film.video.id));
  await Promise.all(left.slice(0, 8).map(film => fetchFilm(film.video.id)));
  queue.ids = [...open.values()].sort(inOrder).map(video => video.id);
  tell('lists');
}

async function refreshHealth() {
  health = await get('health');
  tell('health');
}

export async function refresh() {
  try {
    await Promise.all([refreshHealth(), refreshQueue(), refreshList()]);
    follow();
  } catch { /* `service` has told; the next time comes. */ }
}

/** Listens to those that matter most: the one that is looked at, then those in work. A window that nobody sees listens to none. */
function follow() {
  const open = [opened, ...queue.ids.filter(id => films.get(id)?.video.state === 'running')].filter(id => films.has(id) && !isFinal(films.get(id).video));
  listenTo(document.hidden ? [] : [...new Set(open)].slice(0, STREAMS_MAX), id => `${at(id)}/events`, listen);
}

function listen(id, source, isHeard) {
  const on = (kind, take) => source.addEventListener(kind, event => {
    const film = films.get(id);
    if (!film || !isHeard()) return;
    const told = JSON.parse(event.data);
    take(film, told.data, event.lastEventId);
    tellFilm(id);
  });
  on('progress', (film, data) => {
    if (film.live?.segment !== data.segment) film.changes += 1;
    film.live = data;
    film.liveAt = Date.now();
  });
  on('segment', (film, data) => {
    film.changes += 1;
    film.video.segments_done = Math.max(film.video.segments_done, data.segment + 1);
    film.video.frames_done = Math.max(film.video.frames_done, data.frames);
  });
  on('preview', (film, data, version) => {
    film.preview = { ...data, version };
    film.changes += 1;
  });
  on('drift', film => { film.changes += 1; });
  on('state', (film, data) => {
    Object.assign(film.video, { state: data.state, paused: data.paused, stopping: data.stop });
    if (data.state !== 'running') film.live = null;
    film.changes += 1;
  });
  source.addEventListener('done', async () => {
    hush(id);
    try {
      const film = await fetchFilm(id);
      if (film) { film.changes += 1; tellFilm(id); }
      await refresh();
    } catch { /* The next list has it. */ }
  });
}

export function start() {
  const again = async () => {
    await refresh();
    setTimeout(again, document.hidden ? POLL_HIDDEN_MS : POLL_MS);
  };
  again();
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return follow();
    // It may have been deleted from another window.
    if (opened) fetchFilm(opened).catch(() => {});
    refresh();
  });
  window.addEventListener('online', refresh);
  service.addEventListener('connection', () => { if (isConnected()) follow(); });
}

/** The part of the film that is done, from 0 to 1. */
export function fraction({ video, live }) {
  if (video.state === 'completed') return 1;
  if (live?.segments) return Math.min(1, (live.segment + live.step / Math.max(1, live.steps)) / live.segments);
  return (video.progress || 0) / 100;
}

/** Seconds of work left as last told, less what has passed since; null when nobody knows. */
export function secondsLeft({ video, live, liveAt }) {
  if (video.state !== 'running') return null;
  const told = live ? live.left_seconds : video.left_seconds;
  if (told === null || told === undefined) return null;
  return Math.max(0, told - (live ? (Date.now() - liveAt) / 1000 : 0));
}
