// Many photos: only the tiles in sight exist, so that thousands scroll like dozens.

import { palette, clear, cutLabels, paintMask } from "./paint.js";
import {
  cutPixels, doubtedTags, isChanged, isLow, isRetagged, layerOf, lostTags, maskPixels, onDecisions, photoAddress, reasons,
  shown, state, tagsOf,
} from "./state.js";
import { isOpen, loses, onCut, onlyLost, scores } from "./threshold.js";

const grid = document.getElementById("grid");
const space = document.getElementById("grid-space");
const field = (name) => document.getElementById(name);
const CAPTION = 50; // pixels of a tile below its picture
const AHEAD = 2; // rows beyond those in sight
const KEPT = 600; // pictures of masks and maps that are kept

export const view = { list: [], chosen: 0 };
const tiles = new Map(); // by place in the list
const spare = [];
const cache = new Map();
let columns = 4;
let width = 200;
let table = null;

const orders = {
  doubt: (a, b) => Boolean(a.verdict) - Boolean(b.verdict) || b.doubt - a.doubt, // what is decided on comes last
  agreement: (a, b) => (a.agreement ?? 2) - (b.agreement ?? 2),
  small: (a, b) => (a.cover ?? 2) - (b.cover ?? 2),
  large: (a, b) => (b.cover ?? -1) - (a.cover ?? -1),
  name: (a, b) => (a.id < b.id ? -1 : 1),
  random: (a, b) => a.draw - b.draw,
};

const filters = {
  open: (photo) => !photo.verdict,
  lost: (photo) => lostTags(photo).length > 0,
  low: isLow,
  doubted: (photo) => doubtedTags(photo).length > 0,
  accepted: (photo) => photo.verdict === "accepted",
  rejected: (photo) => photo.verdict === "rejected",
  corrected: (photo) => Boolean(photo.corrected),
  retagged: isRetagged,
  changed: isChanged,
  val: (photo) => photo.split === "val",
};

// The photos that are asked for; from the top, or where the one that was chosen is by now.
export const choose = (top = false) => {
  const [order, name, which] = ["order", "class", "which"].map((id) => field(id).value);
  const part = field("search").value.trim().toLowerCase();
  const before = view.list[view.chosen];
  const wanted = filters[which] ?? (() => true);
  view.list = state.photos.filter((photo) =>
    wanted(photo) && (!name || tagsOf(photo).includes(name) || photo.classes[name]) && (!onlyLost() || loses(photo))
    && (!part || photo.id.toLowerCase().includes(part)));
  view.list.sort((a, b) => orders[order](a, b) || (a.id < b.id ? -1 : 1));
  const place = view.list.indexOf(before);
  view.chosen = place >= 0 ? place : Math.max(0, Math.min(view.chosen, view.list.length - 1));
  if (top) view.chosen = grid.scrollTop = 0;
  field("count").textContent = `${view.list.length} of ${state.photos.length} photos`;
  for (const place of [...tiles.keys()]) drop(place);
  lay();
};

const rowHeight = () => Math.round(width * 0.75) + CAPTION;

export const lay = () => {
  const room = grid.clientWidth;
  if (!room) return;
  columns = Math.max(2, Math.floor(room / Number(field("tile-size").value)));
  width = Math.floor(room / columns);
  space.style.height = `${Math.ceil(view.list.length / columns) * rowHeight()}px`;
  for (const [place, tile] of tiles) put(tile, place);
  draw();
};

const draw = () => {
  const height = rowHeight();
  const first = Math.max(0, Math.floor(grid.scrollTop / height) - AHEAD) * columns;
  const last = Math.min(view.list.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / height) + AHEAD) * columns);
  for (const place of [...tiles.keys()]) if (place < first || place >= last) drop(place);
  for (let place = first; place < last; place += 1) if (!tiles.has(place)) add(place);
  mark();
};

const drop = (place) => {
  const tile = tiles.get(place);
  tile.stop?.abort();
  tile.element.remove();
  tile.element.id = "";
  tile.image.removeAttribute("src");
  tile.key = "";
  clear(tile.canvas);
  tiles.delete(place);
  spare.push(tile);
};

const make = () => {
  const element = document.createElement("div");
  element.setAttribute("role", "option");
  const part = (kind, name, parent) => {
    const made = document.createElement(kind);
    if (name) made.className = name;
    parent.append(made);
    return made;
  };
  const shot = part("div", "shot", element);
  const image = part("img", "", shot);
  image.alt = "";
  image.decoding = "async";
  const canvas = part("canvas", "", shot);
  const badge = part("div", "badge", shot);
  const caption = part("div", "caption", element);
  const why = part("div", "why", element);
  const tile = { element, shot, image, canvas, badge, caption, why, key: "" };
  element.addEventListener("click", () => { choosePlace(tile.place); grid.focus(); });
  element.addEventListener("dblclick", () => { choosePlace(tile.place); opened(tile.place); });
  return tile;
};

const add = (place) => {
  const tile = spare.pop() ?? make();
  tiles.set(place, tile);
  tile.place = place;
  tile.photo = view.list[place];
  tile.element.id = `tile-${place}`;
  tile.element.setAttribute("aria-setsize", view.list.length);
  tile.element.setAttribute("aria-posinset", place + 1);
  tile.image.src = photoAddress(tile.photo, 320);
  put(tile, place);
  show(tile);
  space.append(tile.element);
};

const put = ({ element, shot }, place) => {
  const [row, column] = [Math.floor(place / columns), place % columns];
  element.style.width = `${width}px`;
  element.style.height = `${rowHeight()}px`;
  shot.style.height = `${Math.round(width * 0.75) - 12}px`;
  element.style.transform = `translate(${column * width}px, ${row * rowHeight()}px)`;
};

const badges = (photo) => [
  photo.verdict && [photo.verdict, photo.verdict],
  photo.corrected && ["corrected", "corrected"],
  isRetagged(photo) && ["retagged", "tags"],
  isChanged(photo) && ["changed", "new mask"],
].filter(Boolean);

const show = (tile) => {
  const { photo, element, badge, caption, why } = tile;
  const tags = tagsOf(photo).join(", ") || "no tag";
  element.className = photo.verdict ? `tile ${photo.verdict}` : "tile";
  badge.replaceChildren(...badges(photo).map(([kind, text]) =>
    Object.assign(document.createElement("span"), { className: kind, textContent: text })));
  caption.textContent = tags;
  why.textContent = reasons(photo).join("; ") || photo.id;
  element.setAttribute("aria-label", [photo.id, tags, ...badges(photo).map(([, text]) => text), ...reasons(photo)].join(", "));
  overlay(tile);
};

const kept = async (key, get) => {
  if (!cache.has(key)) {
    cache.set(key, await get());
    if (cache.size > KEPT) cache.delete(cache.keys().next().value);
  }
  return cache.get(key);
};

const overlay = async (tile) => {
  const { photo, canvas } = tile;
  const cut = isOpen() && photo.kinds.includes(state.about.cut.kind);
  const key = cut ? `cut ${photo.id}` : `mask ${photo.id} ${layerOf(photo)} ${shown(photo)}`;
  if (tile.key !== key) {
    tile.stop?.abort();
    tile.stop = new AbortController();
    tile.key = key;
  } else if (!cut) return;
  const { signal } = tile.stop;
  try {
    const found = await kept(key, () =>
      (cut ? cutPixels(photo, state.about.cut.kind, 160, signal) : maskPixels(photo, layerOf(photo), 160, signal)));
    if (tile.key === key) paintMask(canvas, cut ? cutLabels(found, scores()) : found, table);
  } catch (error) {
    if (tile.key === key) { tile.key = ""; clear(canvas); }
    if (error.name !== "AbortError" && error.status !== 422) throw error;
  }
};

const mark = () => {
  for (const [place, { element }] of tiles) element.setAttribute("aria-selected", String(place === view.chosen));
  if (tiles.has(view.chosen)) grid.setAttribute("aria-activedescendant", `tile-${view.chosen}`);
  else grid.removeAttribute("aria-activedescendant");
};

export const choosePlace = (place) => {
  if (!view.list.length) return;
  view.chosen = Math.min(view.list.length - 1, Math.max(0, place));
  const height = rowHeight();
  const top = Math.floor(view.chosen / columns) * height;
  if (top < grid.scrollTop) grid.scrollTop = top;
  if (top + height > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + height - grid.clientHeight;
  draw();
};

let opened = () => {};

const moves = {
  ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns, ArrowDown: () => columns,
  PageUp: () => -columns * Math.max(1, Math.floor(grid.clientHeight / rowHeight())),
  PageDown: () => columns * Math.max(1, Math.floor(grid.clientHeight / rowHeight())),
  Home: () => -view.list.length, End: () => view.list.length,
};

export const start = (open) => {
  opened = open;
  table = palette(state.about.classes);
  for (const photo of state.photos) photo.draw = Math.random();
  for (const { name } of state.about.classes) field("class").append(new Option(name, name));
  for (const name of ["order", "class", "which"]) field(name).addEventListener("change", () => choose(true));
  field("search").addEventListener("input", () => choose(true));
  field("filters").addEventListener("submit", (event) => { event.preventDefault(); grid.focus(); });
  field("tile-size").addEventListener("input", lay);
  grid.addEventListener("scroll", draw, { passive: true });
  grid.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) { event.preventDefault(); choosePlace(view.chosen + moves[event.key]()); }
    if (["Enter", " "].includes(event.key) && view.list.length) { event.preventDefault(); open(view.chosen); }
  });
  new ResizeObserver(lay).observe(grid);
  let asked = false;
  onCut(() => { // at most once a frame, however fast a slider moves
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (onlyLost() !== filtered) choose();
      filtered = onlyLost();
      for (const tile of tiles.values()) overlay(tile);
    });
  });
  let filtered = false;
  onDecisions((lines) => {
    const ids = new Set(lines.map((line) => line.id));
    for (const tile of tiles.values()) if (ids.has(tile.photo.id)) show(tile);
  });
  choose();
};
