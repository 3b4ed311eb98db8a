// The panel with the background scores: every figure is a look-up, so that the sliders answer at once.

import { decide, onDecisions, state, tagsOf } from "./state.js";

const panel = document.getElementById("cut-panel");
const all = document.getElementById("cut-all");
const only = document.getElementById("cut-lost");
const listeners = new Set();
const own = new Map(); // sliders and cells of single classes

export const onCut = (listener) => listeners.add(listener);
export const isOpen = () => !panel.hidden;
export const onlyLost = () => isOpen() && only.checked;

// The score of each mask value, 0..1.
export const scores = () => {
  const found = new Float32Array(256);
  for (const { name } of state.about.classes) found[state.values[name]] = percentOf(name) / 100;
  return found;
};

const percentOf = (name) => Number((own.get(name)?.slider ?? all).value);
export const loses = (photo) =>
  Object.entries(photo.lostAt).some(([tag, at]) => tagsOf(photo).includes(tag) && percentOf(tag) >= at);

const chosen = () => {
  const { cut, own: recipe } = state.about;
  const base = state.threshold ?? recipe.threshold ?? cut.threshold;
  const single = state.threshold === null && !Object.keys(state.thresholds).length ? recipe.thresholds : state.thresholds;
  return { base, single };
};

const set = (base, single) => {
  all.value = Math.round(100 * base);
  for (const [name, { slider }] of own) slider.value = Math.round(100 * (single[name] ?? base));
  say();
};

const say = () => {
  document.getElementById("cut-all-value").textContent = (all.value / 100).toFixed(2);
  const lost = Object.fromEntries([...own.keys()].map((name) => [name, 0]));
  const tagged = { ...lost };
  let photos = 0;
  let losing = 0;
  for (const photo of state.photos) {
    const tags = Object.entries(photo.lostAt).filter(([tag]) => tagsOf(photo).includes(tag));
    if (!tags.length || photo.verdict === "rejected") continue;
    photos += 1;
    let any = false;
    for (const [tag, at] of tags) {
      tagged[tag] += 1;
      if (percentOf(tag) >= at) { lost[tag] += 1; any = true; }
    }
    losing += any;
  }
  for (const [name, { slider, score, cover, losses }] of own) {
    score.textContent = (slider.value / 100).toFixed(2);
    cover.textContent = `${(100 * state.about.cover[name][slider.value]).toFixed(1)} %`;
    losses.textContent = `${lost[name]} of ${tagged[name]}`;
  }
  const share = photos ? (100 * losing / photos).toFixed(1) : "0";
  document.getElementById("cut-cost").textContent =
    `${losing} of ${photos} photos (${share} %) lose a tag; a tag covers ${meanCover(tagged)} % of its photo on average`;
  for (const listener of listeners) listener();
};

const meanCover = (tagged) => {
  let sum = 0;
  let count = 0;
  for (const [name, { slider }] of own) {
    sum += tagged[name] * state.about.cover[name][slider.value];
    count += tagged[name];
  }
  return (100 * sum / Math.max(1, count)).toFixed(1);
};

const addClass = (name, body) => {
  const row = body.insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head);
  const [place, cover, losses] = [row.insertCell(), row.insertCell(), row.insertCell()];
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 1, max: 99, step: 1 });
  slider.setAttribute("aria-label", `Background score of ${name}`);
  const score = document.createElement("output");
  const line = document.createElement("span");
  line.append(slider, score);
  place.append(line);
  slider.addEventListener("input", say);
  own.set(name, { slider, score, cover, losses });
};

const use = async () => {
  const base = all.value / 100;
  const single = {};
  for (const [name, { slider }] of own) if (slider.value !== all.value) single[name] = slider.value / 100;
  await decide([{ threshold: base, thresholds: single }]);
};

const told = () => {
  const used = state.threshold !== null;
  const score = state.about.own.threshold;
  document.getElementById("cut-back").textContent = `Back to ${score === null ? "the automatic score" : score.toFixed(2)}`;
  document.getElementById("cut-use").textContent = used ? `Use this (chosen: ${state.threshold.toFixed(2)})` : "Use this";
};

export const toggle = (open = panel.hidden) => {
  panel.hidden = !open;
  document.getElementById("cut-button").setAttribute("aria-expanded", String(open));
  for (const listener of listeners) listener();
  if (open) all.focus();
};

export const start = () => {
  const button = document.getElementById("cut-button");
  if (!state.about.cut.adjustable) {
    button.disabled = true;
    button.title = "These masks aren't cut from stored maps by one score";
    return;
  }
  const body = panel.querySelector("tbody");
  for (const { name } of state.about.classes) if (state.about.cover[name]) addClass(name, body);
  all.addEventListener("input", () => {
    for (const { slider } of own.values()) slider.value = all.value;
    say();
  });
  only.addEventListener("change", say);
  document.getElementById("cut-use").addEventListener("click", use);
  document.getElementById("cut-back").addEventListener("click", async () => {
    await decide([{ threshold: null, thresholds: {} }]);
  });
  button.addEventListener("click", () => toggle());
  onDecisions((lines) => {
    if (lines.some((line) => "threshold" in line)) set(chosen().base, chosen().single);
    told();
  });
  set(chosen().base, chosen().single);
  told();
};
