/* The models of the service and what stands where nothing is asked for. */
import { call, get, getIfThere } from './api.js';

const listeners = new Set();

export const models = {
  /** As `GET /v1/models` lists them; of an older service the one that it serves. */
  list: [],
  /** Those on this machine that are not served, those that could be fetched, and whether the former can be served. */
  installed: [],
  available: [],
  canServe: false,
  /** Whether models can be had served no longer. */
  canStop: false,
  /** The name of the one that makes films when none is named. */
  served: null,
  defaults: null,
  kind: '',
  revision: '',
  onChange: listener => listeners.add(listener),
  offChange: listener => listeners.delete(listener),
};

/** What stands where nothing is asked for, of the model of that name. */
export const defaultsOf = name => (name === models.served ? models.defaults : models.list.find(model => model.id === name)?.defaults) || models.defaults;

/** What `GET /v1/models` says of the model of that name. */
export const factsOf = name => models.list.find(model => model.id === name) || {};

/** Makes a model the one of requests that name none. */
export async function choose(name) {
  await call('POST', `v1/models/${encodeURIComponent(name)}/use`);
  await load();
}

/** Has an installed model served from now on. */
export async function serve(name) {
  await call('POST', `v1/models/${encodeURIComponent(name)}/serve`);
  await load();
}

/** Lets no request name a model any more; it makes what it was asked for already. */
export async function stop(name) {
  await call('DELETE', `v1/models/${encodeURIComponent(name)}/serve`);
  await load();
}

export async function load() {
  const [info, all] = await Promise.all([get('models/info'), getIfThere('v1/models')]);
  Object.assign(models, { served: info.model, defaults: info.defaults, kind: info.kind, revision: info.revision });
  Object.assign(models, { installed: all?.installed || [], available: all?.available || [], canServe: Boolean(all?.can_serve), canStop: Boolean(all?.can_stop) });
  models.list = all?.data?.length ? all.data : [{ id: info.model }];
  for (const listener of listeners) listener();
}
