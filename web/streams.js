/* Event streams of films. A browser keeps six connections to a server, for all its windows together: streams
   that took them all would leave none to ask anything with. */

/* So many for all windows, where they can agree (`navigator.locks` wants a secure context or this machine). */
const PLACES = 3;
/* So many of one window where they cannot. */
const ALONE = 1;

/** By film: { source, leave }. `source` is null until there is a place. */
const held = new Map();

/** Calls `begin` when there is a place, which it gives up when `leave` of what this returns is called. */
function place(begin, onFull) {
  let leave = null, isLeft = false;
  if (!navigator.locks) {
    if ([...held.values()].filter(one => one.source).length < ALONE) begin(); else onFull();
    return () => {};
  }
  const stay = lock => {
    if (!lock || isLeft) return lock && null;
    begin();
    return new Promise(resolve => { leave = resolve; }).then(() => true);
  };
  (async () => {
    for (let n = 0; n < PLACES && !isLeft; n += 1) {
      if (await navigator.locks.request(`longreel.events.${n}`, { ifAvailable: true }, stay)) return;
    }
    if (!isLeft) onFull();
  })().catch(() => onFull());
  return () => { isLeft = true; leave?.(); };
}

export const hears = id => Boolean(held.get(id)?.source);

export function hush(id) {
  const one = held.get(id);
  held.delete(id);
  one?.source?.close();
  one?.leave();
}

/** Listens to `ids` and to no others; those first matter most, and get what places there are. */
export function listenTo(ids, address, hear) {
  for (const [id, { source }] of [...held]) if (!ids.includes(id) || source?.readyState === EventSource.CLOSED) hush(id);
  for (const id of ids) {
    if (held.has(id)) continue;
    const one = { source: null, leave: () => {} };
    held.set(id, one);
    one.leave = place(() => {
      one.source = new EventSource(address(id));
      hear(id, one.source, () => held.get(id) === one);
    }, () => { if (held.get(id) === one) held.delete(id); });
  }
}
