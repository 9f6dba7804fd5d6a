/* The settings of a film beside the first ones: each by the name that a request has for it, as a number or a text,
   a switch, or a choice. What the service takes and the form has no field for is kept beside them. */
import { $, icon, make } from './dom.js';
import { has, t } from './text.js';
import { nameOf } from './words.js';

const UPSCALES = ['2x', '1080p', '2160p'];
/* `own` is the text for what stands where nothing is said; `with` names a setting without which one counts for nothing. */
const SETTINGS = [
  { name: 'negative_prompt', type: 'text', wide: true, own: '' }, { name: 'steps' }, { name: 'guidance_scale' },
  { name: 'guidance_interval', type: 'text' }, { name: 'shift' },
  { name: 'fps' }, { name: 'num_frames' }, { name: 'solver', choices: ['unipc', 'euler'] },
  { name: 'base_num_frames', place: 'long' }, { name: 'overlap_history', place: 'long' }, { name: 'addnoise_condition', place: 'long' },
  { name: 'ar_step', place: 'long' }, { name: 'causal_block_size', place: 'long' },
  { name: 'attention_window', place: 'long', own: 'allOwn' }, { name: 'attention_sink', place: 'long', with: 'attention_window' },
  { name: 'sparse_attention', place: 'speed', own: 'sparseOwn' }, { name: 'sparse_after', place: 'speed', with: 'sparse_attention' },
  { name: 'kv_cache', place: 'speed', choices: ['on', 'off'], own: 'keptOwn' },
  { name: 'easycache', place: 'speed', type: 'checkbox', wide: true },
  { name: 'upscale', choices: UPSCALES, place: 'finish', own: 'upscaleOwn' },
  { name: 'interpolate', choices: ['2', '3', '4'], place: 'finish', own: 'interpolateOwn' },
];
const OWN = 'lengthOwn';
/* What has its place elsewhere in the form. */
const ELSEWHERE = new Set(['prompt', 'prompt_at', 'size', 'seconds', 'seed', 'model', 'enhance_prompt']);

let changed = () => {};
/* Settings without a field, as a request has them. */
let further = {};

/** The field of the setting of that name. */
export const input = name => $(`set-${name}`);
const field = name => document.querySelector(`#ask [data-field="${name}"]`);
const isSwitch = ({ type }) => type === 'checkbox';
const isSet = setting => (isSwitch(setting) ? input(setting.name).checked : input(setting.name).value.trim() !== '');
const counts = setting => !setting.with || input(setting.with).value.trim() !== '';

/** What is asked for in these fields, as a request has it. */
export function asked() {
  const body = { ...further };
  for (const setting of SETTINGS) {
    if ((setting.place === 'finish' && $('finishing').hidden) || !isSet(setting) || !counts(setting)) continue;
    const value = input(setting.name).value.trim();
    // A switch may hold a threshold of its own.
    body[setting.name] = isSwitch(setting) && value === 'on' ? true : value;
  }
  return body;
}

/** Whether the film is another one than the model makes. */
export const isFinished = () => SETTINGS.some(setting => setting.place === 'finish' && isSet(setting));

function put(setting, value) {
  const of = input(setting.name), known = value ?? '';
  if (isSwitch(setting)) {
    of.checked = Boolean(value);
    of.value = value && value !== true ? value : 'on';
    return;
  }
  // A film may have a size that is not among those offered.
  if (of.options && ![...of.options].some(option => option.value === String(known))) of.append(new Option(known, known));
  of.value = known;
}

/** Fills the fields with what `asked` gave; what has no field is kept beside them. */
export function fill(body) {
  for (const setting of SETTINGS) put(setting, body[setting.name]);
  const hasPlace = name => ELSEWHERE.has(name) || SETTINGS.some(setting => setting.name === name);
  further = Object.fromEntries(Object.entries(body).filter(([name]) => !hasPlace(name)));
  drawFurther();
}

/** Sets one of them, and shows where. */
export function take(name, value) {
  const setting = SETTINGS.find(of => of.name === name);
  if (setting) put(setting, value);
  else {
    further[name] = value;
    drawFurther();
  }
  const shown = setting ? input(name) : $('further').lastElementChild.querySelector('button');
  shown.closest('details').open = true;
  shown.focus();
}

/** What the service does by itself, with these settings of the model's own. */
export function drawOwn(defaults) {
  for (const { name } of SETTINGS) {
    const own = defaults?.[name];
    if (own !== undefined && own !== '' && 'placeholder' in input(name)) input(name).placeholder = String(own);
  }
}

/** Shows the fields that count as the others are. */
export function drawCounting() {
  for (const setting of SETTINGS) if (setting.with) field(setting.name).hidden = !counts(setting);
}

function drawFurther() {
  $('further').replaceChildren(...Object.entries(further).map(([name, value]) => {
    const words = value === true ? nameOf(name) : `${nameOf(name)} ${value}`;
    const remove = make('button', { type: 'button', className: 'icon-button', 'aria-label': `${t('remove')}: ${words}`, title: t('remove'), onclick: () => {
      delete further[name];
      drawFurther();
      $('advanced').querySelector('summary').focus();
      changed();
    } }, icon('close'));
    return make('li', { dataset: { field: name } }, make('span', { textContent: words }), remove, make('p', { className: 'field-error', hidden: true }));
  }));
}

/** The fields and their words in the language of the page. */
export function draw() {
  for (const { name, own = OWN } of SETTINGS) {
    const of = input(name);
    document.querySelector(`[for=set-${name}]`).replaceChildren(t(name), ...(has(`${name}Hint`) ? [' ', make('span', { className: 'hint', textContent: t(`${name}Hint`) })] : []));
    if (of.options) for (const option of of.options) option.textContent = option.value ? (has(`${name}_${option.value}`) ? t(`${name}_${option.value}`) : option.value) : t(own);
    else if (own && 'placeholder' in of) of.placeholder = t(own);
  }
  drawFurther();
}

/** Makes the fields; `whenChanged` is called when one of them is taken away. */
export function start(whenChanged) {
  changed = whenChanged;
  for (const { name, type, choices, wide, place = 'settings' } of SETTINGS) {
    const id = `set-${name}`;
    const of = choices ? make('select', { id }, ...['', ...choices].map(choice => new Option(choice, choice)))
      : make('input', { id, type: type || 'text', inputMode: type ? undefined : 'decimal', autocomplete: 'off' });
    const label = make('label', { htmlFor: id });
    $(place).append(make('div', { className: `field${wide ? ' wide' : ''}${type === 'checkbox' ? ' check' : ''}`, dataset: { field: name } },
      ...(type === 'checkbox' ? [of, label] : [label, of]), make('p', { className: 'field-error', hidden: true })));
  }
  draw();
}
