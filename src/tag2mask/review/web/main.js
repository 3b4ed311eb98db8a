// The page's beginning: what is loaded first, keys, and other windows' decisions.

import * as grid from "./grid.js";
import * as photo from "./photo.js";
import { decide, isChanged, load, onDecisions, refresh, shown, state } from "./state.js";
import * as threshold from "./threshold.js";

const POLL = 3000; // ms between looks for what other windows decided
const part = (id) => document.getElementById(id);

const progress = () => {
  const count = (of) => state.photos.filter(of).length;
  const looked = count(({ verdict }) => verdict);
  const parts = [`${looked} of ${state.photos.length} looked at`];
  for (const [name, of] of [
    ["rejected", ({ verdict }) => verdict === "rejected"], ["corrected", ({ corrected }) => corrected], ["changed since", isChanged],
  ]) {
    const found = count(of);
    if (found) parts.push(`${found} ${name}`);
  }
  part("progress").textContent = parts.join(" · ");
};

const judge = async (verdict) => {
  if (photo.isShown()) { await photo.judge(verdict); return; }
  const chosen = grid.view.list[grid.view.chosen];
  if (!chosen) return;
  await decide([{ id: chosen.id, verdict, seen: verdict ? shown(chosen) : "" }]);
  if (verdict) grid.choosePlace(grid.view.chosen + 1);
};

const help = () => part("help").showModal();

const everywhere = {
  a: () => judge("accepted"), r: () => judge("rejected"), u: () => judge(""),
  t: () => { if (!part("cut-button").disabled) threshold.toggle(); },
  "?": help,
  "/": () => { if (!photo.isShown()) part("search").focus(); },
};

// Keys that belong to the control that has the focus.
const taken = ({ target, key }) => {
  if (target.closest("dialog") || target.matches('input[type="search"], select')) return true;
  if (target.matches('input[type="range"]')) return key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown"].includes(key);
  return false;
};

const pressed = (event) => {
  if (event.target.matches?.('input[type="search"]') && event.key === "Escape") {
    event.target.value = "";
    event.target.dispatchEvent(new Event("input"));
    part("grid").focus();
  }
  if (taken(event)) return;
  const name = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (!photo.isShown() || event.altKey) return;
    if (name === "z" && !event.shiftKey) photo.undo();
    else if (name === "y" || name === "z") photo.redo();
    else return;
    event.preventDefault();
    return;
  }
  if (event.altKey) return;
  if (everywhere[name]) { event.preventDefault(); everywhere[name](); return; }
  if (photo.isShown() && photo.key(event)) event.preventDefault();
  else if (name === "escape" && threshold.isOpen()) { threshold.toggle(false); part("grid").focus(); }
};

const begin = async () => {
  await load();
  part("name").textContent = state.about.name;
  document.title = `${state.about.name} – tag2mask review`;
  threshold.start();
  grid.start((place) => photo.open(place));
  photo.start();
  onDecisions(progress);
  progress();
  document.addEventListener("keydown", pressed);
  part("help-button").addEventListener("click", help);
  setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, POLL);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh().catch(() => {}); });
  part("grid").focus();
  document.body.dataset.ready = "yes";
};

begin();
