/* The page: which view is shown, and what is around it. */
import { isConnected, service } from './api.js';
import * as compare from './compare.js';
import * as compose from './compose.js';
import { $, say, settled } from './dom.js';
import { toast } from './dialogs.js';
import * as film from './film.js';
import { news, refresh, start as startFilms } from './films.js';
import { keep, kept } from './kept.js';
import * as library from './library.js';
import { load as loadModels } from './models.js';
import * as session from './session.js';
import { condition, show as showService } from './status.js';
import { language, onLanguage, speak, t, translate } from './text.js';
import * as tray from './tray.js';

const MODELS_AGAIN_MS = 3000;
const SCROLLED_MS = 150;
let view = null;
let hasBegun = false;
let filmsLeftAt = 0;

function go(address) {
  if (location.hash === address) route();
  else location.hash = address;
}

/** The address after the # chooses the view, so that a reload and the back button keep it. */
function route() {
  const [name = '', ...rest] = location.hash.replace(/^#\/?/, '').split('/').map(part => { try { return decodeURIComponent(part); } catch { return ''; } });
  const main = $('main');
  view?.close();
  main.replaceChildren();
  const known = name === 'film' && rest[0] ? 'film' : ['compare', 'service'].includes(name) ? name : 'library';
  $('layout').dataset.view = known;
  for (const link of document.querySelectorAll('header nav a')) {
    const isHere = (link.dataset.view === 'service') === (known === 'service');
    if (isHere && known !== 'compare') link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  view = {
    film: () => film.show(main, rest[0], go),
    compare: () => compare.show(main, rest.map(id => (id === '-' ? '' : id)), go),
    service: () => showService(main),
    library: () => library.show(main),
  }[known]();
  tray.draw();
  entitle();
  // An entry of the history comes back as it was left; a link to the films leads to where they were left, and past the form above them.
  const top = main.getBoundingClientRect().top + scrollY - parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop);
  scrollTo(0, history.state?.top ?? (name === 'films' ? Math.max(filmsLeftAt, top) : 0));
  // Whoever uses the keyboard goes on in the new view, not from the top of the page.
  const { activeElement } = document;
  if (hasBegun && (activeElement === document.body || !activeElement.checkVisibility())) main.focus({ preventScroll: true });
}

const TITLES = { service: 'serviceTitle', compare: 'compareTitle' };
/** The window's name; a film gives its own. */
function entitle() {
  const { view: name } = $('layout').dataset;
  if (name !== 'film') document.title = TITLES[name] ? `${t(TITLES[name])} · Longreel` : 'Longreel';
}

function drawState() {
  const [word, tone] = condition();
  $('service').dataset.tone = tone;
  say($('service').lastElementChild, t(word));
  // Read out where it changes; inside the link it would not be one any more.
  say($('condition'), t(word));
}

function theme(name) {
  if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
}

async function readModels() {
  try { await loadModels(); } catch { setTimeout(readModels, MODELS_AGAIN_MS); }
}

translate();
theme(kept('theme'));
$('theme').value = kept('theme') || '';
$('theme').onchange = event => { keep('theme', event.target.value); theme(event.target.value); };
$('language').value = language();
$('language').onchange = event => speak(event.target.value);
$('skip').onclick = event => { event.preventDefault(); $('main').focus(); };
onLanguage(() => { view?.draw(); entitle(); drawState(); tray.draw(); });
service.addEventListener('connection', () => {
  say($('offline'), isConnected() ? '' : t('offline'));
  if (isConnected()) {
    // What was said for want of an answer is over.
    for (const old of document.querySelectorAll('.toast[data-code=offline]')) old.remove();
    toast(t('backOnline'));
    readModels();
  }
  drawState();
});
news.addEventListener('health', drawState);
document.addEventListener('keydown', event => {
  if (event.key === '/' && !event.target.closest('input, textarea, select, dialog') && $('search')) { event.preventDefault(); $('search').focus(); }
});
drawState();
await session.start(() => { readModels(); refresh(); route(); });
compose.start(id => go(`#/film/${id}`));
window.addEventListener('hashchange', route);
history.scrollRestoration = 'manual';
window.addEventListener('scroll', settled(SCROLLED_MS, () => {
  history.replaceState({ top: scrollY }, '');
  if ($('layout').dataset.view === 'library') filmsLeftAt = scrollY;
}));
route();
hasBegun = true;
readModels();
startFilms();
