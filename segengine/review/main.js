"use strict";
// The list, the controls around the canvas, and what they say.

const list = { start: 0, total: 0, rows: [] };
const SHOWN = 100;

function tell(text) { $("status").textContent = text; }

function tellPlace() {
  if (!maps.corr || !inside(cursor)) return;
  const x = Math.floor(cursor.x), y = Math.floor(cursor.y), label = shownAt(y * frame.width + x);
  $("where").textContent = `x ${x + (frame.left || 0)}, y ${y + (frame.top || 0)}: ${desk.classes[label] ?? "void"}`;
}

function tellState() {
  document.querySelector("[data-do=undo]").setAttribute("aria-disabled", String(!steps.done.length));
  document.querySelector("[data-do=redo]").setAttribute("aria-disabled", String(!steps.undone.length));
}

function alertWith(text, actions) {
  const box = $("alert");
  box.replaceChildren(text);
  for (const [name, action] of actions) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", action);
    box.append(button);
  }
  box.hidden = false;
}

function hideAlert() { $("alert").hidden = true; }

function pick(label) {
  if (label >= desk.classes.length) return;
  tool.label = label;
  document.querySelectorAll("#classes input")[label].checked = true;
  if (tool.name === "erase") choose("brush");
}

function listClasses() {
  desk.classes.forEach((name, i) => {
    const label = document.createElement("label"), swatch = document.createElement("span");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: String(i) });
    input.setAttribute("aria-label", name);
    input.addEventListener("change", () => pick(i));
    swatch.className = "swatch";
    swatch.style.setProperty("background", `rgb(${desk.colors[i]})`);
    label.append(input, swatch, name);
    if (i < 9) label.append(Object.assign(document.createElement("kbd"), { textContent: String(i + 1) }));
    $("classes").append(label);
  });
}

async function loadList(start) {
  const words = encodeURIComponent($("find").value);
  const found = await json(`frames?start=${Math.max(0, start)}&count=${SHOWN}&find=${words}`);
  Object.assign(list, { start: found.start, total: found.total, rows: found.frames });
  $("frames").replaceChildren(...found.frames.map(rowOf));
  const last = found.start + found.frames.length;
  $("pages").textContent = found.total ? `${found.start + 1}\u2013${last} of ${found.total}` : "none";
  $("earlier").disabled = found.start === 0;
  $("later").disabled = last >= found.total;
  showCurrent();
}

function rowOf(row) {
  const item = document.createElement("li"), button = Object.assign(document.createElement("button"), { type: "button", textContent: row.name });
  item.setAttribute("aria-label", row.name);
  item.dataset.number = String(row.number);
  button.addEventListener("click", () => open(row.number));
  const note = document.createElement("small");
  note.textContent = [row.note, row.corrected ? "corrected" : ""].filter(Boolean).join(", ");
  note.hidden = !note.textContent;
  item.append(button, note);
  return item;
}

function showCurrent() {
  for (const item of $("frames").children) {
    const now = Number(item.dataset.number) === frame.number;
    if (now) item.firstChild.setAttribute("aria-current", "true");
    else item.firstChild.removeAttribute("aria-current");
    if (now) item.scrollIntoView({ block: "nearest" });
  }
}

function markCorrected() {
  const row = list.rows.find((one) => one.number === frame.number);
  if (!row || row.corrected) return;
  row.corrected = true;
  const place = [...$("frames").children].find((one) => Number(one.dataset.number) === frame.number);
  place.replaceWith(rowOf(row));
  showCurrent();
}

/** The frame `by` places on in the list. */
async function step(by) {
  let place = list.rows.findIndex((row) => row.number === frame.number) + by;
  if (place < 0 && list.start > 0) { await loadList(list.start - SHOWN); place = list.rows.length - 1; }
  if (place >= list.rows.length && list.start + list.rows.length < list.total) { await loadList(list.start + SHOWN); place = 0; }
  if (list.rows[place]) await open(list.rows[place].number);
}

function opened(found) {
  Object.assign(frame, { top: found.top, left: found.left });
  $("objects").hidden = !found.objects;
  if (!found.objects && ["split", "merge", "delete"].includes(tool.name)) choose("brush");
  $("part").hidden = found.windows === 1;
  $("window").replaceChildren(...Array.from({ length: found.windows }, (_, i) => new Option(String(i + 1), String(i), false, i === frame.window)));
  const save_ = found.save || {};
  tell(`${frame.height} x ${frame.width} pixels${save_.who ? `; saved by ${save_.who}, ${save_.when}` : ""}`);
  if (found.damaged) alertWith(`The correction is damaged: ${found.damaged}. What cannot be read is shown as untouched; saving writes it anew.`, []);
  document.body.dataset.frame = String(frame.number);
  tellState();
  showCurrent();
}

const DO = { undo, redo, save: () => save(), fit, zoomIn: () => zoom(1.5), zoomOut: () => zoom(1 / 1.5), help: () => $("help").showModal() };
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => (maps.corr || button.dataset.do === "help") && DO[button.dataset.do]());
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => choose(button.dataset.tool));
$("opacity").addEventListener("input", () => { view.opacity = Number($("opacity").value) / 100; redraw(); });
$("size").addEventListener("input", () => { tool.size = Number($("size").value); remark(); });
$("window").addEventListener("change", () => open(frame.number, Number($("window").value)));
$("find").addEventListener("input", () => loadList(0));
$("earlier").addEventListener("click", () => loadList(list.start - SHOWN));
$("later").addEventListener("click", () => loadList(list.start + SHOWN));
canvas.addEventListener("focus", () => { cursor.shown = maps.corr !== null; remark(); });
canvas.addEventListener("blur", () => { cursor.shown = false; if (held.pen) pen(); remark(); });
window.addEventListener("beforeunload", (event) => { if (isDirty()) event.preventDefault(); });
window.addEventListener("focus", compare);
document.addEventListener("visibilitychange", compare);
window.addEventListener("unhandledrejection", (event) => alertWith(`The server did not answer: ${event.reason.message}`, []));
new ResizeObserver(resize).observe($("stage"));

async function start() {
  Object.assign(desk, await json("desk"));
  // Colours as pixels: of what was drawn, and of the mask, whose background and void let the picture through.
  desk.table = new Uint32Array(desk.void + 1);
  desk.colors.forEach(([r, g, b], i) => { desk.table[i] = (0xff000000 | (b << 16) | (g << 8) | r) >>> 0; });
  desk.faint = desk.table.slice();
  for (const label of desk.background) desk.faint[label] = 0;
  listClasses();
  const objects = desk.classes.findIndex((_, i) => !desk.background.includes(i) && i > 0);
  pick(Math.max(0, objects));
  await loadList(0);
  if (list.rows.length) await open(list.rows[0].number);
}
start();
