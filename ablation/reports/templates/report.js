"use strict";
// Texts of messages, labels and names come from outside: they enter as text, never as markup.
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// ---- tables: a tbody for each row, whose first tr has the cells

const keyOf = (body, column) => {
  const cell = body.rows[0].cells[column];
  const text = (cell?.dataset.value ?? cell?.textContent ?? "").trim();
  const plain = text.replace(/(\d),(?=\d{3})/g, "$1").replace(/^\u2212/, "-");
  const number = /^[+-]?\d+(\.\d+)?(\s|$)/.test(plain) ? parseFloat(plain) : NaN; // "15b" is a name
  return { text, number, kind: text === "" ? 2 : Number.isNaN(number) ? 1 : 0 };
};

// Numbers before texts; what is empty is last in both directions.
const compare = (a, b, direction) => {
  if (a.kind === 2 || b.kind === 2) return a.kind - b.kind;
  const order = a.kind - b.kind || (a.kind ? a.text.localeCompare(b.text) : a.number - b.number);
  return direction * order;
};

const sort = (table, th) => {
  const direction = th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const keyed = [...table.tBodies].map((body) => [keyOf(body, th.cellIndex), body]);
  keyed.sort(([a], [b]) => compare(a, b, direction));
  table.append(...keyed.map(([, body]) => body));
};

const addFilter = (table) => {
  const input = make("input", { type: "search" });
  const left = make("output", {}); // which is read out when it changes
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const body of table.tBodies) {
      const text = body.textContent.toLowerCase();
      body.hidden = !words.every((word) => text.includes(word));
    }
    const shown = [...table.tBodies].filter((body) => !body.hidden).length;
    left.textContent = `${shown} of ${table.tBodies.length} rows`;
  });
  const label = make("label", {}, "Only rows with ", input);
  (table.closest(".wide") ?? table).before(make("div", { className: "filter" }, label, left));
};

for (const table of document.querySelectorAll("table.sortable")) {
  for (const th of table.tHead.rows[0].cells) {
    if ("nosort" in th.dataset || th.textContent.trim() === "") continue;
    const button = make("button", { type: "button" }, ...th.childNodes);
    button.addEventListener("click", () => sort(table, th));
    th.append(button);
  }
  if (table.tBodies.length > 5) addFilter(table);
}

// What has to be scrolled can be, by keys.
const scrolled = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const wide of document.querySelectorAll(".wide")) scrolled.observe(wide);

// ---- the map of rows and messages

const describeMessage = ({ classes, rows, seeds }, message) => {
  const lines = rows.map((row, i) => {
    const [given, probability, wrong] = message.given[i];
    const cells = [row, classes[given], probability.toFixed(3), `${wrong} of ${seeds[i]}`];
    const className = wrong ? "wrong" : "";
    return make("tr", { className }, ...cells.map((text) => make("td", {}, text)));
  });
  const names = ["row", "class", "probability", "seeds wrong"];
  const head = make("tr", {}, ...names.map((text) => make("th", { scope: "col" }, text)));
  return [
    make("blockquote", {}, message.text),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)),
  ];
};

for (const map of document.querySelectorAll(".message-map")) {
  const find = (selector) => map.querySelector(selector);
  const data = JSON.parse(find("script").textContent);
  const n = data.messages.length;
  const [strip, cursor, panel] = [".map-strip", ".map-cursor", ".map-panel"].map(find);
  const [status, slider] = [".map-status", "input"].map(find);
  const [previous, next] = map.querySelectorAll("button");
  let isKept = false;

  const choose = (place) => {
    const at = Math.min(Math.max(place, 0), n - 1);
    const message = data.messages[at];
    slider.value = at;
    slider.setAttribute("aria-valuetext", `${at + 1} of ${n}`);
    cursor.hidden = panel.hidden = false;
    Object.assign(cursor.style, { left: `${(100 * at) / n}%`, width: `${100 / n}%` });
    const wrong = message.given.filter(([, , seeds]) => seeds).length;
    status.textContent =
      `${at + 1} of ${n}: message ${message.number} is ${data.classes[message.label]}. ` +
      `${wrong} of ${data.rows.length} rows get it wrong at least once.`;
    panel.replaceChildren(...describeMessage(data, message));
  };
  const placeOf = (event) => {
    const box = strip.getBoundingClientRect();
    return Math.floor((n * (event.clientX - box.left)) / box.width);
  };
  strip.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && !isKept) choose(placeOf(event));
  });
  strip.addEventListener("click", (event) => {
    isKept = !isKept;
    choose(placeOf(event));
  });
  slider.addEventListener("input", () => choose(slider.valueAsNumber));
  previous.addEventListener("click", () => choose(slider.valueAsNumber - 1));
  next.addEventListener("click", () => choose(slider.valueAsNumber + 1));
  for (const element of [strip, find(".map-controls"), status]) element.hidden = false;
}

// ---- paper: nothing is folded

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
