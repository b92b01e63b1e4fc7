"use strict";
// All keys, as they are listed under `?`.

const move = (dx, dy) => (event) => {
  const far = event.shiftKey ? 10 : 1, before = { x: cursor.x, y: cursor.y };
  cursor.shown = true;
  cursor.x = Math.min(frame.width - 0.5, Math.max(0.5, Math.floor(cursor.x) + 0.5 + dx * far));
  cursor.y = Math.min(frame.height - 0.5, Math.max(0.5, Math.floor(cursor.y) + 0.5 + dy * far));
  if (held.pen && strokes()) { begin(); stampLine(before, { ...cursor }, tool.size, labelNow()); }
  tellPlace();
  follow();
};

const slide = (id, by) => () => {
  const input = $(id);
  input.value = String(Number(input.value) + by);
  input.dispatchEvent(new Event("input"));
};

function use() {
  cursor.shown = true;
  press({ x: cursor.x, y: cursor.y });
  release();
  remark();
}

function pen() {
  held.pen = !held.pen;
  if (held.pen && strokes()) { begin(); stampLine({ ...cursor }, { ...cursor }, tool.size, labelNow()); }
  else if (steps.open) commit();
  tell(held.pen ? "Pen down: arrows draw" : "Pen up");
}

const KEYS = [
  [["b"], "Brush", () => choose("brush")],
  [["p"], "Polygon: Space or a click sets a corner, Enter closes it", () => choose("polygon")],
  [["f"], "Fill what is alike and hangs together", () => choose("fill")],
  [["e"], "Erase: take a correction away", () => choose("erase")],
  [["g"], "Superpixel: fill a small region of the picture", () => choose("superpixel")],
  [["c"], "Split an object: two corners of a line through it", () => maps.ids && choose("split")],
  [["m"], "Merge objects: one, then another", () => maps.ids && choose("merge")],
  [["x"], "Delete an object", () => maps.ids && choose("delete")],
  [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "Class", (event) => pick(Number(event.key) - 1)],
  [["ArrowLeft"], "Cursor; with Shift 10 pixels", move(-1, 0)],
  [["ArrowRight"], "", move(1, 0)],
  [["ArrowUp"], "", move(0, -1)],
  [["ArrowDown"], "", move(0, 1)],
  [[" "], "Use the tool at the cursor", use],
  [["d"], "Pen down or up: arrows draw", pen],
  [["Enter"], "Close the polygon; else as Space", () => (tool.points && tool.name === "polygon" ? closePolygon() : use())],
  [["Escape"], "Leave what was begun", () => escape()],
  [["u", "Ctrl+z"], "Undo", () => undo()],
  [["r", "Ctrl+y", "Ctrl+Z"], "Redo", () => redo()],
  [["s", "Ctrl+s"], "Save", () => save()],
  [["[", "]"], "Size of brush and eraser", (event) => slide("size", event.key === "]" ? 2 : -2)()],
  [["+", "="], "Zoom in", () => zoomAtCursor(1.5)],
  [["-"], "Zoom out", () => zoomAtCursor(1 / 1.5)],
  [["0"], "The whole frame", () => fit()],
  [["i", "k", "j", "l"], "Pan", (event) => pan(...{ i: [0, 60], k: [0, -60], j: [60, 0], l: [-60, 0] }[event.key])],
  [["o", "O"], "Opacity, less and more", (event) => slide("opacity", event.key === "O" ? 10 : -10)()],
  [["n", "N"], "Next frame, the one before", (event) => step(event.key === "n" ? 1 : -1)],
  [["w"], "Next window of a large frame", () => frame.windows > 1 && open(frame.number, (frame.window + 1) % frame.windows)],
  [["?"], "This list", () => $("help").showModal()],
];
const table = new Map(KEYS.flatMap(([names, , action]) => names.map((name) => [name, action])));
const NAMES = { " ": "Space", ArrowLeft: "\u2190", ArrowRight: "\u2192", ArrowUp: "\u2191", ArrowDown: "\u2193" };

function zoomAtCursor(factor) {
  if (!cursor.shown) return zoom(factor);
  return zoom(factor, (cursor.x - view.x) * view.scale, (cursor.y - view.y) * view.scale);
}

/** Keys that an element has a use for itself. */
function isTaken(event) {
  const element = event.target, kind = element.type || "";
  if (element.closest("dialog")) return true;
  if (["search", "text", "select-one"].includes(kind)) return true;
  const moving = event.key.startsWith("Arrow") || [" ", "Enter"].includes(event.key);
  return moving && (element.tagName === "BUTTON" || kind === "range" || kind === "radio");
}

document.addEventListener("keydown", (event) => {
  const held_ = event.ctrlKey || event.metaKey;
  const action = table.get(held_ ? `Ctrl+${event.shiftKey && event.key.length === 1 ? event.key.toUpperCase() : event.key}` : event.key);
  if (!action || event.altKey || isTaken(event) || (!maps.corr && !["?", "n", "N"].includes(event.key))) return;
  event.preventDefault();
  action(event);
});

for (const [names, text] of KEYS) {
  const row = $("table").insertRow();
  if (!text) { $("table").deleteRow(-1); continue; }
  const shown = names[0] === "ArrowLeft" ? ["\u2190", "\u2192", "\u2191", "\u2193"] : names.length > 4 ? ["1 \u2013 9"] : names.map((name) => NAMES[name] || name);
  for (const name of shown) row.append(Object.assign(document.createElement("kbd"), { textContent: name }), " ");
  const keys = row.insertCell(0);
  keys.append(...[...row.childNodes].filter((node) => node !== keys));
  row.insertCell(1).textContent = text;
}
