"use strict";
// Objects: cut one in two, make two one, take one away. Their ids and, where one goes, its labels.

function showObjects(on) {
  const now = Boolean(on && maps.ids);
  if (view.objects === now) return;
  view.objects = now;
  if (maps.corr) changed({ left: 0, top: 0, right: frame.width, bottom: frame.height });
}

function useOnObject(name, p) {
  const id = maps.ids ? maps.ids[Math.floor(p.y) * frame.width + Math.floor(p.x)] : 0;
  if (name === "split") return cutAt(p);
  if (!id) return tell("There is no object");
  if (name === "delete") return deleteObject(id);
  if (!tool.chosen || tool.chosen === id) {
    tool.chosen = id;
    return tell(`Object ${id}: now click the one to join it`);
  }
  begin();
  fillRows("ids", rowsOf(id), tool.chosen);
  commit();
  tell(`Objects ${tool.chosen} and ${id} are one`);
  return undefined;
}

/** The pixels of an object as rows [y, left, right). */
function rowsOf(id, box = { left: 0, top: 0, right: frame.width, bottom: frame.height }) {
  const rows = [];
  for (let y = box.top; y < box.bottom; y++) {
    const base = y * frame.width;
    for (let x = box.left; x < box.right; x++) {
      if (maps.ids[base + x] !== id) continue;
      let end = x;
      while (end < box.right && maps.ids[base + end] === id) end++;
      rows.push([y, x, end]);
      x = end;
    }
  }
  return rows;
}

function deleteObject(id) {
  const rows = rowsOf(id);
  begin();
  fillRows("ids", rows, 0);
  if (desk.background.length) fillRows("corr", rows, desk.background[0]);
  commit();
  tell(`Object ${id} is gone`);
}

/** A first click and a second: the line between them cuts the object in its middle. */
function cutAt(p) {
  const points = tool.points || (tool.points = []);
  points.push(p);
  if (points.length < 2) return remark();
  tool.points = null;
  remark();
  const [a, b] = points, steps_ = Math.ceil(Math.max(Math.abs(b.x - a.x), Math.abs(b.y - a.y)) * 2) + 1, counts = new Map();
  const line = [];
  for (let i = 0; i <= steps_; i++) {
    const q = { x: a.x + ((b.x - a.x) * i) / steps_, y: a.y + ((b.y - a.y) * i) / steps_ };
    if (!inside(q)) continue;
    const at = Math.floor(q.y) * frame.width + Math.floor(q.x);
    if (maps.ids[at]) counts.set(maps.ids[at], (counts.get(maps.ids[at]) || 0) + 1);
    line.push(at);
  }
  const id = [...counts.keys()].sort((m, n) => counts.get(n) - counts.get(m))[0];
  return id ? splitObject(id, a, b) : tell("The line meets no object");
}

/** Pixels on one side of the line keep the id, those on the other have a new one. */
function splitObject(id, a, b) {
  const rows = rowsOf(id), side = (x, y) => (b.x - a.x) * (y + 0.5 - a.y) - (b.y - a.y) * (x + 0.5 - a.x) > 0;
  const own = rows.flatMap(([y, left, right]) => {
    const found = [];
    for (let x = left; x < right; x++) {
      if (!side(x, y)) continue;
      let end = x;
      while (end < right && side(end, y)) end++;
      found.push([y, x, end]);
      x = end;
    }
    return found;
  });
  const size = (list) => list.reduce((sum, [, left, right]) => sum + right - left, 0);
  if (!size(own) || size(own) === size(rows)) return tell("The line does not part it");
  const fresh = maps.ids.reduce((most, one) => Math.max(most, one), 0) + 1;
  begin();
  fillRows("ids", own, fresh);
  commit();
  return tell(`Object ${id} is two: ${id} and ${fresh}`);
}
