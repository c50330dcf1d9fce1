// Texts that were written stay in this browser: over a reload, another prompt, another run. And every step back.
// Tabs share them: what another has kept is read again before anything is written over it.

import { $, count, h } from "./dom.js";
import { emit, model, on, state } from "./state.js";
import { drop, store, stored } from "./stored.js";
import { Tree } from "./tree.js";

const KEY = "primegpt texts";
const MOST = 40;
const STEPS_BACK = 200;
const ROOM = 4e6; // characters; a browser gives a page about 5 MB

let texts = read(); // packed trees, the one last worked on first
let last = ""; // what this tab kept last: where nothing has changed it writes nothing
const undone = []; // where the text was before each choice: { tree, leaf, fingerprint }

export function startKept() {
  on("text", keep);
  addEventListener("pagehide", keep);
  addEventListener("storage", ({ key, newValue }) => key === KEY && newValue === null && empty()); // in another tab
  $("undo").addEventListener("click", back);
  $("forget").addEventListener("click", forget);
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || typing) return;
    event.preventDefault();
    back();
  });
}

// Before anything that leads the text elsewhere.
export function remember() {
  undone.push({ tree: state.tree, leaf: state.tree.leaf, fingerprint: model().fingerprint });
  if (undone.length > STEPS_BACK) undone.shift();
}

// The text that was last worked on in this vocabulary, or none.
export function recall() {
  const found = texts.find((text) => spelt(text.about));
  return found ? Tree.unpack(found) : new Tree();
}

export function keep() {
  const { tree } = state;
  const { about } = tree;
  texts = merged(texts, read());
  if (about && tree.root.children.length && print(tree.pack()) !== last) {
    const known = texts.find((text) => text.about.id === about.id);
    if (known) tree.graft(known); // another tab may have written branches of the same text
    about.when = Date.now();
    const packed = tree.pack();
    texts = merged([packed], texts);
    write();
    last = print(packed);
  }
  show();
}

const print = ({ about, nodes, leaf }) => JSON.stringify([about.id, nodes, leaf]);

// Of each text the newest, of two as new the first.
function merged(...lists) {
  const newest = new Map();
  for (const text of lists.flat()) {
    const { id, when } = text.about;
    if (!(newest.get(id)?.about.when >= when)) newest.set(id, text);
  }
  return [...newest.values()].sort((one, other) => other.about.when - one.about.when).slice(0, MOST);
}

// Ids mean something in the vocabulary they were written in only.
const spelt = ({ fingerprint }) => fingerprint === model().fingerprint;

function back() {
  emit("halt");
  const at = undone.findLastIndex(spelt);
  if (at < 0) return;
  const [{ tree, leaf }] = undone.splice(at, 1);
  if (tree !== state.tree && tree.about) emit("reopened", tree.about);
  state.tree = tree;
  tree.go(leaf, leaf);
  emit("text");
}

function open(text) {
  if (state.tree.about?.id === text.about.id) return;
  emit("halt");
  keep();
  remember();
  state.tree = Tree.unpack(text);
  emit("reopened", text.about);
  emit("text");
}

function forget() {
  if (!confirm("Forget all texts that this browser has kept, but for the one that is shown?")) return;
  drop(KEY);
  empty();
  last = "";
  keep();
}

function empty() {
  texts = [];
  undone.length = 0;
  show();
}

function show() {
  $("undo").disabled = !undone.some(spelt);
  const own = texts.filter((text) => spelt(text.about));
  $("earlier-card").hidden = own.length < 2;
  $("earlier").replaceChildren(...own.map(entry));
}

function entry(text) {
  const { about, nodes } = text;
  const words = about.prompt.text.replace(/\s+/g, " ").trim().slice(0, 90) || "a new document";
  const size = `${count(nodes.length)} tokens, ${about.run}, ${new Date(about.when).toLocaleString()}`;
  const current = state.tree.about?.id === about.id ? "true" : "false";
  const press = { type: "button", "aria-current": current, onclick: () => open(text) };
  return h("li", {}, h("button", press, h("span", {}, words), h("small", {}, size)));
}

function read() {
  try {
    const found = JSON.parse(stored(KEY));
    return Array.isArray(found) ? found.filter((text) => text?.about?.prompt && Array.isArray(text.nodes)) : [];
  } catch {
    return [];
  }
}

// The oldest texts make room, and one that is too large alone. Where nothing fits, what is stored stays.
function write() {
  const packed = texts.map((text) => JSON.stringify(text));
  for (let room = ROOM; room > 1; room /= 2) {
    let left = room;
    const fitting = packed.filter((text) => text.length < left && (left -= text.length));
    if (!fitting.length) return;
    if (store(KEY, `[${fitting}]`)) return; // else this browser gives less
  }
}
