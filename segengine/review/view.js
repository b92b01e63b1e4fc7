"use strict";
// The canvas: the picture, the tint of the labels over it, and the marks (cursor, polygon) on a canvas above.
// Only the box that changed is drawn again, so that a large frame is as quick as a small one.

const canvas = document.getElementById("canvas"), marks = document.getElementById("marks");
const ctx = canvas.getContext("2d", { alpha: false }), mctx = marks.getContext("2d");
const view = { scale: 1, x: 0, y: 0, picture: null, tint: null, opacity: 0.5, drawn: 0 };
const cursor = { x: 0, y: 0, shown: false };
const due = { all: false, box: null, marks: false, frame: 0 };

/** A box of the frame has other labels now. */
function changed(box) {
  due.box = due.box ? {
    left: Math.min(due.box.left, box.left), top: Math.min(due.box.top, box.top),
    right: Math.max(due.box.right, box.right), bottom: Math.max(due.box.bottom, box.bottom),
  } : { ...box };
  schedule();
}

function redraw() { due.all = true; schedule(); }
function remark() { due.marks = true; schedule(); }

function schedule() {
  if (!due.frame) due.frame = requestAnimationFrame(draw);
}

function draw() {
  const { all, box } = due;
  Object.assign(due, { all: false, box: null, marks: false, frame: 0 });
  if (maps.corr) {
    if (box) tintBox(box);
    if (all) paint(0, 0, canvas.width, canvas.height);
    else if (box) paint(...onScreen(box));
  }
  drawMarks();
  view.drawn++;
}

/** The colours of labels, for the pixels of a box. */
function tintBox(box) {
  const width = box.right - box.left, height = box.bottom - box.top;
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  for (let y = 0; y < height; y++) {
    const at = (box.top + y) * frame.width + box.left;
    if (view.objects) tintObjects(out, y * width, at, width);
    else tintLabels(out, y * width, at, width);
  }
  view.tint.getContext("2d").putImageData(image, box.left, box.top);
}

/** What is no object shows the picture, unless somebody said so by hand. */
function tintLabels(out, to, from, count) {
  const { corr, base } = maps, { table, faint, void: none } = desk;
  for (let i = 0; i < count; i++) {
    const own = corr[from + i];
    out[to + i] = own === none ? faint[base[from + i]] : table[own];
  }
}

function tintObjects(out, to, from, count) {
  for (let i = 0; i < count; i++) out[to + i] = objectColor(maps.ids[from + i]);
}

function objectColor(id) {
  if (!id) return 0;
  const h = Math.imul(id, 2654435761) >>> 0;
  return (0xff000000 | (h & 0xffffff) | 0x404040) >>> 0;
}

/** A box of the frame in pixels of the canvas, one more on each side. */
function onScreen(box) {
  const left = Math.floor((box.left - view.x) * view.scale) - 1, top = Math.floor((box.top - view.y) * view.scale) - 1;
  const right = Math.ceil((box.right - view.x) * view.scale) + 1, bottom = Math.ceil((box.bottom - view.y) * view.scale) + 1;
  return [left, top, right - left, bottom - top];
}

function paint(left, top, width, height) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.fillStyle = "#101114";
  ctx.fillRect(left, top, width, height);
  // The source is cut to what is seen, so that nothing is scaled in vain.
  const x0 = Math.max(0, Math.floor(view.x + left / view.scale) - 1), y0 = Math.max(0, Math.floor(view.y + top / view.scale) - 1);
  const x1 = Math.min(frame.width, Math.ceil(view.x + (left + width) / view.scale) + 1);
  const y1 = Math.min(frame.height, Math.ceil(view.y + (top + height) / view.scale) + 1);
  if (x1 > x0 && y1 > y0) {
    const to = [(x0 - view.x) * view.scale, (y0 - view.y) * view.scale, (x1 - x0) * view.scale, (y1 - y0) * view.scale];
    ctx.imageSmoothingEnabled = false;
    if (view.picture) ctx.drawImage(view.picture, x0, y0, x1 - x0, y1 - y0, ...to);
    ctx.globalAlpha = view.opacity;
    ctx.drawImage(view.tint, x0, y0, x1 - x0, y1 - y0, ...to);
  }
  ctx.restore();
}

function drawMarks() {
  mctx.clearRect(0, 0, marks.width, marks.height);
  const at = (p) => [(p.x - view.x) * view.scale, (p.y - view.y) * view.scale];
  const points = tool.points || [];
  for (const [style, width] of [["#000", 3], ["#fff", 1]]) {
    mctx.strokeStyle = style;
    mctx.lineWidth = width * (window.devicePixelRatio || 1);
    mctx.beginPath();
    points.forEach((p, i) => (i ? mctx.lineTo(...at(p)) : mctx.moveTo(...at(p))));
    if (points.length && cursor.shown) mctx.lineTo(...at(cursor));
    mctx.stroke();
    if (!cursor.shown) continue;
    const [x, y] = at({ x: cursor.x, y: cursor.y }), r = Math.max(3, (tool.size / 2) * view.scale);
    mctx.beginPath();
    if (tool.name === "brush" || tool.name === "erase") mctx.arc(x, y, r, 0, 2 * Math.PI);
    mctx.moveTo(x - 8, y); mctx.lineTo(x + 8, y); mctx.moveTo(x, y - 8); mctx.lineTo(x, y + 8);
    mctx.stroke();
  }
}

function resize() {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  for (const one of [canvas, marks]) {
    one.width = Math.max(1, Math.round(box.width * ratio));
    one.height = Math.max(1, Math.round(box.height * ratio));
  }
  redraw();
}

/** The whole frame in the middle. */
function fit() {
  view.scale = Math.min(canvas.width / frame.width, canvas.height / frame.height) || 1;
  view.x = (frame.width - canvas.width / view.scale) / 2;
  view.y = (frame.height - canvas.height / view.scale) / 2;
  redraw();
}

/** Zoom so that a place on the canvas stays where it is; the middle where none is given. */
function zoom(factor, px = canvas.width / 2, py = canvas.height / 2) {
  const least = Math.min(canvas.width / frame.width, canvas.height / frame.height) / 4;
  const scale = Math.min(64, Math.max(Math.min(least, 1), view.scale * factor));
  view.x += px / view.scale - px / scale;
  view.y += py / view.scale - py / scale;
  view.scale = scale;
  redraw();
}

function pan(dx, dy) {
  view.x -= dx / view.scale;
  view.y -= dy / view.scale;
  redraw();
}

/** Where in the frame an event of the mouse is. */
function placeOf(event) {
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  return { x: view.x + ((event.clientX - box.left) * ratio) / view.scale, y: view.y + ((event.clientY - box.top) * ratio) / view.scale };
}

/** Let the keyboard's cursor be seen. */
function follow() {
  const x = (cursor.x - view.x) * view.scale, y = (cursor.y - view.y) * view.scale, edge = 20;
  if (x < edge || y < edge || x > canvas.width - edge || y > canvas.height - edge) {
    view.x = cursor.x - canvas.width / 2 / view.scale;
    view.y = cursor.y - canvas.height / 2 / view.scale;
    redraw();
  }
  remark();
}
