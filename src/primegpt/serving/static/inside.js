// Inside: one chosen token, and the way from it to the next guess, station by station.

import { askOnce, floats } from "./api.js";
import { showBlock, startAttention, weightsAt } from "./attention.js";
import { $, h, ordinal, percent } from "./dom.js";
import { showForming, showLogits, startForming } from "./forming.js";
import { showLens } from "./lens.js";
import { showNear, startNear } from "./near.js";
import { Sheet } from "./sheet.js";
import { asked, emit, latest, model, on, state } from "./state.js";
import { placeOf, showChances, showEmbedding, showTokens } from "./stations.js";

const SHOWN = 256; // as many tokens as the server computes attention maps for
const STATIONS = ["tokens", "embedding", "attention", "mlp", "residual", "logits", "chances"];
const sheet = new Sheet($("inside-sheet"), choose);
let found = null; // what the server said of the place: { flow, logits, ids, next, vocabulary }

export function startInside() {
  startAttention(tint);
  startForming();
  startNear();
  on("text view theme", () => state.view === "inside" && show());
  on("settings", () => found && state.view === "inside" && showChances(found));
  for (const [name, again] of Object.entries({ near: nearby, "lens-card": layers })) {
    $(name).addEventListener("toggle", again);
  }
  $("onward").addEventListener("click", () => {
    if (found?.next) emit("look", found.next);
    else emit("go", "write");
  });
  stations();
}

// The way along the stations, and which of them is in view.
function stations() {
  const links = STATIONS.map((name, at) => {
    const heading = $(`name-${name}`);
    const go = () => {
      heading.focus({ preventScroll: true });
      $(`station-${name}`).scrollIntoView();
    };
    return h("button", { type: "button", onclick: go }, `${at + 1} ${heading.textContent.split(/[,:]/)[0]}`);
  });
  $("stations").replaceChildren(...links);
  const top = document.querySelector(".inside-top");
  const mark = () => {
    if (state.view !== "inside") return;
    document.documentElement.style.setProperty("--top", `${top.offsetHeight + 8}px`);
    const line = top.getBoundingClientRect().bottom + innerHeight / 4;
    const passed = STATIONS.filter((name) => $(`station-${name}`).getBoundingClientRect().top < line);
    links.forEach((link, at) => link.setAttribute("aria-current", at === Math.max(0, passed.length - 1)));
  };
  addEventListener("scroll", mark, { passive: true });
  addEventListener("resize", mark);
  on("view", mark);
}

function show() {
  const path = state.tree.path();
  sheet.show(path.slice(Math.max(0, path.length - Math.min(SHOWN, model().block_size))), state.vocabulary);
  document.querySelector(".flow").inert = !sheet.nodes.length;
  if (!sheet.nodes.length) return tell("Write a text first: what is shown here is the way from its tokens to the next.");
  choose(sheet.nodes.includes(state.tree.chosen) ? state.tree.chosen : sheet.nodes.at(-1));
}

async function choose(node) {
  state.tree.chosen = node;
  const at = sheet.mark(node);
  const flow = document.querySelector(".flow");
  flow.setAttribute("aria-busy", "true");
  showTokens(sheet.nodes, at, choose);
  nearby();
  layers();
  await Promise.all([showBlock({ ids: shownIds(), at, path: state.tree.ids(node) }), follow(node)]);
  if (state.tree.chosen === node) flow.setAttribute("aria-busy", "false");
}

const follow = latest(async (current, node) => {
  const path = state.tree.path();
  const next = path[node.depth] ?? null; // depths count from 1
  const ids = state.tree.ids(node);
  $("onward").textContent = next ? "Open the choice that was made here, in Look" : "Choose what comes next, in Write";
  const question = next ? { ids, came: next.id } : { ids };
  const [flow, { logits }] = await Promise.all([askOnce("flow", asked(question)), askOnce("next", asked({ ids }))]);
  if (!current()) return;
  found = { flow, logits: floats(logits), ids, next, vocabulary: state.vocabulary };
  showEmbedding(found, node);
  showForming(found);
  showLogits(found);
  showChances(found);
  tell(summary(node));
}, failed);

function failed(error) {
  tell(error.message);
}

function summary(node) {
  const { flow, next, logits } = found;
  const name = (id) => `“${state.vocabulary.label(id)}”`;
  const held = (at) => percent(flow.probabilities[at]);
  const start = `After ${name(node.id)}, token ${node.depth}, the model holds ${name(flow.candidates[0])} likeliest: ${held(0)}.`;
  if (!next) return `${start} Nothing has come yet.`;
  const came = flow.candidates.indexOf(next.id);
  const rank = logits.reduce((above, value) => above + (value > logits[next.id]), 1);
  return `${start} ${name(next.id)} came: ${held(came)}, the ${ordinal(rank)} likeliest.`;
}

const shownIds = () => sheet.nodes.map((node) => node.id);
const place = () => sheet.nodes.indexOf(state.tree.chosen);

function nearby() {
  const node = state.tree.chosen;
  if ($("near").open && node) showNear(node.id, placeOf(node) - 1);
}

function layers() {
  if ($("lens-card").open && place() >= 0) showLens(shownIds(), place());
}

// Where the chosen head reads, on the text itself.
function tint() {
  sheet.heat(sheet.nodes.map((node) => Math.sqrt(weightsAt(node.depth) ?? 0)));
}

function tell(text) {
  $("inside-status").textContent = text;
}
