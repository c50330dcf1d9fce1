// Training: the loss of a run, live while it trains, and the same prompt through its life; two runs side by side.

import { get } from "./api.js";
import { nice, plot } from "./curves.js";
import { $, h } from "./dom.js";
import { Life } from "./life.js";
import { emit, latest, on, state } from "./state.js";

const EVERY = 2000; // milliseconds between looks at a run that trains
const SAME =
  "How surprised the model is by each token, in nats: by text it trains on (thin), and by text it has never seen (dots).";
const DIFFERENT =
  "How many bits the model needs for each byte of text it has never seen: fair to runs whose tokens differ.";
const ROOM = "Steps are spaced so that the first ones, when most is learnt, have room.";
const lives = [];
let timer = null;

export function startTraining() {
  $("beside-label").hidden = state.runs.length < 2;
  $("life-form").addEventListener("submit", (event) => {
    event.preventDefault();
    for (const life of lives) life.forget();
    rewrite();
  });
  $("beside").addEventListener("change", () => rebuild());
  on("model", () => {
    const others = state.runs.filter(({ run }) => run !== state.run);
    $("beside").replaceChildren(
      h("option", { value: "" }, "no other"),
      ...others.map(({ run, name }) => h("option", { value: run }, name)),
    );
    if (others.length) $("beside").value = others[0].run;
    if (state.view === "training") rebuild();
  });
  on("view", () => (state.view === "training" ? rebuild() : clearTimeout(timer)));
  addEventListener("resize", draw);
}

function rebuild() {
  const chosen = [state.run, ...($("beside").value === "" ? [] : [Number($("beside").value)])];
  for (const life of lives.splice(0)) life.end();
  lives.push(...chosen.map((run, at) => new Life(state.runs[run], at ? "other" : "first", draw)));
  $("lives").replaceChildren(...lives.map((life) => life.element));
  draw();
  rewrite();
  watch();
}

const rewrite = () =>
  lives.forEach((life) => life.write({ text: $("life-prompt").value, seed: Number($("life-seed").value) || 0 }));

const watch = latest(async (current) => {
  clearTimeout(timer);
  for (const { run } of lives) {
    const news = await get(`play/runs/${run.run}/progress?after=${run.rows}`).catch(() => null);
    if (!current()) return; // what it has to say, a later look has asked for too
    if (!news) continue;
    run.metrics.push(...news.metrics);
    if (news.steps.length !== run.steps.length && run.run === state.run) setTimeout(() => emit("steps"));
    Object.assign(run, { steps: news.steps, best: news.best, rows: news.rows, training: news.training });
  }
  for (const life of lives) life.refresh();
  $("live").hidden = !lives.some(({ run }) => run.training);
  draw();
  if (state.view === "training" && !$("live").hidden) timer = setTimeout(watch, EVERY);
});

function draw() {
  const points = (run, key) => run.metrics.filter((row) => row[key] != null).map((row) => [row.step, row[key]]);
  const alike = new Set(lives.map(({ run }) => run.fingerprint)).size < 2;
  $("curves-note").textContent = `${alike ? SAME : DIFFERENT} ${ROOM}`;
  const lines = lives.flatMap(({ run, kind, step }) => {
    const val = points(run, alike ? "val/loss" : "val/bits_per_byte");
    const dots = val.map(([at, loss]) => [at, loss, at === step()]);
    const train = alike ? points(run, "train/loss") : [];
    return [
      { kind: `train ${kind}`, points: train },
      { kind: `val ${kind}`, points: val, dots },
    ];
  });
  const all = lines.flatMap((line) => line.points);
  if (!all.length) $("curves-note").textContent = "Nothing was measured of this run: it was not trained here.";
  if (!all.length || state.view !== "training") return;
  const losses = all.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const last = Math.max(1, ...all.map(([step]) => step));
  plot($("curves"), {
    label: `Loss by step: ${lives.map((life) => life.said()).join("; ")}`,
    height: 260,
    x: { min: 0, max: last, bend: (step) => Math.log10(1 + step), ticks: ticks(last) },
    y: { min: low - 0.05 * (high - low), max: high + 0.03 * (high - low), ticks: nice(low, high) },
    lines,
    marks: lives.map((life) => ({ x: life.step(), kind: life.kind })),
    pick: (at, across) => lives[0].near((step) => Math.abs(across(step) - at)),
  });
}

const ticks = (last) => [0, 1, 10, 100, 1000, 1e4, 1e5, 1e6].filter((tick) => tick <= last / 1.8).concat(last);
