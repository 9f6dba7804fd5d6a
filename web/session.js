/* The key of a service that wants one. The service keeps it in a cookie that scripts cannot read, since
   pictures, films and event streams cannot carry a header. */
import { call, getIfThere, Problem, service } from './api.js';
import { ask, field } from './dialogs.js';
import { make } from './dom.js';
import { t } from './text.js';

let session = null;
let asking = null;

/** Whether programs need a key too. */
export const isKeyed = () => Boolean(session?.key_needed);
export const isSignedIn = () => Boolean(session?.signed_in);

async function look() {
  session = await getIfThere('v1/session');
  return !session || !session.key_needed || session.signed_in;
}

function askForKey() {
  asking ??= ask({
    title: t('keyTitle'), text: t('keyText'), yes: t('keyYes'), mustAnswer: true,
    content: [field(t('key'), make('input', { name: 'key', type: 'password', autocomplete: 'current-password', required: true, spellcheck: false }))],
    act: async data => {
      try { await call('POST', 'v1/session', { key: data.get('key').trim() }, { once: false }); } catch (error) {
        if (error.status === 401 || error.status === 403) throw new Problem(error.status, { ...error.about, detail: error.detail || t('keyWrong') });
        throw error;
      }
    },
  }).then(async () => {
    asking = null;
    await look();
  });
  return asking;
}

export async function signOut() {
  await call('DELETE', 'v1/session');
  await look();
  return askForKey();
}

/** Resolves when requests are allowed; `onSignedIn` is called after each later sign-in. */
export async function start(onSignedIn) {
  service.addEventListener('key', () => {
    if (!asking) askForKey().then(onSignedIn);
  });
  // Without an answer the page begins all the same and says that it is not connected.
  if (!await look().catch(() => true)) await askForKey();
}
