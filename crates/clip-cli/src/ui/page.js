"use strict";
const at = (id) => document.getElementById(id);
// Text from files and folders only ever becomes text, never markup.
const make = (tag, text) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text });

async function ask(address, body) {
  const options = body === undefined ? {} : { method: "POST", body };
  const answer = await fetch(address, options).catch(() => null);
  if (!answer) throw new Error("the server does not answer");
  const value = await answer.json().catch(() => ({ error: answer.statusText || "the upload was refused" }));
  if (!answer.ok) throw new Error(value.error);
  return value;
}

// Pictures dropped so far: those whose labels change are asked about again.
const dropped = [];

async function classify(entry) {
  // Labels may change while a picture is being classified, so only the last request's answer is shown.
  const turn = entry.turn = (entry.turn ?? 0) + 1;
  const labels = at("labels").value;
  entry.list.replaceChildren();
  entry.note.className = "";
  entry.note.textContent = "…";
  try {
    const found = await ask("/api/classify?labels=" + encodeURIComponent(labels), entry.file);
    if (turn !== entry.turn) return;
    entry.note.textContent = entry.file.name;
    for (const { label, probability } of found.slice(0, 5)) {
      const row = make("li");
      const bar = Object.assign(make("progress"), { max: 1, value: probability });
      bar.setAttribute("aria-label", label);
      row.append(make("span", label), make("span", (100 * probability).toFixed(1) + "%"), bar);
      entry.list.append(row);
    }
  } catch (error) {
    if (turn !== entry.turn) return;
    entry.note.className = "error";
    entry.note.textContent = entry.file.name + ": " + error.message;
  }
}

async function drop(files) {
  for (const file of files) {
    const [card, image, note, list] = [make("li"), make("img"), make("p"), make("ol")];
    card.className = "card";
    image.alt = file.name;
    image.src = URL.createObjectURL(file);
    card.append(image, note, list);
    at("pictures").prepend(card);
    const entry = { file, note, list };
    dropped.push(entry);
    await classify(entry);
  }
}

// Searches so far: answers may come in another order than their questions.
let searches = 0;

async function search(answer) {
  const turn = searches += 1;
  at("search-error").textContent = "";
  try {
    const found = await answer;
    if (turn !== searches) return;
    at("found").replaceChildren(...found.map(({ id, path, cosine }) => {
      const [item, image] = [make("li"), make("img")];
      image.alt = path;
      image.loading = "lazy";
      image.src = "/image/" + id;
      item.title = path;
      item.append(image, make("span", cosine.toFixed(3) + "  " + path));
      return item;
    }));
  } catch (error) {
    if (turn !== searches) return;
    at("search-error").textContent = error.message;
  }
}

at("file").addEventListener("change", (event) => { drop([...event.target.files]); event.target.value = ""; });
const over = (is) => (event) => { event.preventDefault(); at("drop").classList.toggle("over", is); };
at("drop").addEventListener("dragover", over(true));
at("drop").addEventListener("dragleave", over(false));
at("drop").addEventListener("drop", (event) => { over(false)(event); drop([...event.dataTransfer.files]); });
at("drop").addEventListener("keydown", (event) => { if (event.key === "Enter") at("file").click(); });
at("labels").addEventListener("change", async () => { for (const entry of dropped) await classify(entry); });
at("query-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search(ask("/api/search?q=" + encodeURIComponent(at("query").value)));
});
at("query-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) search(ask("/api/search", file));
  event.target.value = "";
});
const isHere = /^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname);
const secured = location.protocol === "https:" ? "." : ", unencrypted.";
at("where").textContent = isHere ? "Pictures stay on this machine." : "Pictures are sent to " + location.host + secured;
ask("/api/about").then(({ model, folder, images }) => {
  at("about").textContent = model;
  at("search").hidden = folder === null;
  if (folder !== null) at("folder").textContent = folder + " (" + images + " images)";
}).catch((error) => { at("about").textContent = error.message; });
