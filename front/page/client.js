"use strict";
// Asks the server, which is the one that this page came from, and reads what it answers.

const brokenOff = "The connection ended before the image was complete.";

const byId = (id) => document.getElementById(id);

/** What the server refused, or why it could not be asked. `param` names a field of the request. */
class Refusal extends Error {
  constructor(message, param = "", status = 0) {
    super(message);
    Object.assign(this, { param, status });
  }
}

async function ask(path, options = {}) {
  const headers = {};
  const key = byId("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  // A form says by itself where its parts end.
  if (typeof options.body === "string") headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server does not answer.");
  }
  if (!response.ok) throw refusalOf(await response.text(), response.status);
  return response;
}

function refusalOf(text, status) {
  try {
    const { message, param } = JSON.parse(text).error;
    return new Refusal(message, param ?? "", status);
  } catch {
    return new Refusal(`The server answered with status ${status}.`, "", status);
  }
}

/** The events of a stream. EventSource cannot send a request with a body. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let open = ""; // a line whose end has not come; an image is one line, of megabytes
  let name = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Refusal(brokenOff);
    });
    if (done) return;
    const lines = value.split("\n");
    lines[0] = open + lines[0];
    open = lines.pop();
    for (const line of lines.map((each) => each.replace(/\r$/, ""))) {
      const [, field, text] = /^([^:]*):? ?([^]*)$/.exec(line);
      if (field === "event") name = text;
      if (field === "data") data.push(text);
      if (line !== "") continue;
      if (data.length > 0) yield { name, data: data.join("\n") };
      name = "";
      data = [];
    }
  }
}
