/* What the browser keeps for this page. Without storage it holds until the page is left. */
const here = new Map();

export function kept(name) {
  if (here.has(name)) return here.get(name);
  try { return localStorage.getItem(`longreel.${name}`); } catch { return null; }
}

export function keep(name, value) {
  here.set(name, value);
  try { localStorage.setItem(`longreel.${name}`, value); } catch { /* Private windows may have none. */ }
}
