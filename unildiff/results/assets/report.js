"use strict";
// The report's table of images and its gallery. What is shown comes from the JSON in #data:
//   runs: [label]; metrics: [{key, title, digits, higher}]; images: {id: data URI};
//   rows: [{run, degradation, name, values: [number or null], images: {kind: id}, size: [width, height]}]
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("scores");
  if (!table) return;
  const gallery = document.getElementById("gallery");
  const KINDS = ["input", "restored", "truth"];
  const columns = [
    ...(data.runs.length > 1 ? [{ title: "run", text: (row) => data.runs[row.run] }] : []),
    { title: "degradation", text: (row) => row.degradation },
    { title: "name", text: (row) => row.name },
    ...data.metrics.map((metric, index) => ({ ...metric, value: (row) => row.values[index] })),
  ];
  const psnr = columns.find((column) => column.key === "psnr") ?? columns[columns.length - 1];
  const state = { column: psnr, descending: false, pair: ["input", "restored"] };

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const shown = (column, row) => {
    if (column.text) return column.text(row);
    const value = column.value(row);
    return value === null ? "\u2013" : value.toFixed(column.digits);
  };

  function compare(a, b) {
    const { column, descending } = state;
    const sign = descending ? -1 : 1;
    if (column.text) return sign * column.text(a).localeCompare(column.text(b)) || a.index - b.index;
    const x = column.value(a);
    const y = column.value(b);
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index; // unknown: always last
    return sign * (x - y) || a.index - b.index;
  }

  function sortBy(column) {
    const worstDescends = column.value && !column.higher;
    state.descending = state.column === column ? !state.descending : Boolean(worstDescends);
    state.column = column;
    arrange();
  }

  function drawHead() {
    const cells = columns.map((column) => {
      const button = make("button", { type: "button", textContent: column.title });
      button.addEventListener("click", () => sortBy(column));
      column.cell = make("th", { scope: "col", className: column.text ? "text" : "" }, button);
      return column.cell;
    });
    table.tHead.append(make("tr", {}, ...cells));
  }

  function drawRow(row) {
    const cells = columns.map((column) => {
      const cell = make("td", { className: column.text ? "text" : "" });
      if (column.title === "name" && row.card) {
        cell.append(make("a", { href: `#${row.card.id}`, textContent: row.name }));
      } else {
        cell.textContent = shown(column, row);
      }
      return cell;
    });
    return make("tr", {}, ...cells);
  }

  function drawCard(row) {
    const scores = data.metrics.map((metric, index) => [metric, row.values[index]]).filter(([, value]) => value !== null);
    const text = scores.map(([metric, value]) => `${metric.title} ${value.toFixed(metric.digits)}`).join(", ");
    const place = make("div", { className: "compare" });
    place.style.aspectRatio = `${row.size[0]} / ${row.size[1]}`;
    const run = data.runs.length > 1 ? `${data.runs[row.run]}, ` : "";
    const caption = make("figcaption", {}, make("strong", { textContent: `${row.degradation} / ${row.name}` }), ` ${run}${text}`);
    return make("figure", { className: "card", id: `picture-${row.index}` }, place, caption);
  }

  function fill(row) {
    const place = row.card.querySelector(".compare");
    const split = place.querySelector("input")?.value ?? 50;
    const what = `${row.degradation} / ${row.name}`;
    const kinds = state.pair.filter((kind) => row.images[kind]);
    const parts = [];
    const [left, right] = kinds.length === 2 ? kinds : [null, kinds[0]];
    for (const [side, kind] of [["right", right], ["left", left]]) {
      if (!kind) continue;
      parts.push(make("img", { className: side, alt: `${kind} of ${what}`, src: data.images[row.images[kind]] }));
      parts.push(make("span", { className: `tag ${side}`, textContent: kind }));
    }
    if (left) {
      const slider = make("input", { type: "range", min: 0, max: 100, step: 0.5, value: split });
      slider.setAttribute("aria-label", `${what}: percent shown of ${left}, the rest is ${right}`);
      const move = () => place.style.setProperty("--split", `${slider.value}%`);
      slider.addEventListener("input", move);
      move();
      parts.push(make("span", { className: "bar" }), slider);
    }
    place.replaceChildren(...parts);
    row.filled = true;
  }

  function arrange() {
    const run = document.getElementById("filter-run").value;
    const degradation = document.getElementById("filter-degradation").value;
    const name = document.getElementById("filter-name").value.trim().toLowerCase();
    const visible = data.rows.filter(
      (row) =>
        (run === "" || row.run === Number(run)) &&
        (degradation === "" || row.degradation === degradation) &&
        row.name.toLowerCase().includes(name),
    );
    visible.sort(compare);
    table.tBodies[0].replaceChildren(...visible.map((row) => row.line));
    gallery.replaceChildren(...visible.filter((row) => row.card).map((row) => row.card));
    for (const column of columns) {
      if (column === state.column) column.cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else column.cell.removeAttribute("aria-sort");
    }
    document.getElementById("shown").value = `${visible.length} of ${data.rows.length} images`;
  }

  function options(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));
    const choices = entries.filter(([value]) => value !== "");
    select.parentElement.hidden = choices.length < 2;
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const row = data.rows[Number(entry.target.id.split("-")[1])];
        if (entry.isIntersecting && !row.filled) fill(row);
      }
    },
    { rootMargin: "600px" },
  );

  data.rows.forEach((row, index) => {
    row.index = index;
    if (row.size) {
      row.card = drawCard(row);
      watcher.observe(row.card);
    }
    row.line = drawRow(row);
  });
  drawHead();

  const degradations = [...new Set(data.rows.map((row) => row.degradation))];
  options(document.getElementById("filter-run"), [["", "all"], ...data.runs.map((label, index) => [index, label])]);
  options(document.getElementById("filter-degradation"), [["", "all"], ...degradations.map((each) => [each, each])]);
  const pairs = [[0, 1], [1, 2], [0, 2]]
    .map(([left, right]) => [KINDS[left], KINDS[right]])
    .filter((pair) => data.rows.some((row) => pair.every((kind) => row.images[kind])));
  if (pairs.length) [state.pair] = pairs;
  options(document.getElementById("pair"), pairs.map((pair, index) => [index, pair.join(" | ")]));
  document.getElementById("pair").addEventListener("change", (event) => {
    state.pair = pairs[Number(event.target.value)];
    data.rows.filter((row) => row.filled).forEach(fill);
  });
  document.getElementById("filters").addEventListener("input", arrange);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  arrange();
})();
