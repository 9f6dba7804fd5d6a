/* Questions in the page, notes that pass, and errors shown well. */
import { button, make, $ } from './dom.js';
import { t } from './text.js';
import { problemOf } from './words.js';

const TOAST_MS = 4000;

/** What is told of a problem, and below it what the service says itself where that is more. */
export function detailOf({ detail, more }) {
  return [make('p', { textContent: detail }), more && make('p', { className: 'fine', lang: 'en', textContent: more })];
}

/** A box with title, detail and code of an error. */
export function problemBox(error, retry) {
  const { title, code, request, ...told } = problemOf(error);
  return make('div', { className: 'problem', dataset: { code: error.code } },
    make('strong', { textContent: title }),
    ...detailOf(told),
    code && make('p', { className: 'fine' }, make('span', { textContent: t('code', code) }),
      request && make('span', { textContent: ` · ${t('request', request)}` })),
    retry && button(t('retry'), retry, 'quiet'));
}

export function toast(words) {
  const element = make('div', { className: 'toast', textContent: words });
  $('toasts').append(element);
  setTimeout(() => element.remove(), TOAST_MS);
}

export function toastProblem(error) {
  const box = problemBox(error);
  box.classList.add('toast');
  box.append(button(t('close'), () => box.remove(), 'quiet'));
  $('toasts').append(box);
  setTimeout(() => { if (!box.matches(':hover, :focus-within')) box.remove(); }, 3 * TOAST_MS);
}

/**
 * Asks in a dialog. `content` are elements, `yes` the button's text, `act` is called with the form's data
 * and may refuse by throwing, which is shown in the dialog. Resolves to what `act` gave, or null.
 */
export function ask({ title, text, content = [], yes, no = t('cancelDialog'), isBad = false, mustAnswer = false, act }) {
  const opener = document.activeElement;
  return new Promise(resolve => {
    let result = null;
    const errors = make('div', { role: 'alert' });
    const send = make('button', { type: 'submit', className: isBad ? 'main bad' : 'main', textContent: yes });
    const form = make('form', { method: 'dialog', noValidate: true }, ...content, errors,
      make('div', { className: 'dialog-actions' }, !mustAnswer && no && button(no, () => dialog.close()), send));
    const dialog = make('dialog', { 'aria-labelledby': 'dialog-title', 'aria-describedby': text ? 'dialog-text' : undefined },
      make('h2', { id: 'dialog-title', textContent: title }), text && make('p', { id: 'dialog-text', textContent: text }), form);
    form.onsubmit = async event => {
      event.preventDefault();
      send.disabled = true;
      try {
        result = await act(new FormData(form)) ?? true;
        dialog.close();
      } catch (error) {
        errors.replaceChildren(problemBox(error));
      } finally { send.disabled = false; }
    };
    if (mustAnswer) dialog.oncancel = event => event.preventDefault();
    else dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
    dialog.onclose = () => {
      dialog.remove();
      if (opener?.isConnected) opener.focus();
      resolve(result);
    };
    document.body.append(dialog);
    dialog.showModal();
    // What destroys something is not one careless Enter away.
    const first = isBad ? form.querySelector('.dialog-actions button') : form.querySelector('textarea, input');
    (first || send).focus();
    first?.select?.();
  });
}

let fields = 0;
/** A labelled field for a dialog. */
export function field(label, element, hint) {
  fields += 1;
  element.id = `dialog-field-${fields}`;
  return make('div', { className: 'field' }, make('label', { htmlFor: element.id, textContent: label }), element,
    hint && make('p', { className: 'hint', textContent: hint }));
}

export async function copy(words) {
  try {
    await navigator.clipboard.writeText(words);
    toast(t('copied'));
  } catch {
    // Without a secure context there is no clipboard.
    const shown = make('textarea', { className: 'code', readOnly: true, rows: 8, value: words });
    await ask({ title: t('copy'), text: t('copyFailed'), content: [shown], yes: t('close'), no: '', act: () => true });
  }
}
