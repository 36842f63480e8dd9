"""The script of report.html: turning the page, filter, order, search, and reviews of captions.

It works on the attributes `data-…` of the articles, and adds nothing of the records as HTML.
"""

SCRIPT = r"""
"use strict";
(() => {
  const page = document.querySelector(".monkey-page");
  const controls = page.querySelector(".controls");
  const list = page.querySelector(".articles");
  const articles = [...list.querySelectorAll("article")];
  const find = name => controls.querySelector(`[name=${name}]`);
  const size = 20;
  const key = article => JSON.stringify([article.dataset.name, article.dataset.sha256]);
  let first = 0;

  // Reviews stay in the browser until they are saved.
  const storage = "monkeylib-reviews:" + location.pathname;
  let reviews = {};
  try { reviews = JSON.parse(localStorage.getItem(storage)) || {}; } catch (error) { /* not allowed */ }

  const orders = {
    rank: (a, b) => a.dataset.rank - b.dataset.rank || a.dataset.number - b.dataset.number,
    number: (a, b) => a.dataset.number - b.dataset.number,
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name),
    confirmed: (a, b) => share(a) - share(b) || a.dataset.number - b.dataset.number,
  };
  // Images without statements come last.
  const share = article => article.dataset.confirmed === "" ? 2 : Number(article.dataset.confirmed);

  function show() {
    const outcome = find("outcome").value;
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const selected = articles.filter(article => {
      const text = (article.dataset.name + " " + article.textContent).toLowerCase();
      return (!outcome || article.dataset.outcome === outcome) && words.every(word => text.includes(word));
    });
    selected.sort(orders[find("order").value]);

    first = Math.max(0, Math.min(first, Math.floor((selected.length - 1) / size) * size));
    const displayed = selected.slice(first, first + size);
    articles.forEach(article => { article.hidden = true; });
    displayed.forEach(article => { article.hidden = false; list.append(article); });

    const last = first + displayed.length;
    controls.querySelector(".place").textContent =
      selected.length ? `${first + 1}–${last} of ${selected.length}` : "none";
    find("previous").disabled = first === 0;
    find("next").disabled = last >= selected.length;
  }

  function turn(step) {
    first += step * size;
    show();
    list.scrollIntoView();
  }

  function save() {
    const lines = Object.values(reviews).map(review => JSON.stringify(review) + "\n");
    const link = controls.querySelector(".save");
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob(lines, {type: "application/x-ndjson"}));
    link.textContent = `save reviews (${lines.length})`;
    try { localStorage.setItem(storage, JSON.stringify(reviews)); } catch (error) { /* not allowed */ }
  }

  function addReview(article) {
    const form = document.createElement("div");
    form.className = "review";
    const text = document.createElement("textarea");
    text.rows = 3;
    text.setAttribute("aria-label", "caption");
    const generated = article.dataset.caption;
    const earlier = reviews[key(article)];
    const current = earlier && earlier.generated === generated ? earlier : null;
    text.value = current && current.caption || generated;

    const buttons = ["accept", "correct", "reject"].map(verdict => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = verdict;
      button.addEventListener("click", () => decide(verdict));
      return button;
    });
    const mark = verdict => buttons.forEach(
      button => button.classList.toggle("chosen", button.textContent === verdict));

    function decide(verdict) {
      const caption = text.value.trim();
      // There is nothing to accept without a caption. A text that was changed corrects, and one that was not
      // is accepted.
      if (verdict !== "reject" && !caption) return;
      if (verdict !== "reject") verdict = caption !== generated ? "correct" : "accept";
      const review = {name: article.dataset.name, sha256: article.dataset.sha256, verdict, generated};
      if (verdict === "correct") review.caption = caption;
      reviews[key(article)] = review;
      mark(verdict);
      save();
    }

    if (current) mark(current.verdict);
    form.append(text, ...buttons);
    article.lastElementChild.append(form);
  }

  articles.forEach(article => { if (article.dataset.sha256) addReview(article); });
  ["outcome", "order", "search"].forEach(
    name => find(name).addEventListener("input", () => { first = 0; show(); }));
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  controls.hidden = false;
  save();
  show();
})();
"""
