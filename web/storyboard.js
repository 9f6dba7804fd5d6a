/* The film as a row of segments on a time line. */
import { clock, icon, make, say } from './dom.js';
import { t } from './text.js';
import { pictureOf } from './segments.js';

/* Of more segments not all are in sight at once. */
const IN_SIGHT = 5;
/* Means of 8-bit values; below the first nobody sees it. */
const DRIFT_LEVELS = [[2, 'None'], [6, 'Slight'], [15, 'Clear'], [Infinity, 'Strong']];

/** How far a segment's look moved from that of `first`, in one number of 8-bit steps. */
export function driftOf(drift, first) {
  const { look } = drift ?? {}, was = first?.look;
  if (!look || !was) return null;
  const moved = name => Math.abs(look[name] - was[name]);
  const parts = { colour: Math.max(...look.colour.map((value, i) => Math.abs(value - was.colour[i]))), contrast: moved('contrast'), saturation: moved('saturation'),
    sharpness: 10 * moved('sharpness') / Math.max(1, was.sharpness) };
  const amount = Math.max(...Object.values(parts));
  return { amount, parts, level: DRIFT_LEVELS.find(([below]) => amount < below)[1], seam: drift.seam_jump, within: drift.frame_change };
}

function driftWords({ parts, seam, within }) {
  const words = Object.entries(parts).map(([name, value]) => `${t(name)} ${value.toFixed(1)}`);
  if (seam !== null && seam !== undefined) words.push(`${t('seam')} ${seam.toFixed(1)} / ${(within ?? 0).toFixed(1)}`);
  return words.join(', ');
}

const STATES = { done: 'done', running: 'inWork', waiting: 'waiting' };

/** A storyboard; `actions` has `jump(segment)`, `edit(segment)` and `branch(segment)`. */
export class Storyboard {
  element = make('section', { className: 'storyboard', hidden: true });
  #title = make('h2');
  #row = make('ol', { className: 'segments' });
  #toWork = make('button', { type: 'button', className: 'quiet', hidden: true, onclick: () => this.#toRunning() });
  #cards = new Map();
  #actions;
  #time = 0;

  constructor(actions) {
    this.#actions = actions;
    this.element.append(make('div', { className: 'storyboard-head' }, this.#title, this.#toWork), this.#row);
    this.#row.addEventListener('keydown', event => this.#move(event));
  }

  #toRunning() {
    this.#row.querySelector('[data-state=running]')?.scrollIntoView({ inline: 'center', block: 'nearest' });
  }

  /** Left and right go from segment to segment. */
  #move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const card = event.target.closest('li');
    if (!step || !card) return;
    const next = step > 0 ? card.nextElementSibling : card.previousElementSibling;
    const target = next?.querySelector('button:not([disabled])');
    if (target) { event.preventDefault(); target.focus(); }
  }

  show(segments, fps, { canSteer, preview }) {
    this.element.hidden = !segments?.length;
    if (!segments?.length) return;
    say(this.#title, t('storyboard'));
    this.#toWork.textContent = t('toInWork');
    this.#toWork.hidden = segments.length <= IN_SIGHT || !segments.some(segment => segment.state === 'running');
    this.element.setAttribute('aria-label', t('storyboard'));
    for (const key of [...this.#cards.keys()]) if (key >= segments.length) { this.#cards.get(key).item.remove(); this.#cards.delete(key); }
    // Another prompt asks for another look: drift is what moves after that.
    let first = null;
    segments.forEach((segment, n) => {
      if (!n || segment.prompt !== segments[n - 1].prompt) first = segment.drift;
      this.#draw(segment, fps || 24, canSteer, preview, first);
    });
  }

  #draw(segment, fps, canSteer, preview, first) {
    const n = segment.segment;
    let card = this.#cards.get(n);
    if (!card) {
      card = this.#create(n);
      this.#cards.set(n, card);
      this.#row.append(card.item);
    }
    const start = segment.first_frame / fps, end = (segment.first_frame + segment.frames) / fps;
    Object.assign(card, { segment, start, end });
    const isDone = segment.state === 'done';
    card.item.dataset.state = segment.state;
    const shown = pictureOf(segment, preview);
    if (shown && card.image.getAttribute('src') !== shown) card.image.src = shown;
    card.image.hidden = !shown;
    card.image.alt = t('thumbnail', n + 1);
    card.jump.disabled = !isDone;
    card.jump.setAttribute('aria-label', t('jump', n + 1));
    say(card.name, t('segment', n + 1));
    say(card.time, `${clock(start)} – ${clock(end)}`);
    say(card.state, isDone ? '' : t(STATES[segment.state] || segment.state));
    say(card.prompt, segment.prompt || '');
    card.prompt.title = segment.prompt || '';
    const drift = isDone ? driftOf(segment.drift, first) : null;
    card.drift.hidden = !drift;
    if (drift) {
      card.drift.dataset.level = drift.level;
      card.bar.style.inlineSize = `${Math.min(100, 5 + 95 * drift.amount / 20)}%`;
      say(card.driftText, t('driftOf', t(`drift${drift.level}`)));
      card.drift.title = `${t('driftHint')}: ${driftWords(drift)}`;
    }
    this.#offer(card.edit, 'edit', canSteer && segment.state === 'waiting', t('edit'), t('editFrom', n + 1));
    this.#offer(card.branch, 'branch', isDone && segment.can_branch, t('branch'), t('branchFrom', n + 1));
    this.#mark(card);
  }

  #offer(element, name, isThere, words, label) {
    element.hidden = !isThere;
    element.lastChild.textContent = words;
    element.setAttribute('aria-label', label);
    element.title = label;
  }

  #create(n) {
    const image = make('img', { loading: 'lazy', decoding: 'async', hidden: true });
    const name = make('span'), time = make('span', { className: 'fine' });
    const state = make('span', { className: 'badge' });
    const jump = make('button', { type: 'button', className: 'frame', onclick: () => this.#actions.jump(this.#cards.get(n).start) }, image, icon('play'));
    const prompt = make('p', { className: 'words', dir: 'auto' });
    const bar = make('span'), driftText = make('span', { className: 'fine' });
    const drift = make('div', { className: 'drift', hidden: true }, make('div', { className: 'meter' }, bar), driftText);
    const act = name => make('button', { type: 'button', className: 'quiet', hidden: true, onclick: () => this.#actions[name](this.#cards.get(n).segment) },
      icon(name), make('span'));
    const edit = act('edit'), branch = act('branch');
    const item = make('li', {}, make('div', { className: 'frame-box' }, jump, state), make('div', { className: 'segment-head' }, name, time), prompt, drift,
      make('div', { className: 'segment-actions' }, edit, branch));
    return { item, image, name, time, state, jump, prompt, drift, bar, driftText, edit, branch };
  }

  /** Shows where the film is. */
  at(seconds) {
    this.#time = seconds;
    for (const card of this.#cards.values()) this.#mark(card);
  }

  #mark(card) {
    const isNow = card.segment?.state === 'done' && this.#time >= card.start - 1e-3 && this.#time < card.end - 1e-3;
    card.item.classList.toggle('now', isNow);
    if (isNow) card.item.setAttribute('aria-current', 'true'); else card.item.removeAttribute('aria-current');
  }
}
