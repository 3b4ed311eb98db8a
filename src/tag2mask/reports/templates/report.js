(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));
  const steps = JSON.parse(document.getElementById("steps").textContent);
  const cards = all(".card[data-key]");

  // Which layers of a card are seen: those of the chosen class, and of the chosen step.
  const paint = (card) => {
    const { view, frame } = card.dataset;
    for (const layer of all(".layer[data-view]", card)) {
      const right = layer.dataset.view === view;
      layer.classList.toggle("off", !(right && (!layer.dataset.step || layer.dataset.step === frame)));
    }
    for (const tag of all("button.tag", card)) tag.setAttribute("aria-pressed", String(tag.dataset.view === view));
  };

  const setView = (card, view) => {
    const known = all(".layer[data-view]", card).some((layer) => layer.dataset.view === view);
    card.dataset.view = known ? view : card.dataset.first;
    paint(card);
  };

  const plain = (value) => value.toFixed(Math.abs(value) < 9.995 ? 2 : 1).replace("-", "\u2212");
  const format = { loss: plain, target_logit: plain, covered: (value) => Math.round(100 * value) + "%" };
  const setStep = (card, frame) => {
    const now = steps[card.dataset.key][frame];
    const slider = card.querySelector(".player input");
    card.dataset.frame = String(frame);
    slider.value = frame;
    slider.setAttribute("aria-valuetext", "step " + now.step + " of " + now.last);
    card.querySelector(".at").textContent = now.step + " of " + now.last;
    for (const cell of all("[data-field]", card)) {
      const value = now[cell.dataset.field];
      cell.textContent = value === undefined ? "\u2013" : format[cell.dataset.field](value);
    }
    paint(card);
  };

  // Steps: play from the start, halt at the end; a second press pauses.
  const timers = new Map();
  const stop = (card) => {
    clearInterval(timers.get(card));
    timers.delete(card);
    card.classList.remove("playing");
  };
  const play = (card) => {
    const last = steps[card.dataset.key].length - 1;
    if (Number(card.dataset.frame) >= last) setStep(card, 0);
    card.classList.add("playing");
    timers.set(card, setInterval(() => {
      const next = Number(card.dataset.frame) + 1;
      if (next > last) { stop(card); return; }
      setStep(card, next);
      if (next === last) stop(card);
    }, 420));
  };

  for (const card of cards) {
    for (const tag of all("button.tag", card)) tag.addEventListener("click", () => setView(card, tag.dataset.view));
    const player = card.querySelector(".player");
    if (player) {
      const slider = player.querySelector("input");
      slider.addEventListener("input", () => { stop(card); setStep(card, Number(slider.value)); });
      player.querySelector("button").addEventListener("click", () => (timers.has(card) ? stop(card) : play(card)));
      setStep(card, steps[card.dataset.key].length - 1);
    } else {
      paint(card);
    }
  }

  // Filters: a group (random, best, worst) and a class, for the parts of one section.
  const filter = (section) => {
    const chosen = (name) => section.querySelector('input[name^="' + name + '-"]:checked')?.value ?? "";
    const group = chosen("group");
    const label = chosen("class");
    for (const part of all(".part", section)) {
      const list = part.querySelector(".cards");
      const mine = all(".card", list);
      const rank = (card) => Number(JSON.parse(card.dataset.groups)[group] ?? 1e6);
      if (group) mine.sort((a, b) => rank(a) - rank(b)).forEach((card) => list.appendChild(card));
      let count = 0;
      for (const card of mine) {
        const fits = (!group || rank(card) < 1e6) && (!label || JSON.parse(card.dataset.labels).includes(Number(label)));
        card.hidden = !fits;
        if (!fits) stop(card);
        count += fits ? 1 : 0;
        if (fits && card.dataset.first) setView(card, label || card.dataset.first);
      }
      part.querySelector(".empty").hidden = count > 0;
      part.querySelector(".count").textContent = String(count);
    }
  };
  for (const section of all("section")) {
    if (!section.querySelector(".part")) continue;
    for (const input of all(".segments input, .chips input", section)) input.addEventListener("change", () => filter(section));
    filter(section);
  }
  const knobs = all(".strength");
  for (const knob of knobs) knob.addEventListener("input", () => {
    root.style.setProperty("--strength", knob.value / 100);
    for (const other of knobs) other.value = knob.value;
  });
  for (const button of all(".play-all")) button.addEventListener("click", () => {
    const ready = cards.filter((card) => !card.hidden && steps[card.dataset.key]);
    const halt = ready.some((card) => timers.has(card));
    for (const card of ready) { stop(card); if (!halt) { setStep(card, 0); play(card); } }
  });

  // Enlarge a panel; the arrow keys walk through the panels of its card.
  const dialog = document.getElementById("large");
  let row = [];
  let place = 0;
  const enlarge = () => {
    const view = row[place];
    const copy = view.cloneNode(true);
    copy.style.setProperty("--aspect", getComputedStyle(view).getPropertyValue("--aspect"));
    copy.removeAttribute("aria-label");
    copy.setAttribute("aria-label", "Close");
    dialog.querySelector(".stage").replaceChildren(copy);
    dialog.querySelector(".what").textContent = view.getAttribute("data-title");
    dialog.querySelector(".where").textContent = place + 1 + " of " + row.length;
    copy.focus();
  };
  for (const view of all("button.view")) {
    view.addEventListener("click", () => {
      row = all("button.view", view.closest(".strip"));
      place = row.indexOf(view);
      if (!dialog.open) dialog.showModal();
      enlarge();
    });
  }
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => row[place]?.focus());
  dialog.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    place = (place + move + row.length) % row.length;
    enlarge();
  });
})();
