/* All films: those in the making, the gallery, search, and what to do when there are none. */
import { file, video as at } from './api.js';
import * as compare from './tray.js';
import { suggest } from './compose.js';
import { toastProblem } from './dialogs.js';
import { ago, button, icon, isolated, make, say, settled } from './dom.js';
import { choose, films, fraction, isFinal, list, more, news, queue } from './films.js';
import { models } from './models.js';
import { t } from './text.js';
import { factsOf, progressOf, stateOf, toneOf } from './words.js';

const SEARCH_MS = 300;
const STATES = [['', 'all'], ['completed', 'stateCompleted'], ['running', 'stateRunning'], ['queued', 'stateQueued'],
  ['failed', 'stateFailed'], ['cancelled', 'stateCancelled']];

/** The picture of a film as it is now: its thumbnail, else the latest frame. */
export function posterOf({ video, preview }) {
  if (video.state === 'completed') return `${at(video.id)}/content?variant=thumbnail`;
  if (preview) return `${file(video.id, preview.artifact)}?${preview.version}`;
  const names = (video.artifacts || []).map(artifact => artifact.name).filter(name => name.startsWith('preview-')).sort();
  return names.length ? file(video.id, names[names.length - 1]) : null;
}

/** One film in the gallery or the queue. Keeps its elements, so that focus and pictures stay. */
function card(id, isRow) {
  const image = make('img', { alt: '', loading: 'lazy', decoding: 'async', hidden: true });
  image.onerror = () => { image.hidden = true; };
  const length = make('span', { className: 'length' });
  const prompt = make('a', { className: 'card-link', href: `#/film/${id}`, dir: 'auto' });
  const badge = make('span', { className: 'badge' }), facts = make('span', { className: 'fine' });
  const progress = make('progress', { max: 1 }), left = make('span', { className: 'fine' });
  const pick = make('input', { type: 'checkbox' });
  pick.onchange = () => compare.toggle(id);
  const pickText = make('span', { className: 'visually-hidden' });
  const pickBox = make('label', { className: 'pick' }, pick, pickText);
  const item = make('li', { className: isRow ? 'card row' : 'card', dataset: { id } },
    make('div', { className: 'poster' }, icon('film'), image, length),
    make('div', { className: 'card-body' }, prompt, make('div', { className: 'card-facts' }, badge, facts),
      make('div', { className: 'card-progress' }, progress, left)), pickBox);
  function draw() {
    const film = films.get(id);
    if (!film) return;
    const { video } = film, poster = posterOf(film), isDone = isFinal(video);
    if (poster && image.getAttribute('src') !== poster) { image.src = poster; image.hidden = false; }
    say(prompt, video.prompt);
    prompt.title = video.prompt;
    say(badge, stateOf(film));
    badge.dataset.tone = toneOf(film);
    badge.hidden = video.state === 'completed';
    say(length, !isRow && video.seconds && (!isDone || video.state === 'completed') ? t('lengthOf', Number(video.seconds).toFixed(1)) : '');
    say(facts, isDone ? [video.model, ago(video.timings.created_ms)].join(' · ') : factsOf(film));
    progress.hidden = isDone || (video.state === 'queued' && !video.segments_done);
    progress.value = fraction(film);
    progress.setAttribute('aria-label', t('progress'));
    say(left, isDone ? '' : progressOf(film));
    pickBox.hidden = video.state !== 'completed';
    pick.checked = compare.has(id);
    say(pickText, `${t('compare')}: ${isolated(video.prompt.slice(0, 60))}`);
    pickBox.title = t('compare');
  }
  draw();
  return { item, draw };
}

/** Puts `ids` into `container` in order, with as few moves as it takes. */
function arrange(container, cards, ids, isRow) {
  for (const id of [...cards.keys()]) if (!ids.includes(id)) { cards.get(id).item.remove(); cards.delete(id); }
  let place = container.firstElementChild;
  for (const id of ids) {
    if (!cards.has(id)) cards.set(id, card(id, isRow));
    const { item, draw } = cards.get(id);
    draw();
    if (item === place) place = place.nextElementSibling;
    else container.insertBefore(item, place);
  }
}

function emptyState() {
  const examples = models.served === 'demo' ? t('examplesDemo') : t('examplesReal');
  return make('div', { className: 'empty' }, make('h2', { textContent: t('emptyTitle') }),
    make('ol', {}, ...t('emptySteps').map(step => make('li', { textContent: step }))),
    make('p', { className: 'hint', textContent: t('emptyLead') }),
    make('div', { className: 'examples' }, ...examples.map(example => button(example, () => suggest(example)))));
}

/** Shows the library in `main`; the function that takes it away. */
export function show(main) {
  const making = make('ul', { className: 'rows' }), gallery = make('ul', { className: 'gallery' });
  const heading = make('h1', { className: 'visually-hidden' }), makingTitle = make('h2'), title = make('h2');
  const search = make('input', { type: 'search', id: 'search', value: list.text, 'aria-keyshortcuts': '/' });
  const filter = make('select', { id: 'filter' }, ...STATES.map(([state]) => new Option('', state)));
  filter.value = list.state;
  const older = button('', async () => {
    older.disabled = true;
    try { await more(); } catch (error) { toastProblem(error); } finally { older.disabled = false; }
  }, 'quiet wide');
  const nothing = make('div', { className: 'nothing' }), empty = make('div', { hidden: true });
  const queued = make('section', {}, makingTitle, making);
  const tools = make('div', { className: 'tools' }, title, search, filter);
  const found = make('section', {}, tools, gallery, nothing, older);
  main.append(make('div', { className: 'library' }, heading, queued, found, empty));
  const rows = new Map(), cards = new Map();
  const chosen = () => choose(filter.value, search.value.trim()).catch(toastProblem);
  search.oninput = settled(SEARCH_MS, chosen);
  filter.onchange = chosen;
  const clear = button('', () => { search.value = filter.value = ''; chosen(); search.focus(); }, 'quiet');
  nothing.append(make('p', { className: 'hint' }), clear);

  function draw() {
    const open = queue.ids.filter(id => films.has(id) && !isFinal(films.get(id).video));
    // The gallery holds what is finished; with a filter, whatever fits it.
    const isFiltered = Boolean(list.state || list.text);
    const ids = list.ids.filter(id => films.has(id) && (isFiltered || isFinal(films.get(id).video)));
    arrange(making, rows, open, true);
    arrange(gallery, cards, ids, false);
    queued.hidden = !open.length;
    say(makingTitle, `${t('inTheMaking')} (${open.length})`);
    say(heading, t('studio'));
    say(title, t('films'));
    search.placeholder = t('searchHint');
    search.title = t('searchKey');
    search.setAttribute('aria-label', t('search'));
    filter.setAttribute('aria-label', t('filter'));
    [...filter.options].forEach((option, i) => { option.textContent = t(STATES[i][1]); });
    const isEmpty = list.isKnown && !isFiltered && !open.length && !list.ids.length;
    empty.hidden = !isEmpty;
    if (isEmpty) { if (empty.dataset.of !== `${t('emptyTitle')}${models.served}`) { empty.dataset.of = `${t('emptyTitle')}${models.served}`; empty.replaceChildren(emptyState()); } }
    found.hidden = isEmpty || (!isFiltered && !ids.length && !list.hasMore);
    nothing.hidden = !(list.isKnown && isFiltered && !ids.length);
    say(nothing.firstChild, t('nothingFound'));
    say(clear, t('clearSearch'));
    older.hidden = !list.hasMore;
    older.textContent = t('more');
  }
  const drawOne = event => { rows.get(event.detail)?.draw(); cards.get(event.detail)?.draw(); };
  const tick = setInterval(() => { for (const row of rows.values()) row.draw(); }, 1000);
  news.addEventListener('lists', draw);
  news.addEventListener('film', drawOne);
  models.onChange(draw);
  compare.onChange(draw);
  draw();
  return {
    draw,
    close() {
      clearInterval(tick);
      news.removeEventListener('lists', draw);
      news.removeEventListener('film', drawOne);
      models.offChange(draw);
      compare.offChange(draw);
    },
  };
}
