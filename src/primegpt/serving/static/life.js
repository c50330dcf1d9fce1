// One run's life: a slider over its checkpoints, and what each makes of the same prompt and seed.

import { own } from "./beside.js";
import { count, h, later } from "./dom.js";
import { latest } from "./state.js";
import { written } from "./written.js";

const TOKENS = 90;
const PAUSE = 900; // milliseconds on each checkpoint when they are played

export class Life {
  // `moved` is called when another checkpoint is shown; `chosen` when it was chosen by hand.
  constructor(run, kind, moved, chosen) {
    Object.assign(this, { run, kind, moved, chosen, texts: new Map(), wanted: null, ending: null });
    this.measure = { name: "val/loss", unit: "" };
    const name = `Checkpoint of ${run.name}`;
    this.slider = h("input", {
      type: "range",
      min: 0,
      max: run.steps.length - 1,
      step: 1,
      "aria-label": name,
      oninput: () => {
        chosen();
        this.move();
      },
    });
    this.slider.value = run.steps.indexOf(run.best) < 0 ? run.steps.length - 1 : run.steps.indexOf(run.best);
    this.where = h("output", {});
    this.loss = h("span", {});
    this.text = h("p", { class: "text" });
    this.now = h("p", { class: "note now", hidden: true });
    this.playing = h("button", { type: "button", class: "quiet", onclick: () => this.play() }, "Play its life");
    this.element = h(
      "section",
      { class: `card life ${kind}`, "--own": own(run), "aria-label": run.name },
      h("h2", {}, run.name, this.where),
      this.now,
      this.slider,
      h("div", { class: "buttons" }, this.loss, this.playing),
      this.text,
    );
    this.step = () => this.run.steps[this.slider.value];
    this.soon = later(() => this.show(), 90);
    this.show = latest((current) => this.read(current));
    this.label();
  }

  write(wanted) {
    this.wanted = wanted;
    return this.show();
  }

  forget() {
    this.texts.clear();
  }

  move() {
    this.label();
    this.moved();
    this.soon();
  }

  // The checkpoint for which `distance(step)` is least.
  near(distance) {
    this.chosen();
    const { steps } = this.run;
    this.slider.value = steps.reduce((best, step, at) => (distance(step) < distance(steps[best]) ? at : best), 0);
    this.move();
  }

  // There may be more checkpoints than a moment ago, or fewer. The newest is shown where one wants to `follow`.
  refresh(follow) {
    const step = this.shown;
    const { steps, training } = this.run;
    this.slider.max = steps.length - 1;
    const at = training && follow ? -1 : steps.indexOf(step);
    this.slider.value = at < 0 ? steps.length - 1 : at;
    this.now.hidden = !training;
    this.now.textContent = training ? live(this.run) : "";
    if (this.step() !== step) this.move();
    else this.label();
  }

  label() {
    const step = (this.shown = this.step());
    this.where.textContent = `step ${count(step)}`;
    this.slider.setAttribute("aria-valuetext", this.said());
    const loss = this.lossAt(step);
    this.loss.textContent = loss == null ? "not evaluated" : `validation ${loss.toFixed(3)} ${this.measure.unit}`;
  }

  lossAt(step) {
    const row = this.run.metrics.find((row) => row.step === step && valued(row, this.measure.name) != null);
    return row && valued(row, this.measure.name);
  }

  said() {
    const loss = this.lossAt(this.step());
    const told = loss == null ? "" : `, validation loss ${loss.toFixed(2)} ${this.measure.unit}`;
    return `${this.run.name}, step ${this.step()}${told}`;
  }

  async read(current) {
    this.ending?.abort();
    if (!this.wanted) return;
    const step = this.step();
    const { prompt, seed } = this.wanted;
    const show = (...parts) => this.text.replaceChildren(...parts);
    if (this.texts.has(step)) return show(h("i", {}, prompt.text), this.texts.get(step));
    const mine = (this.ending = new AbortController());
    const settings = { ...this.run.generate, seed, max_new_tokens: TOKENS, stop_strings: [] };
    try {
      let last = "";
      for await (const { text, rest } of written(this.run.run, step, prompt, settings, mine.signal)) {
        if (!current()) return mine.abort();
        show(h("i", {}, text), rest);
        last = rest;
      }
      this.texts.set(step, last);
    } catch (error) {
      if (error.name !== "AbortError" && current()) show(error.message);
    }
  }

  async play() {
    if (this.played) return this.stop();
    this.chosen();
    const mine = (this.played = Symbol("this time"));
    this.playing.textContent = "Stop";
    for (let at = 0; at < this.run.steps.length; at++) {
      this.slider.value = at;
      this.label();
      this.moved();
      await this.show();
      await new Promise((done) => setTimeout(done, PAUSE));
      if (this.played !== mine) return; // it was stopped, and perhaps begun anew
    }
    this.stop();
  }

  stop() {
    this.played = null;
    this.playing.textContent = "Play its life";
  }

  end() {
    this.stop();
    this.ending?.abort();
  }
}

// What was measured under a name; in the first steps by an early evaluation.
export const valued = (row, name) => row[name] ?? row[`early/${name}`];

// How far a run that trains is: step, speed, and how long the rest will take at the pace so far.
function live({ metrics, max_steps: last }) {
  const { step, seconds } = metrics.findLast((row) => row.seconds) ?? { step: 0 };
  const speed = metrics.findLast((row) => row.tokens_per_sec)?.tokens_per_sec;
  const left = last > step && step ? (seconds / step) * (last - step) : null;
  return [
    `step ${count(step)}${last ? ` of ${count(last)}` : ""}`,
    speed && `${count(Math.round(speed))} tokens a second`,
    left !== null && `${time(left)} left`,
  ]
    .filter(Boolean)
    .join(", ");
}

export function time(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
