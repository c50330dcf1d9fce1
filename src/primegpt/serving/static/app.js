// The page starts here: runs, views, theme.

import { get, whenRefused } from "./api.js";
import { other, startBeside } from "./beside.js";
import { $, arrows, count, h } from "./dom.js";
import { startInside } from "./inside.js";
import { startLook } from "./look.js";
import { startKept } from "./kept.js";
import { buildSettings } from "./settings.js";
import { linked } from "./share.js";
import { emit, latest, model, on, open, state, stepOf } from "./state.js";
import { store, stored } from "./stored.js";
import { startTraining } from "./training.js";
import { startTour } from "./tour.js";
import { startWrite } from "./write.js";

const VIEWS = ["write", "look", "inside", "training"];
const THEMES = ["auto", "light", "dark"];

async function start() {
  theme(stored("theme") ?? "auto");
  $("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf($("theme").value) + 1) % THEMES.length]));
  for (const name of VIEWS) $(`tab-${name}`).addEventListener("click", () => view(name));
  arrows(
    document.querySelector('[role="tablist"]'),
    () => VIEWS.map((name) => $(`tab-${name}`)),
    (at) => view(VIEWS[at]),
  );
  addEventListener("hashchange", () => follow().catch(failed));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => emit("theme"));
  on("steps", checkpoints);
  whenRefused(recount);
  on("go", view);
  on("look", (node) => {
    state.tree.chosen = node;
    view("look");
  });

  state.runs = await get("play/runs");
  $("run").replaceChildren(...state.runs.map(({ run, name }) => h("option", { value: run }, name)));
  $("run").addEventListener("change", () => choose(Number($("run").value)).catch(failed));
  $("step").addEventListener("change", () => choose(state.run, Number($("step").value)).catch(failed));
  $("onto").addEventListener("click", () => choose(state.run).catch(failed));
  buildSettings($("settings"), state.runs[0].generate);
  startKept();
  startWrite();
  startLook();
  startInside();
  startBeside();
  startTraining();
  startTour();
  if (!linked().text) await choose(0);
  await follow();
}

// The address names a view; of a link, a text's beginning too. A token leaves the address here.
async function follow() {
  const { view: wanted, text } = linked();
  if (text) {
    const found = state.runs.findIndex(({ name }) => name === text.run);
    const run = Math.max(0, found);
    const { name, steps } = state.runs[run];
    const step = found < 0 ? undefined : steps.find((step) => `${step}` === text.step);
    await choose(run, step);
    const missing = found < 0 ? `run ${text.run}` : `step ${text.step} of ${name}`;
    const instead = `${name}, step ${count(state.step)}, which writes another text`;
    const remark = `The link is of ${missing}, which is not here. This is ${instead}.`;
    emit("linked", { ...text, remark: step === undefined ? remark : "" });
  }
  view(VIEWS.includes(wanted) ? wanted : state.view);
}

async function choose(run, step = stepOf(state.runs[run])) {
  if (!(await open(run, step))) return;
  const about = model();
  $("run").value = run;
  $("facts").textContent =
    `${about.name}: ${millions(about.parameters)} parameters in ${about.n_layer} layers of ${about.n_head} heads, ` +
    `${count(about.vocab_size)} tokens, a context of ${count(about.block_size)}.`;
  checkpoints();
}

// A run that trains lets go of checkpoints: who has chosen one of them is told so, and of one that there is.
function checkpoints() {
  const { name, steps, best } = model();
  const gone = !steps.includes(state.step);
  const label = (step) => `${count(step)}${step === best ? ", best" : ""}`;
  const options = steps.map((step) => h("option", { value: step }, label(step)));
  if (gone) options.push(h("option", { value: state.step, disabled: true }, `${count(state.step)}, gone`));
  $("step").replaceChildren(...options);
  $("step").value = state.step;
  $("gone").hidden = !gone;
  $("gone").firstElementChild.textContent = gone ? `Step ${count(state.step)} of ${name} is no longer kept.` : "";
  $("onto").hidden = !steps.length;
  $("onto").textContent = steps.length ? `Go on with step ${label(stepOf(model()))}` : "";
}

// The run beside it may be the one that has let go.
const recount = latest(
  async (current) => {
    for (const run of [model(), other()].filter(Boolean)) {
      const { steps, best } = await get(`play/runs/${run.run}/progress?after=${run.rows}`);
      Object.assign(run, { steps, best });
    }
    if (current()) emit("steps");
  },
  () => {}, // the question that was refused has its own words
);

const millions = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : count(n));

function view(name) {
  if (!VIEWS.includes(name)) return;
  state.view = name;
  for (const other of VIEWS) {
    $(`view-${other}`).hidden = other !== name;
    $(`tab-${other}`).setAttribute("aria-selected", other === name);
    $(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
  for (const part of ["rules", "actions", "versus"]) $(`${part}-${name}`)?.append($(part)); // one of each, in the view that is shown
  history.replaceState(null, "", `#${name}`);
  emit("view");
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  store("theme", name);
  $("theme").value = name;
  $("theme").replaceChildren({ auto: "◐", light: "○", dark: "●" }[name], h("span", {}, ` ${name}`));
  $("theme").setAttribute("aria-label", `Theme: ${name}`);
  emit("theme");
}

function failed(error) {
  $("facts").textContent = `This did not work: ${error.message}`;
  $("run").value = state.run; // which is asked as before
}

start().catch(failed);
