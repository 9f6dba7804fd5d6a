/* The form: what is asked for, the plan of it while it is written, refusals beside their fields. */
import { call, isConnected, Problem, service } from './api.js';
import * as attach from './attach.js';
import { problemBox } from './dialogs.js';
import { $, button, bytes, count, duration, icon, make, say, settled } from './dom.js';
import { added } from './films.js';
import { keep, kept } from './kept.js';
import { defaultsOf, factsOf, models, serve } from './models.js';
import * as settings from './settings.js';
import { onLanguage, t } from './text.js';
import { nameOf, told } from './words.js';

const PLAN_MS = 350;
/* A plan is asked for with each change; files beyond this are not sent along. */
const PLAN_FILES_BYTES = 8e6;
/* From here on the plan says what would take less. */
const LONG_SECONDS = 600;
const LENGTHS = [2, 5, 10, 30];
/* Names in a refusal that have no field of their own. */
const ALIASES = { shift: ['flow_shift'], size: ['width', 'height', 'resolution'], seconds: ['length', 'duration'], files: ['end_image', 'image', 'video', 'input_reference'] };
const SIZES = ['960x544', '544x960', '1280x720', '720x1280'];
const DRAFT = 'draft';

let go = () => {};
/* The model that was chosen, also before it is known which there are. */
let wanted = '';
let isSending = false;
let planning = null;
/* Files that come with the film and the plan of them, or that there is no such address. */
let canPlan = true;

const value = id => $(id).value.trim();

/** What is asked for, as JSON without the files. */
function asked() {
  const body = { prompt: $('prompt').value };
  const later = [...$('later').children].map(row => [row.querySelector('.at').value.trim(), row.querySelector('.what').value.trim()])
    .filter(([, what]) => what);
  if (later.length) body.prompt_at = later.map(([at, what]) => `${/^[\d.]*$/.test(at) ? `${at || '0'}s` : at}:${what}`);
  const size = $('size').value === 'own' ? value('size-own') : $('size').value;
  if (size) body.size = size.replace(/\s/g, '').replace(/[×*]/, 'x');
  if ($('enhance').checked && !$('enhancing').hidden) body.enhance_prompt = true;
  Object.assign(body, settings.asked());
  if (value('seconds')) body.seconds = value('seconds');
  if (value('seed')) body.seed = value('seed');
  const model = value('model');
  // The default may be another one by now than when the page was drawn.
  if (model && models.list.length > 1) body.model = model;
  return body;
}

function withFiles(body, files) {
  if (!files.size) return body;
  const form = new FormData();
  for (const [name, of] of Object.entries(body)) for (const one of [of].flat()) form.append(name, one);
  for (const [name, { file }] of files) form.append(name, file, file.name);
  return form;
}

function unmark() {
  for (const error of document.querySelectorAll('#ask .field-error:not(.kept)')) say(error, '');
  for (const input of document.querySelectorAll('#ask [aria-invalid]')) input.removeAttribute('aria-invalid');
}

/** The field that a refusal is about. */
function fieldOf({ about }) {
  const isIt = ({ dataset: { field } }) => field === about.field || ALIASES[field]?.includes(about.field);
  return about.field && [...document.querySelectorAll('#ask [data-field]')].find(isIt);
}

/** Beside the field where there is one, else above the button. */
function refuse(problem, { quietly = false } = {}) {
  if (problem.name === 'AbortError') return;
  const clients = problem.status === 400 || problem.status === 413 || problem.status === 422;
  const field = clients && problem instanceof Problem ? fieldOf(problem) : null;
  // Nobody is told while they have not begun to write.
  if (quietly && field?.dataset.field === 'prompt' && !value('prompt')) return;
  if (!field) {
    $('problem').replaceChildren(...problemBox(problem).childNodes);
    $('problem').dataset.code = problem.code;
    $('problem').hidden = false;
    return;
  }
  const { detail, more } = told(problem.about, problem.detail), error = field.querySelector('.field-error:not(.kept)');
  say(error, detail);
  if (more) error.append(make('span', { className: 'fine', lang: 'en', textContent: more }));
  const input = field.querySelector('textarea, input:not([hidden])') ?? field.querySelector('select');
  input?.setAttribute('aria-invalid', 'true');
  const folded = field.closest('details');
  if (folded) folded.open = true;
  if (!quietly) input?.focus();
}

const heavy = files => [...files.values()].reduce((sum, { file }) => sum + file.size, 0) > PLAN_FILES_BYTES;

async function plan() {
  planning?.abort();
  // Of one that is about to be served there is no plan yet.
  if (models.installed.some(model => model.id === value('model'))) return;
  const body = asked();
  if (!canPlan) {
    $('plan').hidden = $('plan-notes').hidden = true;
    return;
  }
  const control = planning = new AbortController();
  const files = attach.files(), without = heavy(files);
  try {
    const answer = await call('POST', 'v1/plan', without ? body : withFiles(body, files), { signal: control.signal, once: false });
    unmark();
    $('problem').hidden = true;
    showPlan(answer, without);
  } catch (error) {
    if (error.name === 'AbortError') return;
    $('plan').hidden = $('plan-notes').hidden = true;
    if (error.status === 404 || error.status === 405) {
      canPlan = false;
      return;
    }
    unmark();
    if (error.status === 400 && !without) refuse(error, { quietly: true });
  } finally { if (planning === control) planning = null; }
}

function showPlan(answer, without) {
  const frames = answer.frames ?? answer.num_frames, segments = answer.segments?.length ?? answer.segments;
  const words = [
    answer.film_size && settings.isFinished() && t('planFilm', answer.film_size.replace('x', ' × '), answer.film_fps),
    segments && t('planSegments', count(segments)), frames && t('planFrames', count(frames)),
    answer.expected_seconds && t('planTime', duration(answer.expected_seconds)),
    answer.memory_bytes && t('planMemory', bytes(answer.memory_bytes)), answer.disk_bytes && t('planDisk', bytes(answer.disk_bytes)),
  ].filter(Boolean);
  // A number stays with its unit.
  const facts = words.flatMap((word, i) => [i ? ' · ' : '', make('span', { textContent: word })]);
  if ($('plan').textContent !== words.join(' · ')) $('plan').replaceChildren(...facts);
  $('plan').hidden = !words.length;
  const notes = [...(answer.warnings || []), ...(answer.notes || [])];
  if (without) notes.push(t('planFiles'));
  const savings = answer.expected_seconds > LONG_SECONDS ? answer.savings || [] : [];
  $('plan-notes').replaceChildren(...notes.map(note => make('li', { textContent: note })), ...savings.map(saving));
  $('plan-notes').hidden = !$('plan-notes').children.length;
}

/** A setting with which the film would take less, and a button that takes it. */
function saving({ key, value, expected_seconds: seconds }) {
  const words = [nameOf(key), ...(value === 'true' ? [] : [value])].join(' ');
  const take = button(t('planTake'), () => { settings.take(key, value === 'true' ? true : value); changed(); }, 'link');
  take.setAttribute('aria-label', `${t('planTake')}: ${words}`);
  return make('li', {}, t('planSaving', words, duration(seconds)), ' ', take);
}

const planSoon = settled(PLAN_MS, plan);

function changed() {
  $('problem').hidden = true;
  $('size-own').hidden = $('size').value !== 'own';
  settings.drawCounting();
  drawOffers(value('model'), defaultsOf(value('model'))?.fps);
  for (const chip of $('lengths').children) chip.setAttribute('aria-pressed', String(chip.value === value('seconds')));
  keep(DRAFT, JSON.stringify({ ...(wanted && { model: wanted }), ...asked() }));
  planSoon();
}

async function send(event) {
  event.preventDefault();
  const send = $('make');
  if (isSending) return;
  // The answer to this request is what counts; a plan that comes later must not wipe it away.
  planSoon.cancel();
  planning?.abort();
  unmark();
  $('problem').hidden = true;
  isSending = true;
  // A disabled button would lose the focus.
  send.setAttribute('aria-disabled', 'true');
  send.textContent = t('making');
  try {
    const video = await call('POST', 'v1/videos', withFiles(asked(), attach.files()));
    attach.clear();
    added(video);
    go(video.id);
  } catch (error) { refuse(error); } finally {
    isSending = false;
    send.removeAttribute('aria-disabled');
    send.textContent = t('make');
  }
}

function addPrompt(at = '', what = '') {
  const remove = make('button', { type: 'button', className: 'icon-button', 'aria-label': t('removePrompt'), title: t('removePrompt') }, icon('close'));
  const row = make('li', {},
    make('span', { textContent: t('promptAt') }),
    make('input', { className: 'at', type: 'text', inputMode: 'decimal', value: at, 'aria-label': t('promptAtTime'), placeholder: '0' }),
    make('span', { textContent: t('seconds') }),
    remove, make('textarea', { className: 'what', rows: 2, value: what, dir: 'auto', placeholder: t('promptAtHint'), 'aria-label': t('promptAtHint') }));
  remove.onclick = () => { row.remove(); $('add-prompt').focus(); changed(); };
  $('later').append(row);
  return row;
}

function drawModels() {
  const select = $('model'), was = wanted || select.value;
  const others = models.canServe ? models.installed.filter(model => !model.problem) : [];
  const group = make('optgroup', { label: t('installedGroup') }, ...others.map(model => new Option(model.id, model.id)));
  select.replaceChildren(...models.list.map(model => new Option(model.id, model.id)), ...(others.length ? [group] : []));
  select.value = models.list.some(model => model.id === was) ? was : models.served || '';
  select.disabled = models.list.length + others.length < 2;
  drawSizes();
}

/** One that is only installed has to be served before anything can be asked of it. */
async function modelChosen() {
  const select = $('model'), name = wanted = select.value;
  if (!models.installed.some(model => model.id === name)) return drawSizes();
  select.disabled = true;
  try {
    await serve(name);
    select.value = name;
    drawSizes();
    changed();
  } catch (error) {
    wanted = '';
    drawModels();
    refuse(error);
  }
}

function drawSizes() {
  const defaults = defaultsOf(value('model')), own = defaults?.size, select = $('size'), was = select.value;
  const [width, height] = (own || '').split('x').map(Number);
  const others = Math.min(width, height) < 400 ? [[2, 1], [1, 2]].map(([x, y]) => `${width * x}x${height * y}`) : SIZES;
  const sizes = [...new Set(own && width !== height ? [`${height}x${width}`, ...others] : others)].filter(size => size !== own);
  select.replaceChildren(new Option(own ? own.replace('x', ' × ') : t('lengthOwn'), ''),
    ...sizes.map(size => new Option(size.replace('x', ' × '), size)), new Option(t('sizeOther'), 'own'));
  select.value = [...select.options].some(option => option.value === was) ? was : '';
  settings.drawOwn(defaults);
  drawOffers(value('model'), defaults?.fps);
  if (defaults?.num_frames) $('seconds').placeholder = (defaults.num_frames / defaults.fps).toFixed(1);
}

/** What only some servers can do, with the model of that name. */
function drawOffers(name, modelFps) {
  const { upscaler, enhance_prompt: enhances } = factsOf(name);
  $('enhancing').hidden = !enhances;
  $('finishing').hidden = !upscaler;
  document.querySelector('[for=set-upscale]').replaceChildren(t('upscale'), ' ', make('span', { className: 'hint', textContent: upscaler ? t('upscaleBy', upscaler) : '' }));
  const fps = Number(settings.input('fps').value) || modelFps;
  for (const option of settings.input('interpolate').options) if (option.value) option.textContent = t('interpolateTo', option.value, fps && fps * option.value);
}

/** Fills the form with these parameters, as `asked` gives them. */
export function fill(body) {
  if (body.model) {
    wanted = body.model;
    drawModels();
  }
  $('prompt').value = body.prompt || '';
  $('later').replaceChildren();
  for (const change of [body.prompt_at || []].flat()) {
    const [, at, what] = /^([^:]*):([^]*)$/.exec(change) || [];
    if (what !== undefined) addPrompt(at.replace(/^([\d.]+)s$/, '$1'), what);
  }
  const known = [...$('size').options].some(option => option.value === body.size);
  $('size').value = body.size ? (known ? body.size : 'own') : '';
  $('size-own').value = body.size && !known ? body.size : '';
  settings.fill(body);
  $('enhance').checked = Boolean(body.enhance_prompt);
  $('seconds').value = body.seconds ?? '';
  $('seed').value = body.seed ?? '';
  changed();
}

/** Puts a prompt into the form and the cursor behind it. */
export function suggest(prompt) {
  $('prompt').value = prompt;
  $('prompt').focus();
  $('prompt').setSelectionRange(prompt.length, prompt.length);
  changed();
}

/** `show` is called with the id of a film that was taken in. */
export function start(show) {
  go = show;
  settings.start(changed);
  $('dice').append(icon('dice'));
  $('dice').onclick = () => { $('seed').value = String(crypto.getRandomValues(new Uint32Array(1))[0]); changed(); };
  for (const seconds of LENGTHS) {
    $('lengths').append(make('button', { type: 'button', className: 'chip', value: String(seconds), onclick: () => {
      $('seconds').value = value('seconds') === String(seconds) ? '' : String(seconds);
      settings.input('num_frames').value = '';
      changed();
    } }));
  }
  const lengths = () => { for (const chip of $('lengths').children) chip.textContent = t('lengthOf', chip.value); };
  lengths();
  $('add-prompt').prepend(icon('plus'));
  $('add-prompt').onclick = () => addPrompt().querySelector('.at').focus();
  $('ask').addEventListener('input', changed);
  $('ask').addEventListener('submit', send);
  $('ask').addEventListener('keydown', event => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('ask').requestSubmit();
  });
  service.addEventListener('connection', () => { if (isConnected() && $('problem').dataset.code === 'offline') $('problem').hidden = true; });
  attach.start(changed, words => say($('file-error'), words));
  $('model').addEventListener('change', modelChosen);
  models.onChange(drawModels);
  drawModels();
  onLanguage(() => { settings.draw(); drawModels(); lengths(); changed(); });
  try { fill(JSON.parse(kept(DRAFT)) || {}); } catch { changed(); }
}
