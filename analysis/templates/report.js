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

// Image by image: two models, a budget and seeds are chosen, and the test images on which they differ stand below.
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const MOST_TILES = 60;
const HEAT = [[24, 8, 64], [106, 23, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]];
const ORDERS = { "where they differ": "differ", "worst mistakes of the first": "worst", "both are wrong": "both", "all": "all" };

function choice(title, options, change) {
  const select = make("select", {}, ...options.map(([value, text]) => make("option", { value, textContent: text })));
  select.addEventListener("change", change);
  return [select, make("label", {}, title, select)];
}

// What a model answered on image i, `predicted` by seed.
function answersOf(group, model, fraction, seeds, i) {
  const bySeed = seeds.map((seed) => group.answers[`${model} ${fraction} ${seed}`]);
  const runs = bySeed.filter(Boolean);
  const right = runs.filter((run) => run[0][i] === group.labels[i]).length;
  const predicted = bySeed.map((run) => run && [run[0][i], run[1][i]]);
  return { runs: runs.length, right, predicted, truth: total(runs.map((run) => run[2][i])) / runs.length };
}

function chosen(group, asked) {
  const images = group.labels.map((_, i) => {
    const [a, b] = [asked.first, asked.second].map((model) => answersOf(group, model, asked.fraction, asked.seeds, i));
    return { i, a, b, differ: a.predicted.some((own, at) => own && b.predicted[at] && own[0] !== b.predicted[at][0]) };
  });
  const wrong = (own) => own.right < own.runs;
  const kept = { differ: (x) => x.differ, worst: (x) => wrong(x.a), both: (x) => wrong(x.a) && wrong(x.b), all: () => true };
  const rank = { differ: (x) => -Math.abs(x.a.truth - x.b.truth), worst: (x) => x.a.truth, both: (x) => x.a.truth + x.b.truth, all: (x) => x.i };
  return images.filter(kept[asked.order]).sort((x, y) => rank[asked.order](x) - rank[asked.order](y));
}

function thumbnail(group, i, map) {
  const [height, width] = group.side;
  const zoom = Math.max(1, Math.floor(80 / Math.max(height, width)));
  const place = [i % group.columns, Math.floor(i / group.columns)];
  const thumb = make("span", { className: "thumb" });
  thumb.style.cssText = `width:${zoom * width}px;height:${zoom * height}px;background-size:${zoom * width * group.columns}px auto;` +
    `background-position:${-zoom * width * place[0]}px ${-zoom * height * place[1]}px`;
  if (map) {
    const [rows, columns] = map.side;
    const canvas = make("canvas", { width: columns, height: rows });
    const pixels = canvas.getContext("2d").createImageData(columns, rows);
    for (let at = 0; at < rows * columns; at++) {
      const heat = map.bytes.charCodeAt(i * rows * columns + at) / 255 * (HEAT.length - 1);
      const [low, part] = [Math.min(Math.floor(heat), HEAT.length - 2), heat - Math.min(Math.floor(heat), HEAT.length - 2)];
      pixels.data.set([0, 1, 2].map((c) => HEAT[low][c] * (1 - part) + HEAT[low + 1][c] * part).concat(255), 4 * at);
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    thumb.append(canvas);
  }
  return thumb;
}

function tile(group, asked, image, map) {
  const name = (index) => make("bdi", { textContent: group.classes[index] });
  const line = (model, own) => make("div", {}, make("bdi", { textContent: Object.fromEntries(group.models)[model] }), ": ",
    ...own.predicted.filter(Boolean).flatMap(([answer, share], at) => [at ? ", " : "",
      answer === group.labels[image.i] ? make("span", { className: "right" }, name(answer), ` ${share}%`)
        : make("span", { className: "wrong" }, "✗ ", name(answer), ` ${share}%`)]));
  const picture = group.sprite ? [thumbnail(group, image.i, map)] : [];
  const title = make("div", {}, "is ", make("b", {}, name(group.labels[image.i])), group.sprite ? "" : ` · ${group.ids[image.i]}`);
  const models = [...new Set([asked.first, asked.second])];
  return make("li", { title: group.ids[image.i] }, ...picture, title, ...models.map((model, at) => line(model, at ? image.b : image.a)));
}

function look(place, group) {
  const seeds = group.seeds;
  const anyMap = Object.keys(group.maps).length > 0;
  const lacking = [...(group.sprite ? [] : ["thumbnails"]), ...(anyMap ? [] : ["maps of where the ViT looked"])];
  const show = () => {
    const last = Number(budget.value);
    const asked = { first: first.value, second: second.value, order: order.value, fraction: group.fractions[last][0],
      seeds: seed.value === "" ? seeds : [Number(seed.value)] };
    amount.textContent = group.fractions[last][1];
    const kept = group.maps[`${asked.first} ${asked.fraction} ${seeds[0]}`];
    attention.disabled = !kept;
    const map = kept && attention.checked ? { side: kept.side, bytes: atob(kept.values) } : null;
    const images = chosen(group, asked);
    const right = (own) => total(images.map((image) => image[own].right / Math.max(image[own].runs, 1)));
    said.textContent = `${images.length} of ${group.labels.length} images` +
      (group.of > group.labels.length ? `, a sample of ${group.of} test images` : "") +
      `; of them the first model has ${right("a").toFixed(1)} right and the second ${right("b").toFixed(1)}, mean over seeds.` +
      (images.length > MOST_TILES ? ` The first ${MOST_TILES} are shown.` : "") +
      (lacking.length ? ` Without ${lacking.join(" and ")}: no run folder here holds them in examples.npz, as published records do not.` : "");
    tiles.replaceChildren(...images.slice(0, MOST_TILES).map((image) => tile(group, asked, image, map)));
  };
  const [first, firstLabel] = choice("Model", group.models, show);
  const [second, secondLabel] = choice("beside", group.models, show);
  const [order, orderLabel] = choice("Images", Object.entries(ORDERS).map(([text, value]) => [value, text]), show);
  const [seed, seedLabel] = choice("Seeds", [["", "all"], ...seeds.map((one) => [one, one])], show);
  const budget = make("input", { type: "range", min: 0, max: group.fractions.length - 1, value: group.fractions.length - 1 });
  const amount = make("output");
  const attention = make("input", { type: "checkbox" });
  budget.addEventListener("input", show);
  attention.addEventListener("change", show);
  first.value = group.models[group.models.length - 1][0];
  const said = make("p", { className: "soft" });
  said.setAttribute("aria-live", "polite");
  const tiles = make("ul", { className: "tiles" });
  const looked = make("label", { title: "Kept by runs of the project's own ViT, for the first seed" }, "Where the first looked", attention);
  looked.hidden = !anyMap;
  const asked = make("div", { className: "asked" }, firstLabel, secondLabel, orderLabel, seedLabel,
    make("label", {}, "Training images ", budget, amount), looked);
  const box = make("div", {}, ...(group.title ? [make("h3", { textContent: group.title })] : []), asked, said, tiles);
  if (group.sprite) box.style.setProperty("--sprite", `url(${group.sprite})`);
  place.append(box);
  show();
}

const gallery = document.getElementById("gallery-at");
for (const group of JSON.parse(document.getElementById("gallery-data").textContent)) look(gallery, group);
