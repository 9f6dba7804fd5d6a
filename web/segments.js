/* The segments of a film, read as far as they may have changed. */
import { get, relative, video as at } from './api.js';

const PAGE = 200;
/* Longer films are shown as far as this; nobody looks through more cards. */
const SHOWN_MAX = 1000;
/* The drift of a segment is told a little after its end. */
const LATE = 2;

export class Segments {
  /** Those known, by number; null before the first answer and where the service does not tell them. */
  list = null;
  #id;

  constructor(id) { this.#id = id; }

  async read() {
    const known = this.list || [];
    const open = known.findIndex(segment => segment.state !== 'done');
    let from = Math.max(0, (open < 0 ? known.length : open) - LATE);
    for (let hasMore = true; hasMore && from < SHOWN_MAX;) {
      const page = await this.#page(from);
      if (!page) return;
      for (const segment of page.data) known[segment.segment] = segment;
      hasMore = Boolean(page.has_more) && page.data.length > 0;
      from = page.data.length ? page.data[page.data.length - 1].segment + 1 : from;
      // What a film that has ended was not to have any more.
      if (!hasMore) known.length = from;
    }
    this.list = known;
  }

  async #page(from) {
    const words = new URLSearchParams({ limit: PAGE, ...(from ? { after: from - 1 } : {}) });
    try { return await get(`${at(this.#id)}/segments?${words}`); } catch (error) {
      if (error.status === 404 || error.status === 405) return null;
      throw error;
    }
  }
}

/** The address of a segment's picture. While it is made the picture changes under one address. */
export function pictureOf(segment, preview) {
  if (!segment.thumbnail) return preview?.segment === segment.segment ? preview.url : null;
  const version = segment.state === 'done' || preview?.segment !== segment.segment ? segment.state : preview.version;
  return `${relative(segment.thumbnail)}?${version}`;
}
