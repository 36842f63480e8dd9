"use strict";
// The page of `monkeylib demo`. Texts become text nodes; the one piece of markup is the SVG that the server draws.

const at = (id) => document.getElementById(id);
const state = { image: "", name: "", start: null, history: [], attached: [], captions: null };

// --- small tools

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function fillTable(table, rows) {
  table.replaceChildren(...rows.map((row) => {
    const line = make("tr");
    line.append(...row.map((cell) => make("td", cell)));
    return line;
  }));
}

function fillSelect(select, options, chosen) {
  // A base model has no tiles.
  const label = (option) => (option === "0x0" ? "one view" : option);
  select.replaceChildren(...options.map((option) => new Option(label(option), option, false, option === chosen)));
}

function press(group, pressed) {
  for (const button of group.querySelectorAll("button")) button.setAttribute("aria-pressed", button === pressed);
}

function report(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  return response;
}

// Calls a function with each server-sent event.
async function stream(path, body, onEvent, signal) {
  const reader = (await post(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new Error(parsed.error.message);
      onEvent(parsed);
    }
  }
}

// Runs what a form does; a second call ends the first.
const running = {};
async function run(name, element, action) {
  running[name]?.abort();
  const controller = running[name] = new AbortController();
  report(null);
  element.classList.add("busy");
  try {
    await action(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted) report(error);
  } finally {
    if (running[name] === controller) element.classList.remove("busy");
  }
}

const readFile = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
  reader.readAsDataURL(file);
});

const imagePart = (url) => ({ type: "image_url", image_url: { url } });
const userMessage = (images, text) =>
  ({ role: "user", content: [...images.map(imagePart), { type: "text", text }] });

// --- the image

function useImage(url, name = "") {
  state.image = url;
  state.name = name;
  at("image").src = url;
  for (const button of at("samples").children) {
    button.setAttribute("aria-pressed", button.dataset.name === name);
  }
  listQuestions();
  forgetChat();
  clearAttention();
  clearCaptions();
  emptyColumns();
  showTiles();
}

async function useFile(file) {
  if (!file) return;
  if (file.size > state.start.max_bytes) {
    return report(new Error(`${file.name} is too large for this demo: take a smaller image`));
  }
  report(null);
  useImage(await readFile(file));
}

async function useSample(name) {
  const response = await fetch(`/samples/${encodeURIComponent(name)}`);
  useImage(await readFile(await response.blob()), name);
}

function listQuestions() {
  const questions = state.start.questions.filter((question) => question.image === state.name);
  at("questions").replaceChildren(...questions.map((question) => {
    const item = make("li");
    const button = make("button", question.question, { type: "button" });
    if (question.text_size === "fine") button.append(" ", make("small", "small print"));
    button.onclick = () => chooseQuestion(question.question);
    item.append(button);
    return item;
  }));
  at("note").textContent = state.name ? "" : "The small models know only the kinds of images of the samples.";
}

function chooseQuestion(text) {
  at("question").value = at("attention-question").value = at("utterance").value = text;
  const form = document.querySelector(".tab:not([hidden]) form");
  if (form.id !== "describe") form.requestSubmit();
}

const groundTruth = (text) =>
  state.start.questions.find((one) => one.image === state.name && one.question === text)?.ground_truth || "";

// --- answers side by side

function emptyColumns() {
  at("columns").replaceChildren(...state.start.titles.map((title) => {
    const column = make("div", "", { class: "column" });
    column.append(make("small"), make("h3", title), make("p"));
    return column;
  }));
  at("ground-truth").hidden = true;
}

function answer(event) {
  event.preventDefault();
  const question = at("question").value;
  emptyColumns();
  const columns = [...at("columns").children];
  const texts = {};
  run("answers", at("columns"), async (signal) => {
    const body = { messages: [userMessage([state.image], question)], grid: answerGrid() };
    await stream("/api/answers", body, (event) => {
      Object.assign(texts, event.texts);
      columns.forEach((column, n) => {
        column.querySelector("p").textContent = texts[state.start.titles[n]] ?? "";
      });
    }, signal);
    mark(columns, groundTruth(question));
  });
}

function mark(columns, truth) {
  at("ground-truth").hidden = !truth;
  at("ground-truth").textContent = `Right answer: ${truth}`;
  if (!truth) return;
  for (const column of columns) {
    const isRight = column.querySelector("p").textContent.trim().toLowerCase() === truth.toLowerCase();
    column.classList.add(isRight ? "right" : "wrong");
    column.querySelector("small").textContent = isRight ? "✓ right" : "✗ wrong";
  }
}

// A grid that the model has no LoRA for can be seen, but not answered with.
const answerGrid = () => (state.start.answer_grids.includes(at("grid").value) ? at("grid").value : "");

function showTiles() {
  run("tiles", at("grid-image"), async (signal) => {
    const grid = at("grid").value;
    const tiles = await (await post("/api/tiles", { image: state.image, grid }, signal)).json();
    at("grid-image").src = tiles.grid;
    at("views-image").src = tiles.views;
    const rows = tiles.rows;
    if (grid && state.start.answer_grids.length && !answerGrid()) {
      rows.push(["note", "the model has no LoRA for this grid, and answers with its own"]);
    }
    fillTable(at("facts"), rows);
  });
}

// --- chat

function forgetChat() {
  running.chat?.abort();
  state.history = [];
  state.attached = [];
  at("turns").replaceChildren();
  showAttached();
}

function showAttached() {
  at("attached").replaceChildren(...state.attached.map((url) => make("img", "", { src: url, alt: "attached" })));
}

function addTurn(role, images, text) {
  const turn = make("div", "", { class: `turn ${role}` });
  turn.append(...images.map((url) => make("img", "", { src: url, alt: "" })), make("span", text));
  at("turns").append(turn);
  return turn.querySelector("span");
}

function say(event) {
  event.preventDefault();
  const text = at("utterance").value;
  // The image of the page stands before the first question.
  const images = [...(state.history.length ? [] : [state.image]), ...state.attached];
  const title = at("speaker").value;
  const message = userMessage(images, text);
  addTurn("user", images, text);
  const reply = addTurn("assistant", [], "…");
  at("utterance").value = "";
  state.attached = [];
  showAttached();

  run("chat", at("turns"), async (signal) => {
    const messages = [...state.history, message];
    let said = "";
    try {
      await stream("/api/answers", { messages, titles: [title] }, (event) => {
        said = event.texts[title];
        reply.textContent = said;
      }, signal);
    } catch (error) {
      reply.textContent = "(no answer)";
      throw error;
    }
    reply.textContent = said;
    state.history = [...messages, { role: "assistant", content: said }];
  });
}

// --- attention

function clearAttention() {
  at("tokens").replaceChildren();
  at("shares").replaceChildren();
  at("overlay").hidden = true;
}

function look(event) {
  event.preventDefault();
  run("attention", at("attention"), async (signal) => {
    const body = { image: state.image, question: at("attention-question").value };
    const { tokens, maps } = await (await post("/api/attention", body, signal)).json();
    at("tokens").replaceChildren(...tokens.map((token, n) => {
      const button = make("button", n ? visible(token) : "all tokens", { type: "button" });
      button.onclick = () => showMap(button, maps[n]);
      return button;
    }));
    showMap(at("tokens").firstChild, maps[0]);
  });
}

const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "↵");

function showMap(button, map) {
  press(at("tokens"), button);
  at("overlay").src = map.image;
  at("overlay").hidden = false;
  fillTable(at("shares"), map.shares);
  for (const row of at("shares").rows) {
    const bar = make("span", "", { class: "bar" });
    bar.style.width = `${parseFloat(row.cells[1].textContent)}px`;
    row.cells[1].prepend(bar);
  }
}

// --- captions

function clearCaptions() {
  state.captions = null;
  for (const id of ["stages", "annotated", "caption-rows", "thresholds"]) at(id).replaceChildren();
}

function describe(event) {
  event?.preventDefault();
  const stage = state.captions?.stage;
  const experts = [...at("experts").querySelectorAll("input:checked")].map((input) => input.value);
  // Other experts have other thresholds.
  if (String(experts) !== String(state.captions?.experts)) at("thresholds").replaceChildren();
  const thresholds = Object.fromEntries(
    [...at("thresholds").querySelectorAll("input")].map((input) => [input.name, Number(input.value)]));
  run("captions", at("annotated"), async (signal) => {
    const body = { image: state.image, experts, thresholds };
    const result = await (await post("/api/captions", body, signal)).json();
    state.captions = { ...result, experts, stage: Math.min(stage ?? Infinity, result.stages.length - 1) };
    at("stages").replaceChildren(...result.stages.map(({ stage }, n) => {
      const button = make("button", stage, { type: "button" });
      button.onclick = () => showStage(n);
      return button;
    }));
    if (!at("thresholds").children.length) listThresholds(result.thresholds);
    showStage(state.captions.stage);
  });
}

function listThresholds(thresholds) {
  at("thresholds").replaceChildren(...Object.entries(thresholds).map(([name, value]) => {
    const label = make("label", name.replaceAll("_", " "));
    const input = make("input", "", { type: "range", min: 0, max: 1, step: 0.05, name, value });
    const output = make("output", value);
    input.oninput = () => { output.textContent = input.value; };
    input.onchange = () => { state.captions.stage = Infinity; describe(); };
    label.append(input, output);
    return label;
  }));
}

function showStage(number) {
  state.captions.stage = number;
  press(at("stages"), at("stages").children[number]);
  at("annotated").innerHTML = state.captions.stages[number].svg;
  fillTable(at("caption-rows"), state.captions.stages[number].rows);
}

// --- the page

function showTab(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.setAttribute("aria-selected", tab.dataset.tab === name);
    at(tab.dataset.tab).hidden = tab.dataset.tab !== name;
  }
  report(null);
}

async function start() {
  state.start = await (await fetch("/api/start")).json();
  const { model, grid, grids, titles, samples, experts, has_attention } = state.start;
  at("model").textContent = `Model: ${model}.`;
  fillSelect(at("grid"), grids.includes(grid) ? grids : [grid, ...grids], grid);
  fillSelect(at("speaker"), titles, titles.at(-1));
  at("experts").append(...experts.map((name) => {
    const label = make("label");
    const input = make("input", "", { type: "checkbox", value: name });
    input.checked = true;
    label.append(input, ` ${name}`);
    return label;
  }));
  if (!experts.length) at("experts").textContent = "No expert's files are here: `monkeylib assets fetch` gets them.";

  document.querySelector("[data-tab=attention]").hidden = !has_attention;

  at("samples").replaceChildren(...samples.map((name) => {
    const button = make("button", "", { type: "button", title: name, "data-name": name });
    button.append(make("img", "", { src: `/samples/${encodeURIComponent(name)}`, alt: name }));
    button.onclick = () => useSample(name);
    return button;
  }));

  at("file").onchange = (event) => useFile(event.target.files[0]);
  at("more").onchange = async (event) => {
    for (const file of event.target.files) state.attached.push(await readFile(file));
    showAttached();
  };
  at("drop").ondragover = (event) => { event.preventDefault(); at("drop").classList.add("over"); };
  at("drop").ondragleave = () => at("drop").classList.remove("over");
  at("drop").ondrop = (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    useFile(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => useFile([...event.clipboardData.files].find((file) => file.type.startsWith("image/")));

  for (const tab of document.querySelectorAll("[role=tab]")) tab.onclick = () => showTab(tab.dataset.tab);
  at("ask").onsubmit = answer;
  at("grid").onchange = showTiles;
  at("say").onsubmit = say;
  at("forget").onclick = forgetChat;
  at("look").onsubmit = look;
  at("describe").onsubmit = describe;

  await useSample(samples[0]);
  document.body.dataset.ready = "yes";
}

start().catch(report);
