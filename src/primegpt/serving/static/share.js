// The text leaves the page: copied, saved as a file, or as a link that brings back prompt, settings and seed.

import { $, h } from "./dom.js";
import { model, state } from "./state.js";

const FIELDS = ["text", "genre", "emotion"];

export function startShare(tell) {
  $("copy").addEventListener("click", async () => {
    await copy(words());
    tell("The text is copied.");
  });
  $("save").addEventListener("click", () => {
    const file = URL.createObjectURL(new Blob([words()], { type: "text/plain" }));
    h("a", { href: file, download: `${model().name}-step-${state.step}.txt` }).click();
    setTimeout(() => URL.revokeObjectURL(file), 10_000);
  });
  $("link").addEventListener("click", async () => {
    const { address, whole } = link();
    await copy(address);
    const part = whole ? "" : " up to where a token was chosen by hand or it was written on";
    tell(`A link is copied: it brings back prompt, settings and seed, and so, on this machine, the text${part}.`);
  });
}

// Without special tokens; of a run that answers prompts, its answer alone.
export function words() {
  const answers = model().template !== "text";
  const shown = state.tree.path().filter((node) => !state.vocabulary.special.has(node.id));
  const wanted = answers ? shown.filter((node) => node.by !== "prompt") : shown;
  const text = state.vocabulary.pieces(wanted.map((node) => node.id)).join("");
  return answers ? text.trimStart() : text;
}

// The part after # never reaches a server. A token that opened the page is not in it. It brings back the whole
// text that is shown where all of it was drawn at once.
export function link() {
  const { about, leaf } = state.tree;
  const path = state.tree.path();
  const prompted = path.filter((node) => node.by === "prompt").length;
  const draw = path.findLast((node) => node.draw?.depth === prompted)?.draw;
  const prompt = about?.prompt ?? { text: $("prompt").value };
  const now = { run: model().name, step: state.step, settings: about?.settings ?? state.settings };
  const { run, step, settings } = draw ?? now;
  const values = new URLSearchParams({ run, step });
  for (const name of FIELDS) if (prompt[name]) values.set(name, prompt[name]);
  for (const [name, value] of Object.entries(settings)) {
    values.set(name, name === "stop_strings" ? (value[0] ?? "") : value);
  }
  const address = `${location.origin}${location.pathname}#write&${values}`;
  return { address, whole: path.length === prompted || leaf.draw?.depth === prompted };
}

// What the address says: the view, and, of a link, all else; null for an address without.
export function linked() {
  const [view, ...rest] = location.hash.slice(1).split("&");
  const values = new URLSearchParams(rest.join("&"));
  if (!values.has("run")) return { view, text: null };
  const prompt = Object.fromEntries(FIELDS.map((name) => [name, values.get(name) ?? ""]));
  const settings = {};
  for (const [name, value] of Object.entries(state.settings)) {
    const given = values.get(name);
    if (name === "stop_strings") settings[name] = given ? [given] : [];
    else settings[name] = given !== null && Number.isFinite(Number(given)) ? Number(given) : value;
  }
  return { view, text: { run: values.get("run"), step: values.get("step"), prompt, settings } };
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => byHand(text));
  byHand(text); // not on the machine itself, and without encryption: browsers have nothing else there
}

function byHand(text) {
  const field = h("textarea", { class: "skip" });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
