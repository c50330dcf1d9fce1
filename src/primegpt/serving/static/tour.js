// A guided tour through the views, on the reader's own model: it can be left at any step, and is remembered as done.

import { $, h } from "./dom.js";
import { emit, state } from "./state.js";
import { store, stored } from "./stored.js";

const KEY = "primegpt tour"; // the step to go on at, or "done"
const STEPS = [
  {
    view: "write",
    at: "#prompt-form",
    title: "Let it write",
    text: "Type how a text should begin, or take one of its own beginnings, and press Write. If nothing is written yet, Next does it for you.",
    then: written,
  },
  {
    view: "write",
    at: '[aria-label="Sampling"] .card',
    title: "One token at a time",
    text: "A text is made by one question, asked again and again: what comes next? These are the likeliest answers after the last token. Move the temperature below, and see what the draw makes of them.",
  },
  {
    view: "look",
    at: "#alternatives",
    title: "Why was this token chosen?",
    text: "The stronger a token is tinted, the less the model expected it. Choose one: the table shows what else could have stood there, with what probability, and what the rules left of it. A choice is a draw from the last column. Choose another, and the text branches.",
  },
  {
    view: "inside",
    at: "#station-tokens",
    title: "Inside: from a token to the next",
    text: "Choose a token in the text above. Below it is the way from there to the guess that follows: first the token is a number, then a row of numbers.",
  },
  {
    view: "inside",
    at: "#station-attention",
    title: "Which earlier tokens did it look at?",
    text: "Each head takes from some of the tokens before. Choose one: its shares are listed, and tinted on the text. Other blocks have other heads.",
  },
  {
    view: "inside",
    at: "#station-residual",
    title: "How did the guess form?",
    text: "Read down: what the model would have said after each block, and what each added to the guess that you follow. The shares add up to its logit.",
  },
  {
    view: "inside",
    at: "#station-chances",
    title: "From logits to a choice",
    text: "The logits become probabilities, temperature and rules change them, and one token is drawn. That is the whole way; each card links to its lesson.",
  },
  {
    view: "training",
    at: "#lives",
    title: "What could it do early on?",
    text: "Each checkpoint writes to the same prompt. Move the slider to about step 50, and to the first: noise, then letters and words, then lines. Play its life shows all of them.",
  },
];

let at = 0;
let guide = null;
let outlined = null;
let turn = 0; // a step that is waited for is not opened when the tour was left meanwhile

export function startTour() {
  fresh();
  $("tour").addEventListener("click", () => (guide ? leave() : go(resume())));
  addEventListener("keydown", (event) => event.key === "Escape" && guide && leave());
}

const remembered = () => stored(KEY);
const resume = () => Math.min(Number(remembered()) || 0, STEPS.length - 1);

function fresh() {
  const done = remembered() === "done";
  $("tour").classList.toggle("fresh", !done);
  $("tour").setAttribute("aria-label", done ? "Guided tour, done" : "Guided tour");
}

async function go(to) {
  const mine = ++turn;
  for (const button of guide?.querySelectorAll(".primary") ?? []) button.disabled = true;
  await STEPS[at].then?.(to > at);
  if (mine !== turn) return;
  at = to;
  const step = STEPS[at];
  store(KEY, at);
  emit("go", step.view);
  guide?.remove();
  guide = card(step);
  document.body.append(guide);
  outlined?.classList.remove("toured");
  outlined = document.querySelector(step.at);
  outlined?.classList.add("toured");
  outlined?.scrollIntoView({ block: step.view === "inside" ? "start" : "center" });
  guide.querySelector("h2").focus({ preventScroll: true });
}

function card({ title, text }) {
  const last = at === STEPS.length - 1;
  const back = h("button", { type: "button", class: "quiet", onclick: () => go(at - 1) }, "Back");
  const on = h("button", { type: "button", class: "primary", onclick: () => (last ? finish() : go(at + 1)) }, last ? "Done" : "Next");
  const out = h("button", { type: "button", class: "quiet", onclick: leave }, "Leave");
  const name = h("h2", { tabindex: -1, id: "guide-title" }, title, h("small", {}, `${at + 1} of ${STEPS.length}`));
  const buttons = h("div", { class: "row" }, on, at ? back : null, h("span", { class: "spring" }), last ? null : out);
  return h("section", { class: "guide", role: "dialog", "aria-labelledby": "guide-title" }, name, h("p", {}, text), buttons);
}

function finish() {
  store(KEY, "done");
  leave();
}

function leave() {
  turn++;
  guide?.remove();
  outlined?.classList.remove("toured");
  guide = outlined = null;
  fresh();
  $("tour").focus();
}

// There is a text to look at before the tour goes on.
async function written(onward) {
  if (!onward || state.tree.root.children.length) return;
  const example = $("prompt").value ? null : $("examples").querySelector("button");
  (example ?? $("write")).click();
  const ready = () => state.tree.root.children.length > 0 && !$("write").classList.contains("stop");
  const failed = () => $("status").classList.contains("bad");
  while (!ready() && !failed()) await new Promise((done) => setTimeout(done, 100));
}
