"use strict";
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
for (const zoom of document.querySelectorAll("input[data-zooms]")) {
  const drawing = document.getElementById(zoom.dataset.zooms);
  const width = Number(drawing.getAttribute("width"));
  const apply = () => {
    drawing.style.width = Math.round(width * zoom.value / 100) + "px";
    drawing.style.height = "auto";
    zoom.setAttribute("aria-valuetext", zoom.value + " %");
  };
  zoom.addEventListener("input", apply);
}
const PAGE = 100;
const cell = (row, text, name) => {
  const made = row.insertCell();
  made.textContent = text;
  if (name) made.className = name;
  return made;
};
const fill = (body, [text, gold, predicted, top, over, id], names) => {
  const row = body.insertRow();
  cell(row, text, "text");
  cell(row, names[gold], "label");
  cell(row, (gold === predicted ? "" : "\u2717 ") + names[predicted], gold === predicted ? "label" : "label worse");
  const list = document.createElement("ol");
  for (const [place, share] of top) {
    const item = document.createElement("li");
    item.textContent = (share / 1000).toFixed(2) + " " + names[place];
    list.append(item);
  }
  cell(row, "").append(list);
  cell(row, over === null ? "" : over ? "yes" : "no");
  const code = document.createElement("code");
  code.textContent = id;
  cell(row, "").append(code);
};
for (const search of document.querySelectorAll("input[data-searches]")) {
  const part = (end) => document.getElementById(search.dataset.searches + end);
  const body = part("").tBodies[0], wrong = part("-wrong"), count = part("-count");
  const back = part("-back"), on = part("-on");
  let found = null, fits = [], start = 0;
  const show = () => {
    body.replaceChildren();
    for (const row of fits.slice(start, start + PAGE)) fill(body, row, found.names);
    back.disabled = start === 0;
    on.disabled = start + PAGE >= fits.length;
    const range = fits.length > PAGE ? (start + 1).toLocaleString("en") + " to " + Math.min(start + PAGE, fits.length).toLocaleString("en") + " of " : "";
    const all = fits.length < found.rows.length ? " (of " + found.rows.length.toLocaleString("en") + ")" : "";
    count.textContent = range + fits.length.toLocaleString("en") + " rows" + all;
  };
  const apply = () => {
    if (found === null) {
      found = JSON.parse(part("-data").textContent);
      for (const row of found.rows) {
        const seen = [row[0], row[5], found.names[row[1]], found.names[row[2]]];
        row.push(seen.join(" ").toLowerCase());
      }
    }
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    fits = found.rows.filter((row) => (!wrong.checked || row[1] !== row[2]) && words.every((word) => row[6].includes(word)));
    start = 0;
    show();
  };
  search.addEventListener("input", apply);
  wrong.addEventListener("change", apply);
  back.addEventListener("click", () => { start -= PAGE; show(); });
  on.addEventListener("click", () => { start += PAGE; show(); });
  // Read when it is looked at: most tables never are.
  const around = search.closest("details");
  around.addEventListener("toggle", () => { if (found === null) apply(); });
  if (around.open) apply();
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(.predictions)")) part.open = true;
});
