// What all views share: the runs, the checkpoint that is asked, the text, the settings; and who wants to know of it.

import { get } from "./api.js";
import { keep, recall } from "./kept.js";
import { Tree } from "./tree.js";
import { Vocabulary } from "./vocabulary.js";

export const state = { runs: [], run: 0, step: null, tree: new Tree(), settings: {}, vocabulary: null, view: "write" };
state.beside = undefined; // the number of the run beside it; null for none, undefined as long as nobody has chosen

const listeners = new Map();

export function on(names, listener) {
  for (const name of names.split(" ")) listeners.set(name, [...(listeners.get(name) ?? []), listener]);
}

export function emit(name, value) {
  for (const listener of listeners.get(name) ?? []) listener(value);
}

const vocabularies = new Map();

export async function vocabularyOf(run) {
  const { fingerprint, special } = state.runs[run];
  if (!vocabularies.has(fingerprint)) {
    const asking = get(`play/runs/${run}/vocabulary`).then((texts) => new Vocabulary(texts, special));
    asking.catch(() => vocabularies.delete(fingerprint));
    vocabularies.set(fingerprint, asking);
  }
  return vocabularies.get(fingerprint);
}

// The checkpoint to ask first; that of a run that trains may be gone by now.
export const stepOf = ({ step, best, steps }) => [step, best].find((one) => steps.includes(one)) ?? steps.at(-1);

// Another model: a text can stay when it is spelt with the same ids. False where a later choice has overtaken it.
export const open = latest(async (current, run, step) => {
  const vocabulary = await vocabularyOf(run);
  if (!current()) return false;
  const same = state.vocabulary && state.runs[run].fingerprint === model().fingerprint;
  if (state.vocabulary && !same) {
    emit("halt");
    keep(); // as far as it is written
  }
  Object.assign(state, { run, step, vocabulary });
  if (!same) state.tree = recall();
  else for (const node of state.tree.path()) node.logprob = node.rank = null;
  emit("model", same);
  emit("text");
  return true;
});

export const model = () => state.runs[state.run];
export const asked = (more = {}) => ({ run: state.run, step: state.step, ...more });

// The start of every view, so that no answer of an earlier question, or in another vocabulary's ids, is shown behind
// a later one. An error of the newest is told to `failed`, where there is one.
export function latest(work, failed) {
  let newest = 0;
  return async (...values) => {
    const mine = ++newest;
    const { vocabulary } = state;
    const current = () => mine === newest && vocabulary === state.vocabulary;
    try {
      return await work(current, ...values);
    } catch (error) {
      if (!failed) throw error;
      if (current()) failed(error);
    }
  };
}
