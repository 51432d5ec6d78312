"use strict";
// The images of this session, and one of them large. A file is held until its image is deleted or older
// than the most that are kept; nothing is written anywhere.

const kept = { images: 200, bytes: 256 * 2 ** 20 }; // whichever is reached first
let gallery = []; // newest first: {url, bytes, seed, size, steps, extension, fields, picture, card}
let shown = null; // the entry that the dialog shows

function addToGallery(entry) {
  const card = byId("card").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(name);
  part("img").src = entry.url;
  part("img").alt = entry.fields.prompt;
  part(".thumb").setAttribute("aria-label", `Open large: ${entry.fields.prompt}`);
  part(".thumb").addEventListener("click", () => openLarge(entry));
  part(".seed").textContent = `Seed ${entry.seed}`;
  part(".settings").textContent = settingsText(entry);
  part(".settings").title = settingsText(entry);
  part(".reuse").addEventListener("click", () => reuse(entry));
  part(".delete").addEventListener("click", () => remove(entry));
  saveBy(part(".save"), entry);
  entry.card = card;
  gallery.unshift(entry);
  byId("gallery").prepend(card);
  byId("session").hidden = false;
  while (gallery.length > kept.images || (gallery.length > 10 && bytesHeld() > kept.bytes)) {
    remove(gallery.at(-1));
  }
}

const bytesHeld = () => gallery.reduce((sum, entry) => sum + entry.bytes, 0);

function settingsText({ size, steps, fields }) {
  const parts = [size, `${steps} steps`];
  if (fields.guidance) parts.push(`guidance ${fields.guidance}`);
  if (fields.true_cfg_scale) parts.push(`true CFG ${fields.true_cfg_scale}`);
  if (fields.lora) parts.push(fields.lora);
  return `${parts.join(" · ")} · ${fields.prompt}`;
}

function saveBy(link, entry) {
  const words = entry.fields.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  link.href = entry.url;
  link.download = `${[...words.slice(0, 8), entry.seed].join("-").slice(-100)}.${entry.extension}`;
}

function reuse(entry) {
  fillForm(entry.fields);
  if (byId("large").open) byId("large").close();
  byId("prompt").focus();
}

/** Forgets an image: its file's memory is given back. */
function remove(entry) {
  const index = gallery.indexOf(entry);
  gallery.splice(index, 1);
  const next = gallery[index] ?? gallery[index - 1];
  const hadFocus = entry.card.contains(document.activeElement);
  entry.card.remove();
  entry.picture.remove();
  URL.revokeObjectURL(entry.url);
  byId("session").hidden = gallery.length === 0;
  byId("empty").hidden = byId("pictures").childElementCount > 0;
  if (hadFocus) (next?.card.querySelector(".thumb") ?? byId("prompt")).focus();
  if (shown === entry && byId("large").open) next ? openLarge(next) : byId("large").close();
}

function openLarge(entry) {
  shown = entry;
  byId("large-image").src = entry.url;
  byId("large-image").alt = entry.fields.prompt;
  byId("large-text").textContent = `Seed ${entry.seed} · ${settingsText(entry)}`;
  saveBy(byId("large-save"), entry);
  byId("before").disabled = gallery[0] === entry;
  byId("after").disabled = gallery.at(-1) === entry;
  if (!byId("large").open) byId("large").showModal();
}

function moveBy(places) {
  const entry = gallery[gallery.indexOf(shown) + places];
  if (entry) openLarge(entry);
}
