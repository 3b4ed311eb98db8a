"use strict";
// Sorting and filtering of the table; without this script it stays as it was written.
(() => {
  document.documentElement.classList.add("js");
  const body = document.querySelector("#results tbody");
  const rows = [...body.rows];
  const controls = {};
  for (const id of ["words", "dataset", "split", "task", "kind", "whose", "labels-only"]) controls[id] = document.getElementById(id);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  const fits = (row) => {
    for (const key of ["dataset", "split", "task", "kind", "whose"]) {
      if (controls[key].value && row.dataset[key] !== controls[key].value) return false;
    }
    if (controls["labels-only"].checked && row.dataset.beyond) return false;
    const words = controls.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    return words.every((word) => texts.get(row).includes(word));
  };

  const filter = () => {
    let shown = 0;
    for (const row of rows) {
      row.hidden = !fits(row);
      if (!row.hidden) shown += 1;
    }
    document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
    document.getElementById("none").hidden = shown > 0;
  };

  const sort = (head, button) => {
    const { key, kind } = button.dataset;
    const before = head.getAttribute("aria-sort");
    const falling = before ? before === "ascending" : kind === "number"; // the largest number first
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const compare = kind === "number"
      ? (a, b) => Number(a.dataset[key]) - Number(b.dataset[key])
      : (a, b) => a.dataset[key].localeCompare(b.dataset[key], "en", { numeric: true });
    body.append(...rows.sort((a, b) => (falling ? -1 : 1) * compare(a, b)));
  };

  for (const control of Object.values(controls)) control.addEventListener("input", filter);
  for (const button of document.querySelectorAll("#results thead button")) {
    button.addEventListener("click", () => sort(button.closest("th"), button));
  }
  filter();
})();
