/* The language of the page. */
import en from './en.js';
import zh from './zh.js';
import { kept, keep } from './kept.js';

const LANGUAGES = { en, zh };
const TAGS = { en: 'en', zh: 'zh-CN' };
let chosen = kept('language');
if (!(chosen in LANGUAGES)) chosen = (navigator.language || '').startsWith('zh') ? 'zh' : 'en';

export const language = () => chosen;

/** A text of the page; texts with values are functions of them. */
export function t(name, ...values) {
  const text = LANGUAGES[chosen][name];
  return typeof text === 'function' ? text(...values) : text ?? name;
}

/** Whether there is such a text. */
export const has = name => name in LANGUAGES[chosen];

/** Puts the texts into the parts of the document that name them. */
export function translate(root = document) {
  document.documentElement.lang = TAGS[chosen];
  const all = attribute => root.querySelectorAll(`[data-${attribute}]`);
  for (const element of all('text')) element.textContent = t(element.dataset.text);
  for (const element of all('label')) element.setAttribute('aria-label', t(element.dataset.label));
  for (const element of all('title')) element.title = t(element.dataset.title);
  for (const element of all('hint')) element.placeholder = t(element.dataset.hint);
}

const listeners = new Set();
/** Is called when the language has changed. */
export const onLanguage = listener => listeners.add(listener);

export function speak(name) {
  if (!(name in LANGUAGES)) return;
  chosen = name;
  keep('language', name);
  translate();
  for (const listener of listeners) listener();
}
