/* A film that plays while it is being made: the parts of its HLS playlist through a media source, so that every
   finished part can be sought and new ones are appended as they come. */
import { video as at } from './api.js';

/* So much is kept ahead of the place that plays; what is sought later is loaded then. */
const AHEAD_SECONDS = 120;
/* So much is kept behind it when the browser has no more room. */
const BEHIND_SECONDS = 20;
/* Between parts rounding leaves gaps of less than this. */
const GAP_SECONDS = 0.05;

/** A playlist: { init, parts: [{ url, start, end }], isWhole, seconds }. */
export function parsePlaylist(text, base) {
  const playlist = { init: null, parts: [], isWhole: false, seconds: 0 };
  let length = null;
  for (const line of text.split('\n').map(line => line.trim())) {
    if (line.startsWith('#EXTINF:')) length = Number.parseFloat(line.slice(8));
    else if (line.startsWith('#EXT-X-MAP:')) playlist.init = new URL(/URI="([^"]*)"/.exec(line)?.[1] ?? '', base).href;
    else if (line === '#EXT-X-ENDLIST') playlist.isWhole = true;
    else if (line && !line.startsWith('#') && length !== null) {
      playlist.parts.push({ url: new URL(line, base).href, start: playlist.seconds, end: playlist.seconds + length });
      playlist.seconds += length;
      length = null;
    }
  }
  return playlist;
}

/** The codec of an MP4's first bytes, as a media source wants to hear it; null when it is not H.264. */
export function codecOf(init) {
  const bytes = new Uint8Array(init);
  for (let i = 0; i + 8 <= bytes.length; i += 1) {
    if (bytes[i] === 0x61 && bytes[i + 1] === 0x76 && bytes[i + 2] === 0x63 && bytes[i + 3] === 0x43) {
      return `avc1.${[5, 6, 7].map(n => bytes[i + n].toString(16).padStart(2, '0')).join('')}`;
    }
  }
  return null;
}

async function load(url) {
  const response = await fetch(url, { credentials: 'same-origin' });
  if (!response.ok) throw Object.assign(new Error(`${url}: ${response.status}`), { status: response.status });
  return response;
}

/** Plays the film `id` in `element` from its parts. `onState` hears `none`, `playing`, `edge` (waits for the next part), `failed`. */
export class LivePlayer {
  #element; #id; #onState; #source = null; #buffer = null; #url = null; #list = null; #mime = ''; #init = null;
  #isFilling = false; #fillAgain = false; #isClosed = false; #isNative = false; #events = new AbortController(); #isReading = false; #readAgain = false;

  constructor(element, id, onState) {
    this.#element = element;
    this.#id = id;
    this.#onState = onState;
    const on = (name, act) => element.addEventListener(name, act, { signal: this.#events.signal });
    for (const name of ['timeupdate', 'seeking']) on(name, () => this.#fill());
    for (const name of ['timeupdate', 'waiting', 'seeked', 'playing']) on(name, () => this.#tellEdge());
    on('error', () => { if (!this.#isClosed && element.error) this.#onState('failed'); });
  }

  /** Looks whether there are new parts. */
  async update() {
    if (this.#isClosed || this.#isNative) return;
    if (this.#isReading) { this.#readAgain = true; return; }
    this.#isReading = true;
    try {
      do {
        this.#readAgain = false;
        await this.#read();
      } while (this.#readAgain && !this.#isClosed);
    } catch (error) {
      // Without a playlist there is nothing to play yet; the next segment asks again.
      if (!this.#list) this.#onState('none');
      if (![404, 409, undefined].includes(error.status)) console.warn(error);
    } finally { this.#isReading = false; }
  }

  async #read() {
    const address = new URL(`${at(this.#id)}/stream.m3u8`, document.baseURI).href;
    const list = parsePlaylist(await (await load(address)).text(), address);
    if (this.#isClosed || !list.init || !list.parts.length) return;
    const isFirst = !this.#list;
    this.#list = list;
    if (isFirst) await this.#open(address);
    this.#fill();
  }

  async #open(address) {
    const Source = window.ManagedMediaSource || window.MediaSource;
    const init = await (await load(this.#list.init)).arrayBuffer();
    const codec = codecOf(init);
    this.#mime = `video/mp4; codecs="${codec}"`;
    if (this.#isClosed) return;
    if (!Source || !codec || !Source.isTypeSupported(this.#mime)) {
      // The browser's own player reads the playlist, if any does.
      if (!this.#element.canPlayType('application/vnd.apple.mpegurl')) { this.#onState('failed'); return; }
      this.#isNative = true;
      this.#element.src = address;
    } else {
      this.#init = init;
      this.#source = new Source();
      this.#url = URL.createObjectURL(this.#source);
      this.#element.disableRemotePlayback = true;
      this.#element.src = this.#url;
      await new Promise(resolve => { this.#source.addEventListener('sourceopen', resolve, { once: true }); });
      if (this.#isClosed || this.#source.readyState !== 'open') return;
      this.#buffer = this.#source.addSourceBuffer(this.#mime);
      await this.#append(this.#init);
    }
    this.#onState('playing');
    this.#element.play().catch(() => { /* It waits for a click where the browser wants one. */ });
  }

  #settled() {
    return new Promise((resolve, reject) => {
      const done = act => () => { stop.abort(); act(); };
      const stop = new AbortController(), { signal } = stop;
      this.#buffer.addEventListener('updateend', done(resolve), { signal });
      this.#buffer.addEventListener('error', done(() => reject(new Error('not appended'))), { signal });
    });
  }

  async #append(data) {
    const settled = this.#settled();
    this.#buffer.appendBuffer(data);
    await settled;
  }

  /** The next part that should be there and is not. */
  #missing() {
    const now = this.#element.currentTime, { buffered } = this.#buffer;
    const has = time => Array.from(buffered, (_, i) => i).some(i => buffered.start(i) - GAP_SECONDS <= time && time < buffered.end(i) + GAP_SECONDS);
    return this.#list.parts.find(part => part.end > now - GAP_SECONDS && part.start < now + AHEAD_SECONDS && !has((part.start + part.end) / 2));
  }

  async #fill() {
    if (!this.#buffer || this.#isClosed) return;
    if (this.#isFilling) { this.#fillAgain = true; return; }
    this.#isFilling = true;
    try {
      do {
        this.#fillAgain = false;
        for (let part = this.#missing(); part && !this.#isClosed; part = this.#missing()) await this.#take(part);
      } while (this.#fillAgain && !this.#isClosed);
      this.#end();
    } catch (error) {
      // The element is gone, or the network is; the next event tries again.
      if (!this.#isClosed) console.warn(error);
    } finally { this.#isFilling = false; }
  }

  async #take(part) {
    const data = await (await load(part.url)).arrayBuffer();
    if (this.#isClosed || this.#source.readyState === 'closed') return;
    try {
      await this.#append(data);
    } catch (error) {
      if (error.name !== 'QuotaExceededError') throw error;
      await this.#forget();
      await this.#append(data);
    }
    if (!this.#missing()) this.#tellEdge();
  }

  /** Makes room: what is far behind, and far ahead, is loaded again when it is sought. */
  async #forget() {
    const now = this.#element.currentTime;
    for (const [from, to] of [[0, now - BEHIND_SECONDS], [now + AHEAD_SECONDS, Infinity]]) {
      if (to <= from || from >= this.#source.duration) continue;
      const settled = this.#settled();
      this.#buffer.remove(from, to);
      await settled;
    }
  }

  #end() {
    const { readyState } = this.#source;
    if (!this.#list.isWhole || readyState !== 'open' || this.#buffer.updating) return;
    const last = this.#buffer.buffered.length && this.#buffer.buffered.end(this.#buffer.buffered.length - 1);
    if (last > this.#list.seconds - GAP_SECONDS) this.#source.endOfStream();
  }

  #tellEdge() {
    if (!this.#list || this.#isClosed) return;
    const isAtEdge = !this.#list.isWhole && this.#element.currentTime > this.#list.seconds - 0.25;
    this.#onState(isAtEdge ? 'edge' : 'playing');
  }

  get seconds() { return this.#list?.seconds ?? 0; }

  close() {
    this.#isClosed = true;
    this.#events.abort();
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#element.removeAttribute('src');
    this.#element.load();
  }
}
