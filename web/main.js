/* The page: which view is shown, and what is around it. */
import { isConnected, service } from './api.js';
import * as compare from './compare.js';
import * as compose from './compose.js';
import { $, make, say } from './dom.js';
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
let view = null;
let hasBegun = false;

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
  if (known !== 'library') scrollTo(0, 0);
  // Whoever uses the keyboard goes on in the new view, not from the top of the page.
  if (document.activeElement === document.body && hasBegun) main.focus({ preventScroll: true });
}

function drawState() {
  const [word, tone] = condition(), element = $('service');
  if (element.dataset.tone !== tone || element.textContent !== t(word)) {
    element.dataset.tone = tone;
    element.replaceChildren(make('span', { className: 'dot' }), make('span', { textContent: t(word) }));
  }
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
onLanguage(() => { view?.draw(); drawState(); tray.draw(); });
service.addEventListener('connection', () => {
  say($('offline'), isConnected() ? '' : t('offline'));
  if (isConnected()) { toast(t('backOnline')); readModels(); }
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
route();
hasBegun = true;
readModels();
startFilms();
