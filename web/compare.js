/* Two films side by side, in step, and what differs between them. */
import { get, video as at } from './api.js';
import { clock, icon, isolated, make, say } from './dom.js';
import { settings } from './exports.js';
import { fetchFilm, films, news, put } from './films.js';
import { t } from './text.js';
import * as tray from './tray.js';
import { nameOf } from './words.js';

/* Further apart than this is seen; nearer, correcting would be. */
const APART_SECONDS = 0.08;
const CHOICES = 100;

/* Facts of a film that may differ though the settings do not. */
const FACTS = ['model', 'model_revision'];

function differences(a, b) {
  const left = { ...settings(a), ...Object.fromEntries(FACTS.map(name => [name, a[name]])) };
  const right = { ...settings(b), ...Object.fromEntries(FACTS.map(name => [name, b[name]])) };
  const text = value => (value === undefined || value === '' ? t('none') : String(value));
  return [...new Set([...Object.keys(left), ...Object.keys(right)])]
    .filter(name => text(left[name]) !== text(right[name]))
    .map(name => [name === 'model_revision' ? t('revision') : nameOf(name), text(left[name]), text(right[name])]);
}

const cell = text => make('td', {}, make('div', { textContent: text, title: text, dir: 'auto' }));

/** Shows the films `ids` (two, one or none) in `main`; `go` opens another address of the page. */
export function show(main, ids, go) {
  const chosen = [ids[0] || '', ids[1] || ''];
  const videos = chosen.map(() => make('video', { muted: true, playsInline: true, preload: 'auto', loop: false }));
  const [first, second] = videos;
  const title = make('h1'), hint = make('p', { className: 'hint' });
  const selects = chosen.map((_, side) => make('select', { onchange: event => {
    const next = [...chosen];
    next[side] = event.target.value;
    go(`#/compare/${next.map(id => id || '-').join('/')}`);
  } }));
  const captions = chosen.map(() => make('p', { className: 'caption', dir: 'auto' }));
  const sides = chosen.map((_, side) => make('figure', {}, selects[side], make('div', { className: 'screen' }, videos[side]), captions[side]));
  const play = make('button', { type: 'button', className: 'icon-button big' }, icon('play'));
  const step = by => () => { pause(); seek(first.currentTime + by / (films.get(chosen[0])?.video.fps || 24)); };
  const backward = make('button', { type: 'button', className: 'icon-button flipped', onclick: step(-1) }, icon('last'));
  const forward = make('button', { type: 'button', className: 'icon-button', onclick: step(1) }, icon('last'));
  const position = make('input', { type: 'range', min: 0, max: 1, step: 'any', value: 0 });
  const time = make('span', { className: 'fine time' });
  const transport = make('div', { className: 'transport' }, backward, play, forward, position, time);
  const table = make('table'), tableTitle = make('h2');
  main.append(make('div', { className: 'compare' }, title, hint, make('div', { className: 'sides' }, ...sides), transport, tableTitle, table));

  const length = () => Math.max(...videos.map(video => video.duration || 0));
  const isPlaying = () => videos.some(video => !video.paused && !video.ended);
  const pause = () => videos.forEach(video => video.pause());
  function seek(seconds) {
    for (const video of videos) if (video.duration) video.currentTime = Math.min(Math.max(0, seconds), video.duration - 1e-3);
    draw();
  }
  const start = () => videos.forEach(video => { if (video.duration && !video.ended) video.play().catch(() => {}); });
  play.onclick = () => {
    if (isPlaying()) pause();
    else {
      if (videos.every(video => !video.duration || video.currentTime >= video.duration - 0.05)) seek(0);
      start();
    }
  };
  position.oninput = () => { pause(); seek(Number(position.value)); };
  // The right one follows the left one.
  const keepInStep = () => {
    if (first.paused || second.paused || first.ended || second.ended) return;
    if (Math.abs(first.currentTime - second.currentTime) > APART_SECONDS) second.currentTime = first.currentTime;
  };
  function draw() {
    const at = Math.max(...videos.map(video => video.currentTime));
    if (document.activeElement !== position || isPlaying()) position.value = at;
    position.max = length() || 1;
    say(time, `${clock(at)} / ${clock(length())}`);
    play.firstChild.replaceWith(icon(isPlaying() ? 'pause' : 'play'));
    play.setAttribute('aria-label', t(isPlaying() ? 'pauseVideo' : 'play'));
  }
  for (const video of videos) {
    for (const name of ['play', 'pause', 'ended', 'timeupdate', 'loadedmetadata', 'seeked']) video.addEventListener(name, draw);
    video.addEventListener('timeupdate', keepInStep);
  }

  function drawAll() {
    say(title, t('compareTitle'));
    say(tableTitle, t('differences'));
    say(hint, chosen.every(Boolean) ? '' : t('comparePick'));
    for (const [element, name] of [[backward, 'frameBack'], [forward, 'frameOn'], [position, 'position']]) element.setAttribute('aria-label', t(name));
    transport.hidden = !chosen.some(Boolean);
    const whole = [...films.values()].map(film => film.video).filter(video => video.state === 'completed').sort((a, b) => (a.id < b.id ? 1 : -1));
    chosen.forEach((id, side) => {
      const select = selects[side], film = films.get(id);
      select.setAttribute('aria-label', t(side ? 'compareB' : 'compareA'));
      const key = `${whole.map(video => video.id)}${t('language')}`;
      if (select.dataset.of !== key) {
        select.dataset.of = key;
        select.replaceChildren(new Option(t('compareChoose'), ''), ...whole.map(video => new Option(`${isolated(video.prompt.slice(0, 60))} · ${t('seed')} ${video.seed}`, video.id)));
      }
      select.value = film ? id : '';
      say(captions[side], film?.video.prompt || '');
      const source = film?.video.state === 'completed' ? `${at(id)}/content` : null;
      if (source && videos[side].getAttribute('src') !== source) videos[side].src = source;
      sides[side].querySelector('.screen').style.setProperty('--ratio', (film?.video.size || '16x9').replace('x', ' / '));
    });
    const [a, b] = chosen.map(id => films.get(id)?.video);
    const rows = a && b ? differences(a, b) : [];
    tableTitle.hidden = table.hidden = !(a && b);
    table.replaceChildren(make('thead', {}, make('tr', {}, ...[t('parameter'), t('compareA'), t('compareB')].map(name => make('th', { scope: 'col', textContent: name })))),
      make('tbody', {}, ...(rows.length ? rows : [[t('noDifferences'), '', '']]).map(([name, left, right]) =>
        make('tr', {}, make('th', { scope: 'row', textContent: name }), cell(left), cell(right)))));
    draw();
  }
  async function begin() {
    try {
      (await get(`v1/videos?limit=${CHOICES}&state=completed`)).data.forEach(put);
      await Promise.all(chosen.filter(Boolean).map(id => fetchFilm(id)));
    } catch { /* The notice of a lost connection says it; lists go on to be asked for. */ }
    drawAll();
  }
  news.addEventListener('lists', drawAll);
  tray.draw();
  begin();
  return {
    draw: drawAll,
    close() {
      news.removeEventListener('lists', drawAll);
      for (const video of videos) { video.removeAttribute('src'); video.load(); }
    },
  };
}
