// The page's behaviour: draws the charts with Vega, and lists single questions. No request is ever made.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  function node(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // Charts

  const tip = document.body.appendChild(node("div", { id: "tip", role: "status", hidden: "" }));
  function tooltip(_handler, event, _item, value) {
    tip.hidden = !value;
    if (!value) return;
    tip.textContent = value;
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const top = Math.min(event.clientY + 14, innerHeight - height - 6);
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${Math.max(6, top)}px`;
  }

  const views = new Map();
  function draw(figure) {
    const place = $(`#${figure.id} .chart`);
    const chosen = $(`#${figure.id} [name=variant]:checked, #${figure.id} select[name=variant]`);
    const spec = figure.variants[chosen ? Number(chosen.value) : 0];
    const shown = new Set($$("#shown input:checked").map((box) => box.value));
    const keep = (row) => row.policy === undefined || shown.has(row.policy);
    const filtered = { ...spec, data: spec.data.map((d) => ({ ...d, values: d.values.filter(keep) })) };
    views.get(figure.id)?.finalize();
    const view = new vega.View(vega.parse(filtered, data.config), { renderer: "svg", container: place, hover: true });
    view.tooltip(tooltip);
    views.set(figure.id, view);
    return view.runAsync();
  }
  const drawAll = () => Promise.all(data.figures.map(draw));
  for (const figure of data.figures) {
    for (const choice of $$(`#${figure.id} [name=variant]`)) choice.addEventListener("change", () => draw(figure));
  }
  for (const box of $$("#shown input")) box.addEventListener("change", drawAll);
  addEventListener("scroll", () => (tip.hidden = true), { passive: true });

  // Single questions

  const PAGE = 25;
  const browser = data.browser;
  function questions() {
    const { questions: asked, calls, policies, pool } = browser;
    const form = $("#questions form");
    const list = $("#questions .list");
    const count = $("#questions output");
    const text = asked.text.map((t, i) => `${asked.id[i]} ${t ?? ""} ${asked.reference[i] ?? ""}`.toLowerCase());
    const at = (column, i) => (column === null || column[i] === null ? null : column[i]);
    const words = (column, i) => (at(column, i) === null ? null : pool[column[i]]);
    const right = (name, i) => policies[name].right[i] === "1";
    const empty = (name, i) => words(policies[name].answer, i) === "";
    let page = 0;

    const TESTS = {
      all: () => true,
      harm: (full, ours) => full && !ours,
      help: (full, ours) => !full && ours,
      wrong: (full, ours) => !full && !ours,
      right: (full, ours) => full && ours,
      empty: (_full, _ours, name, i) => empty(name, i),
      cut: (_full, _ours, name, i) => !["natural", null].includes(words(policies[name].stop, i)),
    };
    function found() {
      const { policy, outcome, group, level, search } = Object.fromEntries(new FormData(form));
      const wanted = search.trim().toLowerCase();
      const test = TESTS[outcome];
      const differs = (i) => Number(right("full", i) !== right(policy, i));
      const order = calls.map((_, i) => i).sort((a, b) => differs(b) - differs(a));
      return order.filter((i) => {
        const q = calls[i][0];
        return test(right("full", i), right(policy, i), policy, i)
          && (!group || asked.group[q] === group) && (!level || asked.level[q] === level)
          && (!wanted || text[q].includes(wanted));
      });
    }
    const mark = (good) => node("span", { class: good ? "right" : "wrong" }, good ? "✓ right" : "✗ wrong");

    function row(name, i) {
      const column = policies[name];
      const answer = words(column.answer, i);
      const cells = [
        mark(right(name, i)), at(column.tokens, i)?.toLocaleString("en") ?? "n/a",
        at(column.seconds, i) ?? "n/a", words(column.stop, i) ?? "",
      ];
      const last = node("td", { class: "answer" }, answer === "" ? "(no answer)" : answer ?? "(not kept)");
      return node("tr", {}, node("th", { scope: "row" }, name), ...cells.map((c) => node("td", {}, c)), last);
    }
    function thoughts(i) {
      return Object.keys(policies).flatMap((name) => {
        const thought = words(policies[name].thinking, i);
        if (thought === null) return [];
        const ended = words(policies[name].stop, i);
        const how = ended && ended !== "natural" ? `thinking at the cut (${ended})` : "end of the thinking";
        return [node("details", {}, node("summary", {}, `${name}: ${how}`), node("pre", {}, thought))];
      });
    }
    function body(i) {
      const q = calls[i][0];
      const heads = ["policy", "result", "tokens", "seconds", "thinking ended", "answer"];
      const head = node("tr", {}, ...heads.map((h) => node("th", { scope: "col" }, h)));
      const rows = Object.keys(policies).map((name) => row(name, i));
      const parts = [node("pre", {}, asked.text[q] ?? "(the text was not recorded)")];
      if (asked.reference[q] !== null) parts.push(node("p", {}, "Reference: ", node("strong", {}, asked.reference[q])));
      parts.push(node("div", { class: "scroll" }, node("table", {}, node("thead", {}, head), node("tbody", {}, ...rows))));
      return node("div", { class: "body" }, ...parts, ...thoughts(i));
    }
    function entry(i, policy) {
      const [q, sample, model] = calls[i];
      const about = [asked.id[q], asked.level[q] && `${data.difficulty} ${asked.level[q]}`, sample && `sample ${sample}`, model];
      const results = node("span", {}, node("small", {}, "full "), mark(right("full", i)));
      if (policy !== "full") results.append(node("br"), node("small", {}, "policy "), mark(right(policy, i)));
      const summary = node("summary", {}, results, node("span", {},
        node("span", { class: "text" }, asked.text[q] ?? asked.id[q]),
        node("small", {}, about.filter(Boolean).join(" · "))));
      const made = node("details", { class: "question" }, summary);
      made.addEventListener("toggle", () => made.open && !$(".body", made) && made.append(body(i)));
      return made;
    }
    function show() {
      const hits = found();
      const pages = Math.max(1, Math.ceil(hits.length / PAGE));
      page = Math.min(page, pages - 1);
      const policy = form.elements.policy.value;
      list.replaceChildren(...hits.slice(page * PAGE, (page + 1) * PAGE).map((i) => entry(i, policy)));
      count.textContent = `${hits.length.toLocaleString("en")} of ${calls.length.toLocaleString("en")} calls`;
      $("#questions .pager span").textContent = `page ${page + 1} of ${pages}`;
      $("#questions [name=before]").disabled = page === 0;
      $("#questions [name=after]").disabled = page === pages - 1;
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    // Not both events for all: the change of a search would take away the question that is being clicked.
    for (const field of form.elements) {
      field.addEventListener(field.name === "search" ? "input" : "change", () => ((page = 0), show()));
    }
    for (const [name, step] of [["before", -1], ["after", 1]]) {
      $(`#questions [name=${name}]`).addEventListener("click", () => {
        page += step;
        show();
        $("#questions").scrollIntoView();
      });
    }
    show();
  }

  if (browser) questions();
  drawAll().then(() => (document.documentElement.dataset.ready = String(performance.now())));
})();
