"use strict";
// Tools, as mouse and keyboard use them alike: press at a place, drag to another, release.

const held = { at: null, pan: null, pen: false };
const inside = (p) => p.x >= 0 && p.y >= 0 && p.x < frame.width && p.y < frame.height;
const strokes = () => tool.name === "brush" || tool.name === "erase";
const labelNow = () => (tool.name === "erase" ? desk.void : tool.label);

function choose(name) {
  tool.name = name;
  tool.points = null;
  tool.chosen = 0;
  held.pen = false;
  if (steps.open) commit();
  for (const one of document.querySelectorAll("[data-tool]")) one.setAttribute("aria-pressed", String(one.dataset.tool === name));
  showObjects(["split", "merge", "delete"].includes(name));
  remark();
}

function press(p) {
  if (!maps.corr) return;
  if (strokes()) {
    begin();
    held.at = p;
    stampLine(p, p, tool.size, labelNow());
  } else if (tool.name === "polygon") {
    addPoint(p);
  } else if (inside(p)) {
    const x = Math.floor(p.x), y = Math.floor(p.y);
    if (tool.name === "fill") floodFill(x, y, tool.label);
    else if (tool.name === "superpixel") fillSuperpixel(x, y);
    else useOnObject(tool.name, p);
  }
}

function drag(p) {
  if (!held.at) return;
  stampLine(held.at, p, tool.size, labelNow());
  held.at = p;
}

function release() {
  if (!held.at) return;
  held.at = null;
  commit();
}

/** A corner; near the first one the polygon is closed. */
function addPoint(p) {
  const points = tool.points || (tool.points = []);
  const near = (q) => Math.hypot(p.x - q.x, p.y - q.y) * view.scale < 8;
  if (points.length >= 3 && near(points[0])) return closePolygon();
  if (!points.length || !near(points[points.length - 1])) points.push(p);
  return remark();
}

function closePolygon() {
  const points = tool.points || [];
  tool.points = null;
  if (points.length >= 3) fillPolygon(points, tool.label);
  remark();
}

function escape() {
  tool.points = null;
  tool.chosen = 0;
  held.pen = false;
  if (steps.open) commit();
  held.at = null;
  remark();
}

const pieces = new Map(); // superpixels by the tile they lie in
const LEAST = 64; // tiles kept

async function fillSuperpixel(x, y) {
  const number = frame.number, key = [Math.floor(y / desk.tile), Math.floor(x / desk.tile)].join();
  if (!pieces.has(key)) {
    const found = await superpixels(x, y);
    if (!found || number !== frame.number) return;
    if (pieces.size >= LEAST) pieces.clear();
    pieces.set(key, found);
  }
  const { top, left, height, width, map } = pieces.get(key), wanted = map[(y - top) * width + x - left], rows = [];
  for (let row = 0; row < height; row++) {
    for (let a = 0; a < width; a++) {
      if (map[row * width + a] !== wanted) continue;
      let b = a;
      while (b < width && map[row * width + b] === wanted) b++;
      rows.push([top + row, left + a, left + b]);
      a = b;
    }
  }
  begin();
  fillRows("corr", rows, tool.label);
  commit();
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.focus({ preventScroll: true });
  if (!maps.corr) return;
  canvas.setPointerCapture(event.pointerId);
  if (event.button === 1 || event.button === 2 || held.space) {
    held.pan = { x: event.clientX, y: event.clientY };
  } else if (event.button === 0) {
    cursor.shown = true;
    Object.assign(cursor, placeOf(event));
    press(placeOf(event));
  }
});

canvas.addEventListener("pointermove", (event) => {
  if (!maps.corr) return;
  if (held.pan) {
    const ratio = canvas.width / canvas.getBoundingClientRect().width;
    pan((event.clientX - held.pan.x) * ratio, (event.clientY - held.pan.y) * ratio);
    held.pan = { x: event.clientX, y: event.clientY };
    return;
  }
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const one of events.length ? events : [event]) drag(placeOf(one));
  Object.assign(cursor, placeOf(event), { shown: true });
  tellPlace();
  remark();
});

for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => { held.pan = null; release(); });
}
canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) { cursor.shown = false; remark(); } });
canvas.addEventListener("dblclick", () => { if (tool.name === "polygon") closePolygon(); });
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (!maps.corr) return;
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  zoom(Math.exp(-event.deltaY / 400), (event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio);
}, { passive: false });
