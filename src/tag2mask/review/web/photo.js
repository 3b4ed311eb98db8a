// One photo large: what is laid over it, zoom, decisions, tags and corrections.

import { Editor } from "./editor.js";
import { choose, choosePlace, view } from "./grid.js";
import { clear, cutLabels, paintMap, paintMask, paintOutline, palette } from "./paint.js";
import {
  alikePixels, cutPixels, decide, dropMask, isChanged, layerOf, maskPixels, onDecisions, photoAddress, reasons, refresh,
  saveMask, setTag, shown, state, tagsOf,
} from "./state.js";
import { isOpen, onCut, scores } from "./threshold.js";

const part = (id) => document.getElementById(id);
const [stage, sheet, picture, overlay, ring] = ["stage", "sheet", "picture", "overlay", "brush-ring"].map(part);
const TOOLS = ["brush", "eraser", "fill", "wand"];
const POINTS = ["fill", "wand"]; // tools that a click is enough for
const NAMES = {
  corrected: "your correction", masks: "network, within tags", pseudo_masks: "pseudo-mask", predictions: "network", none: "none",
};
const PAUSE = 250; // ms after a stroke until it is saved

let photo = null;
let mask = null; // {data, width, height} that is shown
let cut = null; // the same of the strongest class and its score
let editor = null;
let mode = "mask";
let tool = "";
let wand = null; // {x, y, value, found, done} of its last click, until something else is done
let reaches = false; // whether its reach was set by hand, since it was taken up
let layer = "none";
let turn = 0; // of loading, so that a late answer is not shown on another photo
let saving = 0;
let waiting = 0; // timer of a save to come
let space = false;
const hidden = new Set();
const place = { x: 0, y: 0, scale: 1 };

export const isShown = () => !part("photo-view").hidden;
export const current = () => photo;
export const hasTool = () => Boolean(tool);

export const open = async (number) => {
  await flush();
  choosePlace(number);
  if (!view.list.length) return;
  photo = view.list[view.chosen];
  mask = cut = editor = wand = null;
  part("grid-view").hidden = true;
  part("photo-view").hidden = false;
  part("photo-name").textContent = photo.id;
  part("place").textContent = `${view.chosen + 1} of ${view.list.length}`;
  part("previous").disabled = view.chosen === 0;
  part("next").disabled = view.chosen === view.list.length - 1;
  const [height, width] = photo.size;
  sheet.style.width = `${width}px`;
  sheet.style.height = `${height}px`;
  picture.src = photoAddress(photo, 1280);
  picture.dataset.side = 1280;
  clear(overlay);
  fit();
  layers();
  tell();
  await show();
  warm();
  ahead();
};

const ahead = () => { // so that the next photo is there when it is asked for
  const next = view.list[view.chosen + 1];
  if (!next) return;
  new Image().src = photoAddress(next, 1280);
  maskPixels(next, layerOf(next), 2048).catch(() => {});
};

export const close = async () => {
  await flush();
  pick("");
  part("photo-view").hidden = true;
  part("grid-view").hidden = false;
  photo = null;
  choose();
  choosePlace(view.chosen);
  part("grid").focus();
};

export const step = (by) => {
  const next = view.chosen + by;
  if (next >= 0 && next < view.list.length) return open(next);
  return undefined;
};

const options = (select, values, chosen) => {
  select.replaceChildren(...values.map(([value, text]) => new Option(text, value, false, value === chosen)));
  select.parentElement.hidden = values.length < 2 && select.id !== "paint";
};

const layers = () => {
  layer = layerOf(photo);
  const there = [...(photo.corrected ? ["corrected"] : []), ...photo.layers];
  options(part("layer"), there.map((name) => [name, NAMES[name]]), layer);
  const kind = photo.kinds.includes(state.about.cut.kind) ? state.about.cut.kind : photo.kinds[0];
  options(part("kind"), photo.kinds.map((name) => [name, name.toUpperCase()]), kind);
  part("modes").querySelector('[data-mode="map"]').disabled = !photo.kinds.length;
};

// Everything beside the photo that follows from decisions.
const tell = () => {
  if (!photo) return;
  const tags = tagsOf(photo);
  part("accept").setAttribute("aria-pressed", String(photo.verdict === "accepted"));
  part("reject").setAttribute("aria-pressed", String(photo.verdict === "rejected"));
  part("undecide").disabled = !photo.verdict;
  part("photo-state").textContent = [photo.verdict, photo.corrected && "corrected", isChanged(photo) && "other mask since"]
    .filter(Boolean).join(", ");
  part("reasons").textContent = reasons(photo).join("; ");
  for (const label of part("tags").querySelectorAll("label")) {
    const { value } = label.firstElementChild;
    label.firstElementChild.checked = tags.includes(value);
    label.classList.toggle("changed", tags.includes(value) !== photo.tags.includes(value));
  }
  const there = state.about.classes.filter(({ name }) => tags.includes(name) || photo.classes[name]);
  part("classes").replaceChildren(...there.map((entry, number) => classButton(entry, number)));
  const before = part("paint").length ? part("paint").value : null;
  const paints = [...there.map(({ name }) => [name, name]), ["", "background"]];
  options(part("paint"), paints, paints.some(([name]) => name === before) ? before : paints[0][0]);
  for (const name of ["brush", ...POINTS]) part(name).disabled = !there.length;
  steps();
};

const classButton = ({ name, colour }, number) => {
  const button = document.createElement("button");
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.background = colour;
  button.append(swatch, name);
  if (number < 9) button.append(Object.assign(document.createElement("kbd"), { textContent: number + 1 }));
  button.dataset.name = name;
  button.setAttribute("aria-pressed", String(!hidden.has(name)));
  button.addEventListener("click", () => toggleClass(name));
  return button;
};

const toggleClass = (name) => {
  if (!hidden.delete(name)) hidden.add(name);
  for (const button of part("classes").children) button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.name)));
  paint();
};

const steps = () => {
  part("undo").disabled = !editor?.done.length;
  part("redo").disabled = !editor?.undone.length;
  part("restore").disabled = !photo?.corrected;
};

const show = async () => {
  const [mine, asked] = [++turn, photo];
  try {
    if (mode === "map" || previews()) {
      const found = await cutPixels(asked, mode === "map" ? part("kind").value : state.about.cut.kind, 640);
      if (mine === turn) cut = found;
    }
    if (!mask) {
      const found = await maskPixels(asked, layer, 2048);
      if (mine === turn) mask = found;
    }
  } catch (error) {
    if (error.status !== 422) throw error;
  }
  if (mine === turn) paint();
};

const previews = () => isOpen() && mode !== "map" && photo.kinds.includes(state.about.cut.kind);

const paint = (changed) => {
  if (!photo) return;
  const table = palette(state.about.classes, hidden);
  overlay.style.opacity = mode === "outline" ? 1 : part("opacity").value / 100;
  const values = previews() && cut ? cutLabels(cut, scores()) : editor ?? mask;
  if (mode === "map" && cut) paintMap(overlay, cut, table);
  else if (mode === "none" || !values) clear(overlay);
  else if (mode === "outline") paintOutline(overlay, values, table);
  else paintMask(overlay, values, table, changed);
};

export const setMode = (name) => {
  if (name === "map" && !photo.kinds.length) return;
  mode = name;
  if (name === "map") pick("");
  for (const button of part("modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === name));
  show();
};

// ---- zoom -----------------------------------------------------------------------------------------------------------

const put = () => {
  sheet.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
  sheet.classList.toggle("near", place.scale > 3);
  part("zoom-value").textContent = `${Math.round(100 * place.scale)} %`;
  const wanted = place.scale * Math.max(...photo.size) * devicePixelRatio;
  if (wanted > 1400 && Math.max(...photo.size) > 1280 && picture.dataset.side !== "4096") {
    picture.dataset.side = "4096";
    picture.src = photoAddress(photo, 4096);
  }
  if (tool) showRing();
};

const fit = () => {
  if (!photo) return;
  const [height, width] = photo.size;
  place.scale = Math.min(stage.clientWidth / width, stage.clientHeight / height) || 1;
  place.x = (stage.clientWidth - width * place.scale) / 2;
  place.y = (stage.clientHeight - height * place.scale) / 2;
  put();
};

const zoom = (factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
  const scale = Math.min(40, Math.max(0.02, place.scale * factor));
  place.x = x - (x - place.x) * scale / place.scale;
  place.y = y - (y - place.y) * scale / place.scale;
  place.scale = scale;
  put();
};

// ---- painting -------------------------------------------------------------------------------------------------------

const last = { x: 0, y: 0, at: null }; // of the pointer, on the stage

const onMask = ({ x, y }) => {
  const [height, width] = photo.size;
  return {
    x: (x - place.x) / place.scale * editor.width / width,
    y: (y - place.y) / place.scale * editor.height / height,
  };
};

const diameter = () => Number(part("brush-size").value); // pixels on the screen: a near view paints finely

const showRing = () => {
  ring.hidden = !tool || POINTS.includes(tool);
  const size = Math.max(4, diameter());
  ring.style.width = ring.style.height = `${size}px`;
  ring.style.left = `${last.x - size / 2}px`;
  ring.style.top = `${last.y - size / 2}px`;
};

export const pick = (name) => {
  tool = tool === name || part(name || "brush").disabled && name ? "" : name;
  if (tool && (mode === "map" || mode === "none")) setMode("mask");
  for (const one of TOOLS) part(one).setAttribute("aria-pressed", String(one === tool));
  stage.classList.toggle("tool", Boolean(tool) && !POINTS.includes(tool));
  stage.classList.toggle("point", POINTS.includes(tool));
  reaches = false;
  part("reach").parentElement.hidden = tool !== "wand";
  part("brush-size").parentElement.hidden = tool === "wand";
  warm();
  showRing();
};

// The network looks at the photo before the first click, so that the click is answered at once.
const warm = () => {
  if (tool === "wand" && photo) alikePixels(photo, 0, 0, { width: 1, height: 1 }).catch(() => {});
};

const value = () => (tool === "eraser" ? 0 : state.values[part("paint").value] ?? 0);

const startStroke = (point) => {
  if (!mask || previews()) return;
  editor ??= new Editor(mask);
  wand = null;
  last.at = onMask(point);
  if (POINTS.includes(tool)) {
    const [x, y] = [Math.floor(last.at.x), Math.floor(last.at.y)];
    if (x < 0 || y < 0 || x >= editor.width || y >= editor.height) return;
    if (tool === "wand") { touch(x, y); return; }
    editor.begin();
    editor.fill(x, y, value());
    endStroke();
    paint();
  } else { editor.begin(); stroke(point); }
};

const stroke = (point) => {
  const to = onMask(point);
  const radius = Math.max(0.5, diameter() / 2 / place.scale * editor.width / photo.size[1]);
  const changed = editor.line(last.at, to, radius, value());
  last.at = to;
  paint(changed);
};

// A click of the wand: what is alike comes from the server, the reach can be changed until something else is done.
const touch = async (x, y) => {
  const [asked, on, mine] = [photo, editor, { x, y, value: value(), done: false }];
  wand = mine;
  part("saved").textContent = "…";
  try {
    mine.found = await alikePixels(asked, x, y, on);
  } catch (error) {
    if (wand === mine) wand = null;
    if (error.status !== 422) throw error;
    part("saved").textContent = "";
    return;
  }
  if (wand !== mine || editor !== on) return;
  if (!reaches) part("reach").value = Math.round(100 * (1 - mine.found.parting));
  reach();
};

const setReach = () => {
  reaches = true;
  reach();
};

const reach = () => {
  if (!wand?.found) return;
  if (wand.done) editor.forget();
  editor.begin();
  editor.grow(wand.x, wand.y, wand.value, wand.found.data, 255 * (1 - part("reach").value / 100));
  wand.done = editor.end();
  paint();
  later();
  steps();
};

const endStroke = () => {
  if (editor?.end()) later();
  steps();
};

const later = () => {
  clearTimeout(waiting);
  part("saved").textContent = "…";
  waiting = setTimeout(flush, PAUSE);
};

let saved = Promise.resolve();

// Save what isn't saved yet; done when it is.
export const flush = () => {
  if (waiting && editor) saved = save();
  clearTimeout(waiting);
  waiting = 0;
  return saved;
};

const save = async () => {
  const [asked, what] = [photo, { labels: editor.data.slice(), width: editor.width, height: editor.height }];
  saving += 1;
  try {
    await saveMask(asked, what);
    part("saved").textContent = "Saved";
  } catch (error) {
    part("saved").textContent = "Not saved";
    if (error.status === 409) await again(asked);
  } finally {
    saving -= 1;
  }
  if (photo === asked) layers();
  steps();
};

// Another window has saved this mask: what it saved is shown.
const again = async (asked) => {
  await refresh();
  if (photo === asked) await reload();
};

const reload = async () => {
  mask = editor = wand = null;
  layers();
  tell();
  await show();
};

const back = (move) => {
  wand = null;
  if (editor?.[move]()) { paint(); later(); }
  steps();
};
export const undo = () => back("undo");
export const redo = () => back("redo");

const restore = async () => {
  await flush();
  if (!photo.corrected) return;
  saving += 1;
  try { await dropMask(photo); } finally { saving -= 1; }
  part("saved").textContent = "";
  await reload();
};

// ---- decisions ------------------------------------------------------------------------------------------------------

export const judge = async (verdict) => {
  await flush();
  await decide([{ id: photo.id, verdict, seen: verdict ? shown(photo) : "" }]);
  if (verdict) await step(1);
};

export const number = (count) => {
  const button = part("classes").children[count - 1];
  if (!button) return;
  if (tool) part("paint").value = button.dataset.name;
  else toggleClass(button.dataset.name);
};

export const key = (event) => {
  const actions = {
    m: () => setMode("mask"), o: () => setMode("outline"), p: () => setMode("map"), n: () => setMode("none"),
    b: () => pick("brush"), x: () => pick("eraser"), f: () => pick("fill"), w: () => pick("wand"),
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
    "[": () => resize(0.8), "]": () => resize(1.25), ",": () => stronger(-10), ".": () => stronger(10),
    g: () => part("tags").querySelector("input")?.focus(),
    arrowleft: () => step(-1), arrowright: () => step(1),
    escape: () => (tool ? pick("") : close()),
  };
  const name = event.key.toLowerCase();
  if (/^[1-9]$/.test(name)) number(Number(name));
  else if (actions[name]) actions[name]();
  else return false;
  return true;
};

const resize = (factor) => {
  const slider = part(tool === "wand" ? "reach" : "brush-size");
  const size = Number(slider.value);
  const by = tool === "wand" ? 3 : Math.max(1, Math.abs(Math.round(size * factor) - size));
  slider.value = factor > 1 ? size + by : size - by;
  slider.dispatchEvent(new Event("input"));
};

const stronger = (by) => {
  const slider = part("opacity");
  slider.value = Number(slider.value) + by;
  paint();
};

const point = (event) => {
  const box = stage.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};

const pointers = () => {
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    stage.setPointerCapture(event.pointerId);
    Object.assign(last, point(event));
    if (tool && event.button === 0 && !space) { startStroke(point(event)); from = editor?.before ? "stroke" : null; }
    else { from = { ...point(event), px: place.x, py: place.y }; stage.classList.add("moving"); }
  });
  stage.addEventListener("pointermove", (event) => {
    const events = event.getCoalescedEvents?.() ?? [];
    if (from === "stroke") for (const one of events.length ? events : [event]) stroke(point(one));
    else if (from) { place.x = from.px + point(event).x - from.x; place.y = from.py + point(event).y - from.y; put(); }
    Object.assign(last, point(event));
    if (tool) showRing();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, () => {
      if (from === "stroke") endStroke();
      from = null;
      stage.classList.remove("moving");
    });
  }
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), point(event).x, point(event).y);
  }, { passive: false });
  stage.addEventListener("dblclick", () => { if (!tool) fit(); });
  stage.addEventListener("keydown", (event) => { if (event.key === " ") { space = true; event.preventDefault(); } });
  document.addEventListener("keyup", (event) => { if (event.key === " ") space = false; });
};

export const start = () => {
  for (const { name, colour } of state.about.classes) {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = colour;
    label.append(box, swatch, name);
    part("tags").append(label);
    box.addEventListener("change", () => setTag(photo, name, box.checked));
  }
  const clicks = {
    back: close, previous: () => step(-1), next: () => step(1), undecide: () => judge(""), accept: () => judge("accepted"),
    reject: () => judge("rejected"), "zoom-in": () => zoom(1.25), "zoom-out": () => zoom(0.8), "zoom-fit": fit, undo, redo,
    restore,
  };
  for (const [id, action] of Object.entries(clicks)) part(id).addEventListener("click", () => action());
  for (const name of TOOLS) part(name).addEventListener("click", () => pick(name));
  for (const button of part("modes").children) button.addEventListener("click", () => setMode(button.dataset.mode));
  part("opacity").addEventListener("input", () => paint());
  part("brush-size").addEventListener("input", showRing);
  part("reach").addEventListener("input", setReach);
  part("kind").addEventListener("change", () => show());
  part("layer").addEventListener("change", async (event) => {
    await flush();
    layer = event.target.value;
    mask = editor = wand = null;
    steps();
    await show();
  });
  pointers();
  new ResizeObserver(() => fit()).observe(stage);
  onCut(() => { if (photo) { if (previews() && !cut) show(); else paint(); } });
  onDecisions((lines) => {
    if (!photo || !lines.some((line) => line.id === photo.id)) return;
    tell();
    const foreign = !saving && lines.some((line) => line.id === photo.id && "mask" in line);
    if (foreign && !waiting) reload();
  });
  addEventListener("pagehide", flush);
};
