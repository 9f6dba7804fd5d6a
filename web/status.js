/* The service and its models. */
import { isConnected } from './api.js';
import { button, bytes, icon, make, say } from './dom.js';
import { ask, copy, toastProblem } from './dialogs.js';
import { health, news, queue } from './films.js';
import { choose, load, models, serve, stop } from './models.js';
import { isKeyed, isSignedIn, signOut } from './session.js';
import { t } from './text.js';

const AGAIN_MS = 5000;
const WORKERS = { idle: 'workerIdle', working: 'workerWorking', starting: 'workerStarting', down: 'workerDown', waiting: 'workerWaiting' };

/** How the service is, as a word of `text` and as a name for styles. */
export function condition() {
  if (!isConnected()) return ['offlineShort', 'failed'];
  if (!health) return ['starting', 'queued'];
  if (health.workers?.includes('waiting')) return ['noRoom', 'failed'];
  if (health.workers?.includes('working')) return ['working', 'running'];
  if (health.workers?.length && health.workers.every(worker => worker === 'down')) return ['down', 'failed'];
  return health.status === 'healthy' ? ['ready', 'completed'] : ['starting', 'queued'];
}

function list(rows) {
  return make('dl', {}, ...rows.filter(([, value]) => value !== undefined && value !== null && value !== '').map(([name, value]) =>
    make('div', {}, make('dt', { textContent: name }), make('dd', {}, value instanceof Node ? value : String(value)))));
}

/** What is to be typed elsewhere, with a button that copies it. */
const copied = words => make('span', { className: 'copied' }, make('code', { textContent: words }),
  make('button', { type: 'button', className: 'icon-button quiet', 'aria-label': `${t('copyThis')}: ${words}`, title: t('copyThis'), onclick: () => copy(words) }, icon('copy')));

function modelCard(model) {
  const isServed = model.id === models.served, own = isServed ? models.defaults : model.defaults;
  const state = isServed ? 'served' : { installed: 'installed', available: 'available', leaving: 'leaving' }[model.state] || 'servedNow';
  // What leaves makes films still, and so can stay as what is installed can come.
  const canCome = (state === 'installed' || state === 'leaving') && models.canServe && !model.problem;
  const { fits, bytes: memory, on_gpu: onGpu } = model.memory || {}, kind = isServed ? models.kind : model.kind;
  const defaults = own && [own.size?.replace('x', ' × '), own.num_frames && own.fps && t('lengthOf', (own.num_frames / own.fps).toFixed(1)),
    own.fps && t('fpsOf', own.fps), own.steps && `${t('steps')} ${own.steps}`].filter(Boolean).join(' · ');
  const use = button(t('useModel'), () => choose(model.id).catch(toastProblem));
  use.hidden = isServed || (state !== 'servedNow' && !canCome);
  const start = button(t('serve'), () => serve(model.id).catch(toastProblem));
  start.hidden = !canCome;
  const end = button(t('stopServing'), () => ask({ title: t('stopServingTitle', model.id), text: t('stopServingText'), yes: t('stopServing'), isBad: true, act: () => stop(model.id) }));
  end.hidden = state !== 'servedNow' || !models.canStop;
  return make('li', { className: 'model' }, make('h3', { textContent: model.id }), make('span', { className: 'badge', dataset: { tone: isServed ? 'completed' : 'queued' }, textContent: t(state) }),
    list([[t('kind'), kind && t('kindOf', kind)], [t('defaults'), defaults], [t('revision'), (isServed ? models.revision : model.revision)?.slice(0, 12)],
      [t('loaded'), model.workers], [t('modelProblem'), model.problem], [t('pull'), model.pull && copied(model.pull)],
      [t(onGpu ? 'gpuMemory' : 'memory'), memory && [bytes(memory), typeof fits !== 'boolean' ? '' : t(fits ? 'fits' : 'fitsNot')].filter(Boolean).join(' · ')]]), start, use, end);
}

export function show(main) {
  const title = make('h1'), modelsTitle = make('h2');
  const facts = make('div', { className: 'details' }), all = make('ul', { className: 'models' });
  const out = button('', () => signOut().catch(toastProblem));
  main.append(make('div', { className: 'service' }, title, facts, out, modelsTitle, all));
  let drawn = '';
  function draw() {
    const key = JSON.stringify([health, queue.ids.length, isConnected(), models.list, models.installed, models.canServe, models.canStop, t('language'), isSignedIn()]);
    if (drawn === key) return;
    drawn = key;
    say(title, t('serviceTitle'));
    say(modelsTitle, t('models'));
    out.textContent = t('signOut');
    out.hidden = !isKeyed() || !isSignedIn();
    const [word, tone] = condition();
    const workers = (health?.workers || []).map(worker => t(WORKERS[worker] || worker)).join(', ');
    const address = new URL('v1', document.baseURI.split('#')[0]).href;
    facts.replaceChildren(list([[t('state'), make('span', { className: 'badge', dataset: { tone }, textContent: t(word) })], [t('workers'), workers],
      [t('queue'), t('queueOf', Math.max(0, queue.ids.length - (health?.workers || []).filter(worker => worker === 'working').length))], [t('version'), health?.version],
      [t('address'), copied(address)]]));
    all.replaceChildren(...[...models.list, ...models.installed, ...models.available].map(modelCard));
  }
  for (const name of ['health', 'lists']) news.addEventListener(name, draw);
  models.onChange(draw);
  draw();
  // A model that leaves goes by itself, and others may have changed what is served.
  const again = setInterval(() => { if (!document.hidden) load().catch(() => {}); }, AGAIN_MS);
  return {
    draw: () => { drawn = ''; draw(); },
    close() {
      clearInterval(again);
      for (const name of ['health', 'lists']) news.removeEventListener(name, draw);
      models.offChange(draw);
    },
  };
}
