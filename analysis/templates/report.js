"use strict";

// Tables: a click on a heading sorts the rows of every block, a second click turns the order round; unknown values stay last.
function sortTable(table, column, direction) {
  const key = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const [p, q] = [Number(x), Number(y)];
    const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
    return direction * order;
  };
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("block"));
    rows.forEach((row) => row.classList.remove("group"));
    rows.sort(compare).forEach((row) => body.appendChild(row));
  }
}

function filterTable(table, words) {
  for (const body of table.tBodies) {
    let shown = 0;
    for (const row of body.rows) {
      if (row.classList.contains("block")) continue;
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    for (const row of body.querySelectorAll("tr.block")) row.hidden = shown === 0;
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending ? -1 : 1);
    });
  });
}

for (const input of document.querySelectorAll("input.filter")) {
  const table = document.getElementById(input.dataset.table);
  input.addEventListener("input", () => filterTable(table, input.value.toLowerCase().split(/\s+/).filter(Boolean)));
}

// Figures: each specification stands in a script element next to the place where it is drawn, and is made as wide as that.
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);

function panelWidth(spec) {
  if (spec.vconcat) return Math.max(...spec.vconcat.map(panelWidth));
  const parts = spec.hconcat || spec.concat;
  if (!parts) return spec.width || 0;
  const columns = spec.columns || parts.length;
  const rows = parts.flatMap((_, at) => (at % columns ? [] : [parts.slice(at, at + columns)]));
  return Math.max(...rows.map((row) => total(row.map(panelWidth))));
}

function scaled(spec, factor) {
  const found = { ...spec };
  for (const key of ["vconcat", "hconcat", "concat"]) if (spec[key]) found[key] = spec[key].map((part) => scaled(part, factor));
  const square = spec.width === spec.height;
  if (spec.width) found.width = spec.width * factor;
  if (spec.height) found.height = spec.height * (square ? factor : Math.min(factor, 1.35));
  return found;
}

async function draw(plot) {
  const written = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
  const room = plot.clientWidth - 14;
  const spec = room < 480 && written.concat ? { ...written, columns: 1 } : written;
  const embed = (each) => window.vegaEmbed(plot, each, { actions: false, renderer: "svg", mode: "vega-lite" });
  await embed(spec);
  const panels = panelWidth(spec);
  const factor = (room - (plot.querySelector("svg").width.baseVal.value - panels)) / panels;
  if (Math.abs(factor - 1) > 0.03) await embed(scaled(spec, Math.min(Math.max(factor, 0.6), 2)));
}

for (const plot of document.querySelectorAll(".plot")) {
  draw(plot)
    .then(() => { plot.dataset.drawn = "true"; })
    .catch((error) => { plot.textContent = `This figure could not be drawn: ${error}`; console.error(error); });
}
