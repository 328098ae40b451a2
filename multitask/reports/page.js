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
for (const search of document.querySelectorAll("input[data-searches]")) {
  const table = document.getElementById(search.dataset.searches);
  const wrong = document.getElementById(search.dataset.searches + "-wrong");
  const count = document.getElementById(search.dataset.searches + "-count");
  const rows = Array.from(table.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]);
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of rows) {
      const fits = (!wrong.checked || row.dataset.wrong === "1") && words.every((word) => text.includes(word));
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    count.textContent = shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " rows";
  };
  search.addEventListener("input", apply);
  wrong.addEventListener("change", apply);
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(.predictions)")) part.open = true;
});
