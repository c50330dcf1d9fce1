// Texts that were written stay in this browser: over a reload, another prompt, another run. And every step back.

import { $, count, h } from "./dom.js";
import { emit, model, on, state } from "./state.js";
import { Tree } from "./tree.js";

const KEY = "primegpt texts";
const MOST = 40;
const STEPS_BACK = 200;

let texts = read(); // packed trees, the newest first
const undone = []; // where the text was before each choice: [tree, leaf]

export function startKept() {
  on("text", keep);
  addEventListener("pagehide", keep);
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
  undone.push([state.tree, state.tree.leaf]);
  if (undone.length > STEPS_BACK) undone.shift();
}

// The text that was last worked on in this vocabulary, or none.
export function recall() {
  const found = texts.find((text) => text.about.fingerprint === model().fingerprint);
  return found ? Tree.unpack(found) : new Tree();
}

export function keep() {
  const { tree } = state;
  if (tree.about && tree.root.children.length) {
    texts = [tree.pack(), ...texts.filter((text) => text.about.id !== tree.about.id)].slice(0, MOST);
    store();
  }
  show();
}

function back() {
  emit("halt");
  const [tree, leaf] = undone.pop() ?? [];
  if (!tree) return;
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
  texts = [];
  undone.length = 0;
  keep();
  store();
}

function show() {
  $("undo").disabled = !undone.length;
  const own = texts.filter((text) => text.about.fingerprint === model().fingerprint);
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
    const found = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(found) ? found.filter((text) => text?.about?.prompt && Array.isArray(text.nodes)) : [];
  } catch {
    return [];
  }
}

// A browser gives a page a few MB: the oldest texts make room.
function store() {
  for (let count = texts.length; count >= 0; count--) {
    try {
      return localStorage.setItem(KEY, JSON.stringify(texts.slice(0, count)));
    } catch {
      continue;
    }
  }
}
