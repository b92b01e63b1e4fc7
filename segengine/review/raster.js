"use strict";
// Shapes as pixels. Each remembers what it covers, changes `corr`, and says which box to draw again.

/** Every pixel whose centre lies within half a size of the line from a to b. */
function stampLine(a, b, size, label) {
  const radius = size / 2;
  const box = clipped(Math.min(a.x, b.x) - radius, Math.min(a.y, b.y) - radius,
    Math.max(a.x, b.x) + radius + 1, Math.max(a.y, b.y) + radius + 1);
  if (!box) return;
  keep("corr", box);
  const dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy || 1;
  const least = Math.max(radius * radius, 0.5);
  for (let y = box.top; y < box.bottom; y++) {
    for (let x = box.left; x < box.right; x++) {
      const px = x + 0.5 - a.x, py = y + 0.5 - a.y;
      const t = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const ex = px - t * dx, ey = py - t * dy;
      if (ex * ex + ey * ey <= least) maps.corr[y * frame.width + x] = label;
    }
  }
  changed(box);
}

/** Calls `span(y, left, right)` for what lies inside a polygon: pixels by their centres, even-odd. */
function polygonSpans(points, span) {
  const ys = points.map((p) => p.y);
  const top = Math.max(0, Math.floor(Math.min(...ys))), bottom = Math.min(frame.height, Math.ceil(Math.max(...ys)));
  for (let y = top; y < bottom; y++) {
    const centre = y + 0.5, cuts = [];
    for (let i = 0; i < points.length; i++) {
      const p = points[i], q = points[(i + 1) % points.length];
      if ((p.y <= centre) !== (q.y <= centre)) cuts.push(p.x + ((centre - p.y) / (q.y - p.y)) * (q.x - p.x));
    }
    cuts.sort((m, n) => m - n);
    for (let k = 0; k + 1 < cuts.length; k += 2) {
      const left = Math.max(0, Math.ceil(cuts[k] - 0.5)), right = Math.min(frame.width, Math.ceil(cuts[k + 1] - 0.5));
      if (left < right) span(y, left, right);
    }
  }
}

function fillPolygon(points, label) {
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  const box = clipped(Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1);
  if (!box || points.length < 3) return;
  begin();
  keep("corr", box);
  polygonSpans(points, (y, left, right) => maps.corr.fill(label, y * frame.width + left, y * frame.width + right));
  commit();
  changed(box);
}

/** The pixels that hang together with one and are alike, as a list of rows [y, left, right). */
function region(x, y, alike) {
  const { width, height } = frame, seen = new Uint8Array(width * height), rows = [], stack = [y * width + x];
  while (stack.length) {
    const start = stack.pop();
    if (seen[start]) continue;
    const row = Math.floor(start / width), base = row * width;
    let left = start - base, right = left;
    while (left > 0 && !seen[base + left - 1] && alike(base + left - 1)) left--;
    while (right < width && !seen[base + right] && alike(base + right)) right++;
    seen.fill(1, base + left, base + right);
    rows.push([row, left, right]);
    for (const next of [row - 1, row + 1]) {
      if (next < 0 || next >= height) continue;
      let inside = false;
      for (let i = left; i < right; i++) {
        const at = next * width + i, fits = !seen[at] && alike(at);
        if (fits && !inside) stack.push(at);
        inside = fits;
      }
    }
  }
  return rows;
}

function boxOf(rows) {
  let left = frame.width, top = frame.height, right = 0, bottom = 0;
  for (const [y, a, b] of rows) {
    left = Math.min(left, a); right = Math.max(right, b);
    top = Math.min(top, y); bottom = Math.max(bottom, y + 1);
  }
  return clipped(left, top, right, bottom);
}

/** Put a value into rows of a map, as one step. */
function fillRows(name, rows, value) {
  const box = boxOf(rows);
  if (!box) return;
  keep(name, box);
  for (const [y, left, right] of rows) maps[name].fill(value, y * frame.width + left, y * frame.width + right);
  changed(box);
}

function floodFill(x, y, label) {
  const here = shownAt(y * frame.width + x);
  begin();
  fillRows("corr", region(x, y, (i) => shownAt(i) === here), label);
  commit();
}
