// One run's life: a slider over its checkpoints, and what each makes of the same prompt and seed.

import { ask, stream } from "./api.js";
import { count, h, later } from "./dom.js";
import { latest, vocabularyOf } from "./state.js";

const TOKENS = 90;
const PAUSE = 900; // milliseconds on each checkpoint when they are played

export class Life {
  constructor(run, kind, moved) {
    Object.assign(this, { run, kind, moved, texts: new Map(), wanted: null, ending: null });
    const name = `Checkpoint of ${run.name}`;
    this.slider = h("input", {
      type: "range",
      min: 0,
      max: run.steps.length - 1,
      step: 1,
      "aria-label": name,
      oninput: () => this.move(),
    });
    this.slider.value = run.steps.indexOf(run.best) < 0 ? run.steps.length - 1 : run.steps.indexOf(run.best);
    this.where = h("output", {});
    this.loss = h("span", {});
    this.text = h("p", { class: "text" });
    this.playing = h("button", { type: "button", class: "quiet", onclick: () => this.play() }, "Play its life");
    this.element = h(
      "section",
      { class: `card life ${kind}`, "aria-label": run.name },
      h("h2", {}, run.name, this.where),
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
    const { steps } = this.run;
    this.slider.value = steps.reduce((best, step, at) => (distance(step) < distance(steps[best]) ? at : best), 0);
    this.move();
  }

  // There may be more checkpoints than a moment ago, or fewer.
  refresh() {
    const step = this.shown;
    const atEnd = Number(this.slider.value) === Number(this.slider.max);
    this.slider.max = this.run.steps.length - 1;
    const at = this.run.steps.indexOf(step);
    if (at >= 0 && !(atEnd && this.run.training)) this.slider.value = at;
    else this.slider.value = this.run.steps.length - 1;
    if (this.step() !== step) this.move();
  }

  label() {
    const step = (this.shown = this.step());
    this.where.textContent = `step ${count(step)}`;
    this.slider.setAttribute("aria-valuetext", this.said());
    const loss = this.lossAt(step);
    this.loss.textContent = loss == null ? "not evaluated" : `validation loss ${loss.toFixed(3)}`;
  }

  lossAt = (step) => this.run.metrics.find((row) => row.step === step && row["val/loss"] != null)?.["val/loss"];

  said() {
    const loss = this.lossAt(this.step());
    return `${this.run.name}, step ${this.step()}${loss == null ? "" : `, validation loss ${loss.toFixed(2)}`}`;
  }

  async read(current) {
    this.ending?.abort();
    if (!this.wanted) return;
    const step = this.step();
    const { text, seed } = this.wanted;
    const show = (...parts) => this.text.replaceChildren(...parts);
    const own = { run: this.run.run, step };
    const words = await vocabularyOf(this.run.run);
    if (this.texts.has(step)) return show(h("i", {}, text), this.texts.get(step));
    const mine = (this.ending = new AbortController());
    try {
      const { ids } = await ask("encode", { ...own, text });
      const decoder = new TextDecoder();
      let written = "";
      const settings = { ...this.run.generate, seed, max_new_tokens: TOKENS, stop_strings: [] };
      for await (const token of stream("write", { ...own, ids, ...settings }, mine.signal)) {
        if (!current()) return mine.abort();
        if (token.id == null) continue;
        written += decoder.decode(words.bytes(token.id), { stream: true });
        show(h("i", {}, text), written);
      }
      this.texts.set(step, written);
      if (current()) show(h("i", {}, text), written || "(it ends at once)");
    } catch (error) {
      if (error.name !== "AbortError" && current()) show(error.message);
    }
  }

  async play() {
    if (this.playingNow) return (this.playingNow = false);
    this.playingNow = true;
    this.playing.textContent = "Stop";
    for (let at = 0; at < this.run.steps.length && this.playingNow; at++) {
      this.slider.value = at;
      this.label();
      this.moved();
      await this.show();
      await new Promise((done) => setTimeout(done, PAUSE));
    }
    this.playingNow = false;
    this.playing.textContent = "Play its life";
  }

  end() {
    this.playingNow = false;
    this.ending?.abort();
  }
}
