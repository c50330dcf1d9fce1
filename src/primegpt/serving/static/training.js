// Training: the loss of a run, live while it trains, and the same prompt through its life; two runs side by side.

import { get } from "./api.js";
import { other, own } from "./beside.js";
import { nice, plot } from "./curves.js";
import { $, count, h, resized } from "./dom.js";
import { Life, valued } from "./life.js";
import { emit, latest, on, state } from "./state.js";

const EVERY = 2000; // milliseconds between looks at a run that trains
const SAME =
  "How surprised the model is by each token, in nats: by text it trains on (thin), and by text it has never seen (dots).";
const DIFFERENT =
  "How many bits the model needs for each byte of text it has never seen: fair to runs whose tokens differ.";
const lives = [];
let timer = null;

export function startTraining() {
  $("life-form").addEventListener("submit", (event) => {
    event.preventDefault();
    for (const life of lives) life.forget();
    rewrite();
  });
  $("life-prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    $("life-form").requestSubmit();
  });
  $("life-prompt").addEventListener("input", () => {
    $("prompt").value = $("life-prompt").value; // there is one prompt, wherever it is typed
    $("prompt").dispatchEvent(new Event("input"));
  });
  for (const id of ["steps-scale", "loss-scale", "smoothing"]) $(id).addEventListener("input", draw);
  $("follow").addEventListener("change", refresh);
  on("steps", () => state.view === "training" && refresh());
  on("model beside", () => state.view === "training" && rebuild());
  on("view", () => (state.view === "training" ? rebuild() : clearTimeout(timer)));
  resized(draw);
}

function rebuild() {
  $("life-prompt").value = $("prompt").value;
  const chosen = [state.runs[state.run], other()].filter(Boolean);
  for (const life of lives.splice(0)) life.end();
  const stay = () => ($("follow").checked = false);
  lives.push(...chosen.map((run, at) => new Life(run, at ? "other" : "first", draw, stay)));
  const measure = alike() ? "val/loss" : "val/bits_per_byte";
  for (const life of lives) {
    life.measure = { name: measure, unit: alike() ? `nats per ${life.run.unit}` : "bits per byte" };
    life.label();
  }
  $("lives").replaceChildren(...lives.map((life) => life.element));
  $("legend").replaceChildren(...lives.flatMap(({ run }) => (alike() ? ["val", "train"] : ["val"]).map(key(run))));
  draw();
  rewrite();
  watch();
}

const alike = () => new Set(lives.map(({ run }) => run.fingerprint)).size < 2;

const key = (run) => (kind) =>
  h("li", { class: kind, "--own": own(run) }, `${run.name}, ${kind === "val" ? "validation text" : "training batches"}`);

function rewrite() {
  const prompt = { text: $("prompt").value, genre: $("genre").value || null, emotion: $("emotion").value || null };
  for (const life of lives) life.write({ prompt, seed: Number($("life-seed").value) || 0 });
}

const watch = latest(async (current) => {
  clearTimeout(timer);
  for (const { run } of lives) {
    const news = await get(`play/runs/${run.run}/progress?after=${run.rows}`).catch(() => null);
    if (!current()) return; // what it has to say, a later look has asked for too
    if (!news) continue;
    run.metrics.push(...news.metrics);
    if (news.steps.join() !== run.steps.join() && run.run === state.run) setTimeout(() => emit("steps"));
    const { steps, best, rows, training, max_steps } = news;
    Object.assign(run, { steps, best, rows, training, max_steps });
  }
  refresh();
  if (state.view === "training" && !$("live").hidden) timer = setTimeout(watch, EVERY);
});

function refresh() {
  $("live").hidden = $("follow-label").hidden = !lives.some(({ run }) => run.training);
  for (const life of lives) life.refresh($("follow").checked);
  draw();
}

// A running mean of what came before, of which each counts `share` as much as the one after it.
function smoothed(points, share) {
  let [sum, weight] = [0, 0];
  return points.map(([at, value]) => {
    [sum, weight] = [share * sum + value, share * weight + 1];
    return [at, sum / weight];
  });
}

function draw() {
  const points = (run, name) =>
    run.metrics.filter((row) => valued(row, name) != null).map((row) => [row.step, valued(row, name)]);
  $("curves-note").textContent = alike() ? SAME : DIFFERENT;
  $("smoothing-label").hidden = !alike();
  const lines = lives.flatMap((life) => {
    const { run, step, measure } = life;
    const val = points(run, measure.name);
    const dots = val.map(([at, loss]) => [at, loss, at === step()]);
    const train = alike() ? smoothed(points(run, "train/loss"), Number($("smoothing").value)) : [];
    return [
      { kind: "train", own: own(run), name: `${run.name}, training batches`, points: train },
      { kind: "val", own: own(run), name: `${run.name}, validation text`, points: val, dots },
    ];
  });
  const all = lines.flatMap((line) => line.points);
  if (!all.length) {
    $("curves-note").textContent = "Nothing was measured of this run: it was not trained here.";
    $("curves").replaceChildren();
  }
  if (!all.length || state.view !== "training") return;
  const losses = all.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const last = Math.max(1, ...all.map(([step]) => step));
  const logarithmic = $("loss-scale").value === "log" && low > 0;
  const margin = logarithmic ? [low / 1.03, high * 1.03] : [low - 0.05 * (high - low), high + 0.03 * (high - low)];
  const room = $("steps-scale").value === "log";
  plot($("curves"), {
    label: `Loss by step: ${lives.map((life) => life.said()).join("; ")}`,
    height: 280,
    x: { min: 0, max: last, bend: room ? Math.log1p : undefined, ticks: room ? decades(last) : nice(0, last) },
    y: { min: margin[0], max: margin[1], bend: logarithmic ? Math.log : undefined, ticks: nice(low, high) },
    lines,
    marks: lives.map((life) => ({ x: life.step(), own: own(life.run) })),
    pick: (at, across) => lives[0].near((step) => Math.abs(across(step) - at)),
    tell: { x: (step) => `step ${count(step)}`, y: (loss) => loss.toFixed(3), unit: lives[0].measure.unit },
  });
}

const decades = (last) => [0, 1, 10, 100, 1000, 1e4, 1e5, 1e6].filter((tick) => tick <= last / 1.8).concat(last);
