/* What is said of a film, in one place, so that cards, pages and dialogs say the same. */
import { sentence } from './refusals.js';
import { has, language, t } from './text.js';
import { duration } from './dom.js';
import { health, secondsLeft } from './films.js';

/** A setting as the page calls it; one that it has no word for by the name that a request has for it. */
export const nameOf = name => (has(name) ? t(name) : name.replaceAll('_', ' '));

/** The state in a few words. */
export function stateOf({ video }) {
  if (video.stopping === 'cancel') return t('stopping');
  if (video.stopping === 'pause') return t('pausing');
  if (video.paused) return t('paused');
  if (video.state === 'queued') return health?.workers?.includes('waiting') ? t('queuedNoRoom') : t('queued', video.queue_position);
  return t(video.state);
}

/** The same as a name for styles. */
export function toneOf({ video }) {
  if (video.paused || video.stopping) return 'held';
  return video.state;
}

/** How far a film in work is; empty for others. */
export function progressOf(film) {
  const { video, live } = film;
  if (video.state !== 'running') {
    return video.state === 'queued' && !video.paused && video.expected_seconds > 1 ? t('expected', duration(video.expected_seconds)) : '';
  }
  const words = [];
  if (live) {
    words.push(t('segmentOf', live.segment + 1, live.segments));
    if (live.steps) words.push(t('stepOf', live.step, live.steps));
  }
  const left = secondsLeft(film);
  if (left !== null) words.push(left < 1 ? t('leftSoon') : t('left', duration(left)));
  return words.join(' · ');
}

/** What cannot change any more, in one line. */
export function factsOf({ video }) {
  const words = [];
  if (video.seconds) words.push(t('lengthOf', Number(video.seconds).toLocaleString(undefined, { maximumFractionDigits: 1 })));
  if (video.size) words.push(video.size.replace('x', '×'));
  if (video.model) words.push(video.model);
  return words.join(' · ');
}

/**
 * What the service refused or a film failed for (`code` and the data beside it), in the page's language, and
 * what it says itself where that says more.
 */
export function told(about, detail) {
  const translated = language() === 'zh' ? sentence(about) : null;
  // Messages begin small, as parts of a line; here they stand alone. Names of settings stay as they are.
  if (!translated) return { detail: detail.replace(/^[a-z]+(?=[\s,])/, first => first[0].toUpperCase() + first.slice(1)) };
  return { detail: translated.text, more: translated.isPartial ? detail : '' };
}

/** What went wrong, as somebody can use it. */
export function problemOf(error) {
  if (error.code === 'offline') return { title: t('offlineShort'), detail: t('offlineDetail') };
  if (error.status === undefined) throw error;
  const own = error.detail || (error.status === 401 ? t('keyNeeded') : error.title || String(error.status));
  return { title: t('problem'), ...told(error.about, own), code: error.code, request: error.requestId };
}
