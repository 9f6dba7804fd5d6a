/* One film: it plays, says how far it is, shows its segments and what can be done with it. */
import { file, isConnected, service, video as at } from './api.js';
import * as acts from './acts.js';
import { detailOf, problemBox } from './dialogs.js';
import { ago, button, count, duration, icon, isolated, make, paced, say } from './dom.js';
import { fetchFilm, films, fraction, isFinal, news, open } from './films.js';
import { LivePlayer } from './player.js';
import { Segments } from './segments.js';
import { Storyboard } from './storyboard.js';
import { t } from './text.js';
import { posterOf } from './library.js';
import { progressOf, stateOf, told, toneOf } from './words.js';
import * as tray from './tray.js';

const SEGMENTS_MS = 500;
/* A prompt longer than this is folded. */
const SHOWN_CHARS = 280;

/** The picture itself: live while the film is made, the file when it is whole. */
class Screen {
  element = make('div', { className: 'screen' });
  #video = make('video', { controls: true, playsInline: true, muted: true, preload: 'auto' });
  #image = make('img', { className: 'still', hidden: true });
  #words = make('p', { className: 'screen-words' });
  /* What the next part will look like, while it is made. */
  #coming = make('img', { className: 'coming', hidden: true });
  #live = null; #state = 'none'; #shown = null; #id;

  constructor(id, onTime) {
    this.#id = id;
    this.#video.hidden = true;
    this.element.append(this.#image, this.#video, this.#coming, this.#words);
    this.#image.onerror = () => { this.#image.hidden = true; };
    for (const name of ['timeupdate', 'seeked', 'loadedmetadata']) this.#video.addEventListener(name, () => onTime(this.#video.currentTime));
    this.#video.addEventListener('error', () => { if (this.#shown === 'file') { this.#state = 'failed'; this.draw(films.get(id)); } });
  }

  draw(film) {
    if (!film) return;
    const { video } = film;
    // Of a film of which nothing was made there is nothing to see.
    this.element.hidden = isFinal(video) && video.state !== 'completed' && !video.segments_done;
    const [width, height] = (video.size || '16x9').split('x').map(Number);
    this.element.style.setProperty('--ratio', `${width} / ${height}`);
    this.#video.setAttribute('aria-label', video.prompt);
    if (video.state === 'completed' && !this.#shown) {
      this.#shown = 'file';
      this.#state = 'playing';
      Object.assign(this.#video, { loop: true, poster: posterOf(film), src: `${at(video.id)}/content` });
      this.#video.play().catch(() => {});
    } else if (video.state === 'completed' && this.#shown === 'live' && this.#state !== 'playing' && this.#state !== 'edge') {
      // It could not be played in parts, and is whole now.
      this.#live.close();
      this.#shown = null;
      this.#state = 'none';
      return this.draw(film);
    } else if (!this.#shown && (!isFinal(video) || (video.state !== 'completed' && video.segments_done))) {
      this.#shown = 'live';
      this.#live = new LivePlayer(this.#video, video.id, state => { this.#state = state; this.draw(films.get(this.#id)); });
    }
    if (this.#shown === 'live') this.#video.loop = video.state === 'completed';
    const plays = this.#state === 'playing' || this.#state === 'edge';
    this.#video.hidden = !plays;
    const still = plays ? null : posterOf(film);
    if (still && this.#image.getAttribute('src') !== still) { this.#image.src = still; this.#image.hidden = false; }
    if (plays) this.#image.hidden = true;
    this.#image.alt = t('preview');
    const { preview } = film, isComing = plays && preview && video.state === 'running' && preview.segment >= video.segments_done;
    if (isComing) {
      const source = `${file(video.id, preview.artifact)}?${preview.version}`;
      if (this.#coming.getAttribute('src') !== source) this.#coming.src = source;
      this.#coming.alt = t('coming', preview.segment + 1);
      this.#coming.title = this.#coming.alt;
    }
    this.#coming.hidden = !isComing;
    this.element.classList.toggle('is-live', !isFinal(video) && plays && isConnected());
    this.element.dataset.live = t('live');
    say(this.#words, this.#message(film));
    this.element.dataset.state = this.#state;
  }

  #message({ video }) {
    if (this.#state === 'failed') return video.state === 'completed' ? t('playFailed') : '';
    if (isFinal(video) && video.state !== 'completed') return '';
    if (!isConnected()) return '';
    if (this.#state === 'edge') return video.paused ? t('playPaused') : isFinal(video) ? '' : t('playWaiting');
    if (this.#state === 'none' && !isFinal(video)) return video.paused ? stateOf({ video }) : t('playSoon');
    return '';
  }

  /** There may be new parts. */
  update() { this.#live?.update(); }

  seek(seconds) {
    // A frame's time is inside the frame, not on its edge.
    this.#video.currentTime = seconds + 1e-3;
    this.#video.play().catch(() => {});
  }

  close() {
    this.#live?.close();
    this.#video.removeAttribute('src');
    this.#video.load();
  }
}

const round = seconds => String(Math.round(Number(seconds) * 10) / 10);

function details({ video }) {
  const { timings } = video, rows = [];
  const row = (name, value) => { if (value !== null && value !== undefined && value !== '') rows.push([name, value]); };
  row(t('model'), video.model);
  row(t('size'), video.size?.replace('x', ' × '));
  row(t('length'), video.seconds && t('lengthOf', round(video.seconds)));
  row(t('frames'), video.num_frames && t('framesAt', count(video.num_frames), video.fps));
  row(t('seed'), video.seed);
  row(t('steps'), video.steps);
  row(t('guidance_scale'), video.guidance_scale);
  row(t('created'), ago(timings.created_ms));
  if (timings.first_frame_ms && timings.started_ms) row(t('firstFrame'), duration((timings.first_frame_ms - timings.started_ms) / 1000));
  if (timings.finished_ms && timings.started_ms && video.state === 'completed') row(t('took'), duration((timings.finished_ms - timings.started_ms) / 1000));
  if (video.attempts > 1) row(t('attempts'), video.attempts);
  row(t('revision'), video.model_revision?.slice(0, 12));
  const list = make('dl', {}, ...rows.map(([name, value]) => make('div', {}, make('dt', { textContent: name }), make('dd', { textContent: value }))));
  if (video.remixed_from_video_id) {
    const from = video.remixed_from_video_id;
    list.append(make('div', {}, make('dt', { textContent: t('madeFrom') }), make('dd', {}, make('a', { href: `#/film/${from}`, dir: 'auto', className: 'from', textContent: films.get(from)?.video.prompt ?? from.slice(0, 8) }))));
  }
  return list;
}

/** Shows the film `id` in `main`; `go` opens another address of the page. */
export function show(main, id, go) {
  const openFilm = other => go(`#/film/${other}`);
  const film = () => films.get(id);
  const screen = new Screen(id, seconds => storyboard.at(seconds));
  const storyboard = new Storyboard({
    jump: seconds => screen.seek(seconds), edit: segment => acts.steer(film(), segment), branch: segment => acts.branch(film(), segment, openFilm),
  });
  const back = make('a', { className: 'back', href: '#/films' }, icon('back'), make('span'));
  const prompt = make('h1', { dir: 'auto' }), whole = button('', () => { isWhole = !isWhole; draw(); }, 'quiet whole');
  const badge = make('span', { className: 'badge', role: 'status' }), facts = make('span', { className: 'fine', role: 'timer' });
  const progress = make('progress', { max: 1 });
  const error = make('div', { className: 'problem', role: 'alert', hidden: true });
  const actions = make('div', { className: 'actions' });
  const notes = make('ul', { className: 'notes', hidden: true }), facts2 = make('div', { className: 'details' });
  const detailsTitle = make('h2');
  const page = make('article', { className: 'film' }, back, screen.element,
    make('div', { className: 'film-head' }, prompt, whole, make('div', { className: 'film-state' }, badge, facts), actions, progress, error),
    storyboard.element, make('section', {}, detailsTitle, facts2, notes));
  const missing = make('div', { className: 'empty', hidden: true });
  main.append(missing, page);
  page.hidden = true;

  const known = new Segments(id);
  let changes = -1, drawn = '', isWhole = false;
  const readSegments = paced(SEGMENTS_MS, async () => {
    try {
      await known.read();
      drawSegments();
    } catch (problem) { if (problem.status !== 0) console.warn(problem); }
  });
  function drawSegments() {
    const { video, preview } = film() || {};
    if (!video) return;
    const [width, height] = (video.size || '16x10').split('x').map(Number);
    storyboard.element.style.setProperty('--frame', String(Math.max(4 / 3, width / height)));
    storyboard.show(known.list, video.fps, { canSteer: !isFinal(video) && !video.stopping, preview: preview && { ...preview, url: `${file(id, preview.artifact)}?${preview.version}` } });
  }

  function drawActions() {
    const names = acts.offered(film());
    const key = `${names} ${t('language')} ${tray.has(id)}`;
    if (drawn === key) return;
    drawn = key;
    const focused = actions.contains(document.activeElement);
    const act = {
      pause: () => acts.pause(film()), resume: () => acts.resume(film()), cancel: () => acts.cancel(film()),
      extend: () => acts.extend(film(), known.list?.at(-1)?.prompt || film().video.prompt, openFilm), remix: () => acts.remix(film(), openFilm), again: () => acts.again(film()),
      compare: () => { tray.toggle(id); drawActions(); }, delete: async () => { if (await acts.remove(film())) { tray.drop(id); go('#/'); } },
    };
    actions.replaceChildren(...names.map(name => {
      if (name === 'download') return make('a', { className: 'button main', href: `download/${id}`, download: '', textContent: t('download') });
      if (name === 'copy') return copyMenu();
      const element = button(t(name), act[name], name === 'delete' || name === 'cancel' ? 'bad' : '');
      element.dataset.act = name;
      if (name === 'compare') element.setAttribute('aria-pressed', String(tray.has(id)));
      return element;
    }));
    if (focused) actions.querySelector('button, a')?.focus();
  }

  /* Only when they are others, so that a marked text stays marked. */
  let factsDrawn = '';
  function drawFacts(now) {
    const list = details(now), { warnings } = now.video, key = list.textContent + JSON.stringify(warnings);
    if (key === factsDrawn) return;
    factsDrawn = key;
    facts2.replaceChildren(list);
    notes.replaceChildren(...(warnings || []).map(note => make('li', { textContent: note })));
    notes.hidden = !warnings?.length;
  }

  function copyMenu() {
    const menu = make('details', { className: 'menu' }, make('summary', { className: 'button', textContent: t('copy') }),
      make('div', {}, ...Object.keys(acts.copyAs).map(name => button(t(`copy${name[0].toUpperCase()}${name.slice(1)}`), () => {
        menu.open = false;
        menu.firstChild.focus();
        acts.copyAs[name](film());
      }))));
    menu.addEventListener('focusout', event => { if (!menu.contains(event.relatedTarget)) menu.open = false; });
    menu.addEventListener('keydown', event => { if (event.key === 'Escape') { menu.open = false; menu.firstChild.focus(); } });
    return menu;
  }

  function draw() {
    const now = film();
    if (!now) return;
    const { video } = now;
    page.hidden = false;
    missing.hidden = true;
    document.title = `${isolated(video.prompt.slice(0, 60))} · Longreel`;
    say(back.lastChild, t('back'));
    say(prompt, video.prompt);
    prompt.classList.toggle('long', video.prompt.length > 140);
    const isLong = video.prompt.length > SHOWN_CHARS;
    prompt.classList.toggle('folded', isLong && !isWhole);
    whole.hidden = !isLong;
    whole.textContent = t(isWhole ? 'lessPrompt' : 'wholePrompt');
    whole.setAttribute('aria-expanded', String(isWhole));
    say(badge, stateOf(now));
    badge.dataset.tone = toneOf(now);
    say(facts, progressOf(now));
    progress.hidden = isFinal(video);
    progress.value = fraction(now);
    progress.setAttribute('aria-label', t('progress'));
    const failed = video.state === 'failed' && video.error;
    error.hidden = !failed;
    if (failed) {
      const box = make('div', {}, make('strong', { textContent: t('failed') }), ...detailOf(told({ code: video.error.code }, video.error.message)),
        make('p', { className: 'fine', textContent: t('code', video.error.code) }));
      error.replaceChildren(...box.childNodes);
    }
    drawActions();
    say(detailsTitle, t('details'));
    drawFacts(now);
    screen.draw(now);
    if (now.changes !== changes) {
      changes = now.changes;
      readSegments();
      if (video.segments_done) screen.update();
    }
  }

  function gone() {
    page.hidden = true;
    missing.hidden = false;
    missing.replaceChildren(make('h2', { textContent: t('gone') }), make('a', { className: 'button', href: '#/films', textContent: t('back') }));
  }

  async function begin() {
    try {
      if (!await fetchFilm(id)) return gone();
      open(id);
      draw();
    } catch (problem) {
      missing.hidden = false;
      missing.replaceChildren(problemBox(problem, () => begin()));
    }
  }
  const onFilm = event => { if (event.detail === id) draw(); };
  const onGone = event => { if (event.detail === id) gone(); };
  const onConnection = () => screen.draw(film());
  const onTray = () => { if (film()) drawActions(); };
  const tick = setInterval(() => { if (film()) say(facts, progressOf(film())); }, 1000);
  news.addEventListener('film', onFilm);
  news.addEventListener('removed', onGone);
  tray.onChange(onTray);
  service.addEventListener('connection', onConnection);
  begin();
  return {
    draw: () => { drawn = factsDrawn = ''; draw(); drawSegments(); },
    close() {
      clearInterval(tick);
      news.removeEventListener('film', onFilm);
      news.removeEventListener('removed', onGone);
      tray.offChange(onTray);
      service.removeEventListener('connection', onConnection);
      screen.close();
      open(null);
    },
  };
}
