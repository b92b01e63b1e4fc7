"use strict";
// What is open: the desk, a frame, its maps, and how to go back.
//
//   base  labels as they were segmented          corr  labels by hand, void where nobody touched them
//   ids   objects, where the store has them      shown: corr where it is not void, else base

const desk = {};
const frame = { number: -1, width: 0, height: 0, tag: "", objectsTag: "", windows: 1, window: 0 };
const maps = { base: null, corr: null, ids: null };
const tool = { name: "brush", label: 0, size: 15, chosen: 0 };
const MOST = 256 << 20; // bytes of what can be undone

const steps = { done: [], undone: [], open: null, saved: null };

function shownAt(i) {
  const own = maps.corr[i];
  return own === desk.void ? maps.base[i] : own;
}

/** A box [left, top, right, bottom) cut to the frame; null where nothing is left. */
function clipped(left, top, right, bottom) {
  const box = {
    left: Math.max(0, Math.floor(left)), top: Math.max(0, Math.floor(top)),
    right: Math.min(frame.width, Math.ceil(right)), bottom: Math.min(frame.height, Math.ceil(bottom)),
  };
  return box.left < box.right && box.top < box.bottom ? box : null;
}

function cut(map, box) {
  const width = box.right - box.left;
  const part = new map.constructor(width * (box.bottom - box.top));
  for (let y = box.top; y < box.bottom; y++) {
    const at = y * frame.width;
    part.set(map.subarray(at + box.left, at + box.right), (y - box.top) * width);
  }
  return part;
}

function paste(map, box, part) {
  const width = box.right - box.left;
  for (let y = box.top; y < box.bottom; y++) {
    map.set(part.subarray((y - box.top) * width, (y - box.top + 1) * width), y * frame.width + box.left);
  }
}

/** Begin what one `Undo` takes back. */
function begin() {
  steps.open = steps.open || [];
}

/** Remember a box of a map before it is changed. */
function keep(name, box) {
  steps.open.push({ name, box, part: cut(maps[name], box) });
}

function commit() {
  const step = steps.open;
  steps.open = null;
  if (!step || !step.length) return;
  steps.done.push(step);
  steps.undone = [];
  let bytes = steps.done.reduce((sum, one) => sum + weight(one), 0);
  while (bytes > MOST && steps.done.length > 1) bytes -= weight(steps.done.shift());
  tellState();
}

function weight(step) {
  return step.reduce((sum, one) => sum + one.part.byteLength, 0);
}

/** Change places with what was there before; again, and it is back. */
function swap(step) {
  for (const one of step.reverse()) {
    const now = cut(maps[one.name], one.box);
    paste(maps[one.name], one.box, one.part);
    one.part = now;
    changed(one.box);
  }
  return step;
}

function undo() {
  if (steps.open) commit();
  if (steps.done.length) steps.undone.push(swap(steps.done.pop()));
  tellState();
}

function redo() {
  if (steps.undone.length) steps.done.push(swap(steps.undone.pop()));
  tellState();
}

function forget() {
  Object.assign(steps, { done: [], undone: [], open: null, saved: null });
}

const lastStep = () => steps.done[steps.done.length - 1] || null;
const isDirty = () => lastStep() !== steps.saved;
