/* What can be done with a film. Each asks where something would be lost, and says when it did not work. */
import { call, video as at } from './api.js';
import { ask, copy, field, toastProblem } from './dialogs.js';
import { make } from './dom.js';
import { essentials, curl, python } from './exports.js';
import { added, fetchFilm, forget, isFinal, put } from './films.js';
import { fill } from './compose.js';
import { defaultsOf, factsOf } from './models.js';
import { isKeyed } from './session.js';
import { t } from './text.js';

const area = value => make('textarea', { name: 'prompt', rows: 4, value, maxLength: 20000, dir: 'auto' });

async function order(film, name) {
  try { put(await call('POST', `${at(film.video.id)}/${name}`)); } catch (error) {
    toastProblem(error);
    // What is shown was old.
    fetchFilm(film.video.id).catch(() => {});
  }
}

/** `act`, after which a film that was not there any more is not shown any more either. */
const upon = (film, act) => async data => {
  try { return await act(data); } catch (error) {
    if (error.status === 404) fetchFilm(film.video.id).catch(() => {});
    throw error;
  }
};

export const pause = film => order(film, 'pause');
export const resume = film => order(film, 'resume');

export async function cancel(film) {
  // What nobody has begun is not worth a question.
  if (!film.video.segments_done && film.video.state === 'queued') return order(film, 'cancel');
  return ask({ title: t('cancelTitle'), text: t('cancelText'), yes: t('cancelYes'), no: t('keepMaking'), isBad: true,
    act: upon(film, async () => { put(await call('POST', `${at(film.video.id)}/cancel`)); }) });
}

/** True when it is gone. */
export const remove = film => ask({ title: t('deleteTitle'), text: t('deleteText'), content: [make('p', { className: 'caption', dir: 'auto', textContent: film.video.prompt })], yes: t('delete'), isBad: true,
  act: upon(film, async () => {
    await call('DELETE', at(film.video.id));
    forget(film.video.id);
    return true;
  }) });

/** Asks for a film that comes from another one, and opens it. */
async function derive(film, address, dialog, open) {
  const made = await ask({ ...dialog, act: upon(film, data => call('POST', `${at(film.video.id)}/${address}`, dialog.body(data))) });
  if (made?.id) { added(made); open(made.id); }
}

export const remix = (film, open) => derive(film, 'remix', {
  title: t('remixTitle'), text: t('remixText'), yes: t('remixYes'), content: [field(t('prompt'), area(film.video.prompt))],
  body: data => ({ prompt: data.get('prompt') }),
}, open);

/** `prompt` is what the film shows at its end. */
export const extend = (film, prompt, open) => derive(film, 'extend', {
  title: t('extendTitle'), text: t('extendText'), yes: t('extendYes'),
  content: [field(t('extendBy'), make('input', { name: 'seconds', type: 'text', inputMode: 'decimal', value: '5' })),
    field(t('extendPrompt'), area(prompt))],
  body: data => ({ seconds: data.get('seconds').trim(), prompt: data.get('prompt') }),
}, open);

export const branch = (film, segment, open) => derive(film, 'branch', {
  title: t('branchTitle', segment.segment + 1), text: t('branchText', segment.segment + 1), yes: t('branchYes'),
  content: [field(t('prompt'), area(segment.prompt || film.video.prompt)),
    field(t('seed'), make('input', { name: 'seed', type: 'text', inputMode: 'numeric', value: '', placeholder: String(film.video.seed) }))],
  body: data => ({ segment: segment.segment, prompt: data.get('prompt'), ...(data.get('seed').trim() ? { seed: data.get('seed').trim() } : {}) }),
}, open);

export const steer = (film, segment) => ask({
  title: t('steerTitle', segment.segment + 1), text: t('steerText'), yes: t('steerYes'), content: [field(t('prompt'), area(segment.prompt || film.video.prompt))],
  act: upon(film, async data => { put(await call('POST', `${at(film.video.id)}/steer`, { prompt: data.get('prompt'), from_segment: segment.segment })); }),
});

/* What stands where nothing is asked for of a film's own model; of one that is served no longer nobody knows. */
const ownOf = ({ model }) => (factsOf(model).id ? defaultsOf(model) : null);

/** Puts a film's settings into the form. */
export function again(film) {
  fill({ ...essentials(film.video, ownOf(film.video)), model: film.video.model });
  document.getElementById('prompt').focus();
}

export const copyAs = {
  command: ({ video }) => copy(video.command || ''),
  curl: ({ video }) => copy(curl(video, ownOf(video), isKeyed())),
  python: ({ video }) => copy(python(video, ownOf(video), isKeyed())),
};

/** What can be done with a film in its state; what matters most comes first. */
export function offered({ video }) {
  if (!isFinal(video)) {
    if (video.stopping === 'cancel') return [];
    if (video.paused || video.stopping === 'pause') return ['resume', 'copy', 'cancel'];
    return ['pause', 'copy', 'cancel'];
  }
  if (video.state === 'completed') return ['download', 'extend', 'remix', 'compare', 'again', 'copy', 'delete'];
  // What was made of it plays, and is kept as a file.
  return [...(video.segments_done ? ['download'] : []), 'again', 'copy', 'delete'];
}
