"use strict";
// What goes to the server and comes from it. The token is in the page's own address and in nobody else's.

const TOKEN = new URLSearchParams(location.search).get("token") || "";
const $ = (id) => document.getElementById(id);

async function ask(path, options = {}) {
  const headers = { "X-Token": TOKEN, ...(options.headers || {}) };
  return fetch(`/api/${path}`, { ...options, headers, cache: "no-store" });
}

async function json(path, options) {
  const answer = await ask(path, options);
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error || answer.statusText), { status: answer.status, found });
  return found;
}

async function map(path, Kind) {
  const answer = await ask(path);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return { map: new Kind(await answer.arrayBuffer()), tag: (answer.headers.get("ETag") || "").replaceAll('"', ""), answer };
}

async function deflated(...parts) {
  const stream = new Blob(parts).stream().pipeThrough(new CompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const LabelMap = () => (desk.void === 255 ? Uint8Array : Uint16Array);
const at = (part = "") => `frame/${frame.number}${part}?window=${frame.window}`;

async function picture() {
  const answer = await ask(at("/picture"));
  if (!answer.ok) {
    tell((await answer.json()).error);
    return null;
  }
  return createImageBitmap(await answer.blob());
}

async function superpixels(x, y) {
  tell("Looking for superpixels");
  try {
    const found = await map(`${at("/superpixels")}&x=${x}&y=${y}`, Uint16Array);
    const [top, left, height, width] = found.answer.headers.get("X-Box").split(" ").map(Number);
    tell("");
    return { top, left, height, width, map: found.map };
  } catch (error) {
    tell(error.message);
    return null;
  }
}

/** Open a frame, or a window of it. What was drawn on the one before is saved first. */
async function open(number, window_ = 0) {
  if (isDirty() && !(await save())) return;
  const found = await json(`frame/${number}?window=${window_}`);
  hideAlert();
  if (found.refused) return void tell(`${found.name || "This frame"}: ${found.refused}`);
  Object.assign(frame, { number, window: window_, windows: found.windows, width: found.width, height: found.height });
  frame.has = found.objects;
  maps.corr = null;
  forget();
  pieces.clear();
  escape();
  tell("Opening");
  const [image, base, corr, ids] = await Promise.all([
    picture(), map(at("/mask"), LabelMap()), map(at("/correction"), LabelMap()),
    found.objects ? map(`frame/${number}/objects`, Uint32Array) : null,
  ]);
  if (frame.number !== number || frame.window !== window_) return;
  view.picture = image;
  Object.assign(maps, { base: base.map, ids: ids && ids.map, corr: corr.map });
  frame.tag = corr.tag;
  frame.objectsTag = ids ? ids.tag : "";
  view.tint = Object.assign(document.createElement("canvas"), { width: frame.width, height: frame.height });
  view.objects = false;
  tintBox({ left: 0, top: 0, right: frame.width, bottom: frame.height });
  Object.assign(cursor, { x: Math.floor(frame.width / 2) + 0.5, y: Math.floor(frame.height / 2) + 0.5 });
  opened(found);
  fit();
}

/** True where all is saved. `over`: also what somebody else saved meanwhile. */
async function save(over = false) {
  if (steps.open) commit();
  if (!maps.corr) return true;
  const last = lastStep(), since = steps.done.slice(steps.done.indexOf(steps.saved) + 1);
  const touched = new Set([...since, ...steps.undone].flat().map((one) => one.name));
  tell("Saving");
  try {
    if (touched.has("ids")) frame.objectsTag = (await putObjects(over)).tag;
    const body = await deflated(maps.corr);
    const done = await put(at("/correction"), body, over ? await currentTag() : frame.tag);
    frame.tag = done.tag;
    steps.saved = last;
    hideAlert();
    tell(`Saved by ${done.who}, ${done.when}`);
    markCorrected();
    return true;
  } catch (error) {
    if (error.status === 409) conflict(error.found);
    else alertWith(`Not saved: ${error.message}`, []);
    tell("");
    return false;
  }
}

const put = (path, body, tag) => json(path, { method: "PUT", body, headers: { "If-Match": `"${tag}"`, "Content-Type": "application/octet-stream" } });

async function putObjects(over) {
  const shown = new (LabelMap())(maps.corr.length);
  for (let i = 0; i < shown.length; i++) shown[i] = shownAt(i);
  const path = `frame/${frame.number}/objects`;
  const tag = over ? (await map(path, Uint32Array)).tag : frame.objectsTag;
  return put(path, await deflated(maps.ids, shown), tag);
}

const currentTag = async () => (await json(at())).tag;

function conflict(found) {
  const save_ = found.save || {};
  const who = save_.who ? `by ${save_.who}, ${save_.when}` : "by somebody else";
  alertWith(`Not saved: this frame was saved ${who}, in another window, after you opened it.`, [
    ["Take theirs", () => { forget(); return open(frame.number, frame.window); }],
    ["Keep mine", () => save(true)],
  ]);
}

/** Told before any work is lost: another window has saved this frame meanwhile. */
async function compare() {
  if (!maps.corr || document.hidden) return;
  const found = await json(at()).catch(() => null);
  if (!found || found.tag === frame.tag || found.number !== frame.number) return;
  if (isDirty()) conflict({ save: found.save });
  else await open(frame.number, frame.window);
}
