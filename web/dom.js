/* Elements, and values as people read them. Text is only ever set as text, so that no prompt, name or
   error message becomes markup. */
import { language, t } from './text.js';

export const $ = id => document.getElementById(id);

/** An element with properties, attributes for names that hold a dash, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes('-') || name === 'role') element.setAttribute(name, value);
    else if (name === 'dataset') Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children.filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

export const button = (label, onclick, className = '') =>
  make('button', { type: 'button', className, textContent: label, onclick });

/** One of the drawings of the page, which carry no text of their own. */
export function icon(name) {
  const shape = {
    play: 'M6 4v12l10-6z', pause: 'M5 4h3.5v12H5zm6.5 0H15v12h-3.5z', close: 'M5 5l10 10M15 5L5 15',
    plus: 'M10 4v12M4 10h12', back: 'M12 4l-6 6 6 6', dice: 'M4 4h12v12H4zM7.5 7.5h0M12.5 12.5h0M10 10h0',
    image: 'M3 4h14v12H3zM3 14l4-4 3 3 3-4 4 4', film: 'M3 4h14v12H3zM7 4v12M13 4v12M3 8h4M3 12h4M13 8h4M13 12h4',
    edit: 'M4 16l1-4 8-8 3 3-8 8z', copy: 'M7 7h9v9H7zM13 7V4H4v9h3', branch: 'M6 4v12M6 12c0-4 8-2 8-6M14 6V4', last: 'M5 4l8 6-8 6zM15 4v12',
  }[name];
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 20 20');
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', shape);
  svg.append(path);
  return svg;
}

/** Changes text only where it differs, so that nothing is read out twice. */
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
  element.hidden = !words;
}

/** Calls `act` when nothing was asked for `ms`; what is asked meanwhile only moves the time. */
export function settled(ms, act) {
  let timer;
  const call = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...values), ms);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/** Calls `act` at once and then at most every `ms`, the last time for the last call. */
export function paced(ms, act) {
  let timer = null, again = false;
  return function call() {
    if (timer) { again = true; return; }
    act();
    timer = setTimeout(() => { timer = null; if (again) { again = false; call(); } }, ms);
  };
}

/** A length of work: 4 s, 2 min 10 s, 3 h 5 min, 15 days. */
export function duration(seconds) {
  const s = Math.max(1, Math.round(seconds)), part = (n, unit) => `${n} ${t(unit)}`;
  const two = (n, unit, m, smaller) => (m ? `${part(n, unit)} ${part(m, smaller)}` : part(n, unit));
  if (s >= 172800) return part(Math.round(s / 86400), 'days');
  if (s >= 3600) return two(Math.floor(s / 3600), 'hours', Math.floor(s % 3600 / 60), 'minutes');
  if (s >= 600) return part(Math.round(s / 60), 'minutes');
  if (s >= 60) return two(Math.floor(s / 60), 'minutes', s % 60, 'seconds');
  return part(s, 'seconds');
}

/** A place in a film: 0:04.2, 1:02:03.5. */
export function clock(seconds) {
  const tenths = Math.round(Math.max(0, seconds) * 10), s = Math.floor(tenths / 10);
  const two = n => String(n).padStart(2, '0');
  const hours = Math.floor(s / 3600), minutes = Math.floor(s / 60) % 60;
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(s % 60)}.${tenths % 10}`;
}

export function bytes(count) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let n = count, at = 0;
  while (n >= 1000 && at < units.length - 1) { n /= 1000; at += 1; }
  return `${n < 10 && at ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

export const count = n => new Intl.NumberFormat(language() === 'zh' ? 'zh-CN' : 'en').format(n);

/** A text from outside among other words: whatever direction it sets holds no further than itself. */
export const isolated = text => `\u2068${text}\u2069`;

/** When something was, as near as it matters. */
export function ago(ms) {
  const locale = language() === 'zh' ? 'zh-CN' : 'en';
  const s = (ms - Date.now()) / 1000, relative = new Intl.RelativeTimeFormat(locale, { numeric: 'auto' });
  if (s > -60) return t('justNow');
  if (s > -3600) return relative.format(Math.round(s / 60), 'minute');
  if (s > -86400) return relative.format(Math.round(s / 3600), 'hour');
  return new Date(ms).toLocaleDateString(locale, { year: 'numeric', month: 'short', day: 'numeric' });
}
