/* The films that were picked to be compared. */
import { $, button, make } from './dom.js';
import { t } from './text.js';

let picked = [];
const listeners = new Set();

export const has = id => picked.includes(id);
export const onChange = listener => listeners.add(listener);
export const offChange = listener => listeners.delete(listener);

function set(ids) {
  picked = ids;
  draw();
  for (const listener of listeners) listener();
}

/** Two at most: a third takes the place of the older one. */
export function toggle(id) {
  set(has(id) ? picked.filter(other => other !== id) : [...picked, id].slice(-2));
}

export const drop = id => { if (has(id)) toggle(id); };

export function draw() {
  const tray = $('tray');
  tray.hidden = !picked.length || location.hash.startsWith('#/compare');
  if (tray.hidden) return;
  tray.replaceChildren(make('span', { textContent: t('compareTray', picked.length) }),
    picked.length === 2 && make('a', { className: 'button main', href: `#/compare/${picked.join('/')}`, textContent: t('compareOpen') }) || '',
    button(t('compareClear'), () => set([]), 'quiet'));
}
