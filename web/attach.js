/* Pictures and a video for a film: chosen, dropped or pasted. */
import { $, bytes, icon, make } from './dom.js';
import { onLanguage, t } from './text.js';

/* What the service reads. Where these are asked for by name, phones turn their HEIC into JPEG by themselves. */
const PICTURES = 'image/png,image/jpeg,image/webp';

/* In the order of a request's keys; a dropped image takes the first free place. */
const SLOTS = [
  { name: 'image', text: 'image', kind: 'image', accept: PICTURES },
  { name: 'end_image', text: 'endImage', kind: 'image', accept: PICTURES },
  { name: 'video', text: 'video', kind: 'video', accept: 'video/*' },
];
const chosen = new Map();
let changed = () => {};
let refuse = () => {};

export const files = () => new Map(chosen);

function choose(name, file) {
  const old = chosen.get(name);
  if (old) URL.revokeObjectURL(old.url);
  if (file) chosen.set(name, { file, url: URL.createObjectURL(file) });
  else chosen.delete(name);
  draw();
  changed();
}

export function clear() {
  for (const { name } of SLOTS) if (chosen.has(name)) choose(name, null);
}

const kindOf = file => SLOTS.find(slot => file.type.startsWith(`${slot.kind}/`))?.kind;

/** Puts files where they fit; `wanted` is the slot they were dropped on. */
function take(list, wanted) {
  refuse('');
  for (const file of list) {
    const kind = kindOf(file);
    if (!kind) { refuse(t('notAPicture', file.name)); continue; }
    const fitting = SLOTS.filter(slot => slot.kind === kind);
    const slot = fitting.find(slot => slot.name === wanted) || fitting.find(slot => !chosen.has(slot.name)) || fitting[0];
    choose(slot.name, file);
    wanted = undefined;
  }
}

function tile({ name, text, kind, accept }) {
  const input = make('input', { type: 'file', accept, className: 'visually-hidden', id: `file-${name}` });
  input.onchange = () => { take(input.files, name); input.value = ''; };
  const held = chosen.get(name);
  const label = t(text);
  if (!held) {
    return make('div', { className: 'slot', dataset: { slot: name } }, input,
      make('label', { htmlFor: input.id }, icon(kind === 'video' ? 'film' : 'image'), make('span', { textContent: label })));
  }
  const picture = kind === 'video'
    ? make('video', { src: held.url, muted: true, playsInline: true, preload: 'metadata', tabIndex: -1 })
    : make('img', { src: held.url, alt: '', onerror: event => event.target.remove() });
  const remove = make('button', { type: 'button', className: 'icon-button', 'aria-label': `${t('remove')}: ${label}`, title: t('remove'),
    onclick: () => { choose(name, null); $(`file-${name}`).focus(); } }, icon('close'));
  return make('div', { className: 'slot held', dataset: { slot: name } }, picture, input,
    make('label', { htmlFor: input.id, title: `${held.file.name}, ${bytes(held.file.size)}`, textContent: label }), remove);
}

function draw() {
  $('slots').replaceChildren(...SLOTS.map(tile));
}

/** `onChange` is called when files changed, `onRefuse` with why one is not taken. */
export function start(onChange, onRefuse) {
  changed = onChange;
  refuse = onRefuse;
  draw();
  onLanguage(draw);
  const composer = $('composer');
  /* Anywhere in the window is near enough, wherever there is a form to take them and no question in front of it. */
  const holds = event => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
  const takes = event => holds(event) && composer.checkVisibility() && !document.querySelector('dialog[open]');
  let depth = 0;
  window.addEventListener('dragenter', event => { if (takes(event)) { depth += 1; composer.classList.add('dropping'); } });
  window.addEventListener('dragleave', event => { if (holds(event) && (depth -= 1) <= 0) { depth = 0; composer.classList.remove('dropping'); } });
  window.addEventListener('drop', event => {
    depth = 0;
    composer.classList.remove('dropping');
    if (takes(event)) take(event.dataTransfer.files, event.target.closest?.('[data-slot]')?.dataset.slot);
  });
  // A file that misses must not take the place of the page.
  for (const name of ['dragover', 'drop']) {
    window.addEventListener(name, event => { if (holds(event)) event.preventDefault(); });
  }
  composer.addEventListener('paste', event => {
    if (event.clipboardData?.files.length) { event.preventDefault(); take(event.clipboardData.files); }
  });
}
