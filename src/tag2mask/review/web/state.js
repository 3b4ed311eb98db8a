// What is known of the photos, and where the decisions on them stand. The server's log of decisions is the truth: lines
// come back from it, whoever wrote them, and are taken in here in the same way as by tag2mask.runs.decisions.

export const state = {
  about: null,
  photos: [],
  byId: new Map(),
  of: 0, // lines of the log that are taken in
  threshold: null,
  thresholds: {},
};

const listeners = new Set();
export const onDecisions = (listener) => listeners.add(listener);

export const message = (text) => {
  const place = document.getElementById("message");
  place.textContent = text;
  place.hidden = !text;
};

const ask = async (path, options) => {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name !== "AbortError") message("The server doesn't answer: is 'tag2mask review' still running? What was decided is saved.");
    throw error;
  }
  if (!answer.ok) {
    const text = await answer.text();
    let said = text;
    try { said = JSON.parse(text).error; } catch { /* no JSON: the text itself */ }
    message(said);
    throw Object.assign(new Error(said), { status: answer.status });
  }
  return answer;
};

const address = (path, values) => `${path}?${new URLSearchParams(values)}`;

export const load = async () => {
  const [about, photos] = await Promise.all(["about", "photos"].map(async (path) => (await ask(path)).json()));
  state.about = about;
  state.colours = Object.fromEntries(about.classes.map(({ name, colour }) => [name, colour]));
  state.values = Object.fromEntries(about.classes.map(({ name }, index) => [name, index + 1]));
  state.photos = photos;
  for (const photo of photos) {
    Object.assign(photo, { verdict: "", seen: "", changedTags: {}, corrected: "" });
    state.byId.set(photo.id, photo);
  }
  await refresh();
};

const take = (line) => {
  const photo = state.byId.get(line.id);
  if (photo && ["accepted", "rejected", ""].includes(line.verdict)) {
    photo.verdict = line.verdict;
    photo.seen = line.verdict ? line.seen ?? "" : "";
  }
  if (photo && line.tag && "present" in line) {
    delete photo.changedTags[line.tag];
    if (line.present !== null) photo.changedTags[line.tag] = line.present;
  }
  if (photo && "mask" in line) photo.corrected = line.mask;
  if ("threshold" in line && (line.of ?? state.about.refinement) === state.about.refinement) {
    state.threshold = line.threshold;
    state.thresholds = line.thresholds ?? {};
  }
};

// Lines from number `since` on; some may have come with another answer in between.
const takeAll = ({ lines, of }, since) => {
  if (of < since) { location.reload(); return; } // the log was replaced
  const fresh = lines.slice(Math.max(0, state.of - since));
  if (!fresh.length) return;
  fresh.forEach(take);
  state.of = since + lines.length;
  for (const listener of listeners) listener(fresh);
};

const exchange = async (path, values, options) => {
  const since = state.of;
  takeAll(await (await ask(address(path, { ...values, since }), options)).json(), since);
};

export const refresh = () => exchange("lines", {});

export const decide = async (lines) => {
  await exchange("lines", {}, { method: "POST", body: JSON.stringify(lines) });
  message("");
};

// Changes of masks go one after another, so that each is made from the one before.
let queue = Promise.resolve();
const inTurn = (work) => {
  const done = queue.then(work);
  queue = done.catch(() => {});
  return done;
};

export const saveMask = (photo, { labels, width, height }) => inTurn(async () => {
  await exchange("mask", { id: photo.id, width, height, base: photo.corrected }, { method: "PUT", body: labels });
  message("");
});

export const dropMask = (photo) => inTurn(async () => {
  await exchange("mask", { id: photo.id, base: photo.corrected }, { method: "DELETE", body: new Uint8Array() });
  message("");
});

const pixels = async (path, signal) => {
  const answer = await ask(path, { signal });
  const [width, height] = ["X-Width", "X-Height"].map((name) => Number(answer.headers.get(name)));
  const parting = Number(answer.headers.get("X-Parting"));
  return { width, height, parting, data: new Uint8Array(await answer.arrayBuffer()) };
};

export const layerOf = (photo) => (photo.corrected ? "corrected" : photo.layers[0] ?? "none");
const versionOf = (photo, layer) => (layer === "corrected" ? photo.corrected : photo.stamp ?? "");
export const shown = (photo) => versionOf(photo, layerOf(photo)); // what tells the mask that is looked at
export const photoAddress = (photo, side) => address("photo", { id: photo.id, side });
export const maskPixels = (photo, layer, side, signal) =>
  pixels(address("mask", { id: photo.id, layer, side, v: versionOf(photo, layer) }), signal);
export const cutPixels = (photo, kind, side, signal) =>
  pixels(address("cut", { id: photo.id, kind, side, v: photo.stamp ?? "" }), signal);

export const alikePixels = (photo, x, y, { width, height }) =>
  pixels(address("alike", { id: photo.id, x, y, width, height, v: photo.stamp ?? "" }));

export const tagsOf = (photo) => {
  const kept = photo.tags.filter((tag) => photo.changedTags[tag] !== false);
  const added = Object.keys(photo.changedTags).filter((tag) => photo.changedTags[tag] && !kept.includes(tag));
  return [...kept, ...added];
};

export const setTag = (photo, tag, present) =>
  decide([{ id: photo.id, tag, present: photo.tags.includes(tag) === present ? null : present }]);

export const isRetagged = (photo) =>
  Object.entries(photo.changedTags).some(([tag, present]) => present !== photo.tags.includes(tag));

export const isChanged = (photo) => Boolean(photo.verdict && photo.seen && photo.seen !== shown(photo));

export const LOW = 0.4; // agreement below which it is called low

export const lostTags = (photo) => photo.lost.filter((tag) => tagsOf(photo).includes(tag));
// What the classifier contradicts, as long as nobody has agreed with it.
export const doubtedTags = (photo) => photo.doubted.filter(({ tag, tagged }) => tagsOf(photo).includes(tag) === tagged);
export const isLow = (photo) => photo.agreement !== null && photo.agreement < LOW;

export const reasons = (photo) => {
  if (photo.problem) return [photo.problem];
  const found = lostTags(photo).map((tag) => `no pixel of ${tag}`);
  for (const { tag, tagged, score } of doubtedTags(photo)) {
    const percent = Math.round(100 * score);
    found.push(tagged ? `classifier sees no ${tag} (${percent} %)` : `classifier sees ${tag} (${percent} %)`);
  }
  if (isLow(photo) && !lostTags(photo).length) {
    found.push(`maps and mask agree by ${Math.round(100 * photo.agreement)} %`);
  }
  return found;
};
